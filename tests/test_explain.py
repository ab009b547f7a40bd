"Shares of a score: they add up, they are Shapley values, and refusals."

from copy import deepcopy
from itertools import permutations

import numpy as np
import pytest
import torch

from recsys_nb.data import DataError, World
from recsys_nb.recommenders import EASE, DLRMRanker, Recommender, TwoTowerRetriever
from recsys_nb.recommenders.candidates import gather_candidates
from recsys_nb.recommenders.explain import (
    explain_ranker,
    group_inputs,
    score_on_the_way,
    split_score,
    why,
)


@pytest.fixture(scope="module")
def shop():
    return World(n_users=300, n_items=100, seed=1).sample(8_000)


def make_recommender(shop, **changes):
    sources = {
        "EASE": EASE(),
        "Two-Tower": TwoTowerRetriever(dim=8, epochs=2, profile="noisy"),
    }
    ranker = DLRMRanker(epochs=2, **changes)
    return Recommender(sources, ranker, answer="two stages").fit(shop)


@pytest.fixture(scope="module", params=[None, "platt"])
def recommender(request, shop):
    return make_recommender(shop, calibration=request.param)


def make_score(seed):
    "A function of 4 numbers and 2 codes in which all depend on each other."
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(9, 6, generator=generator)
    table = torch.randn(5, generator=generator)

    def score(dense, sparse):
        inputs = torch.cat([dense, table[sparse]], 1)
        return torch.tanh(inputs @ weights.T).prod(1) * 10 + inputs.prod(1)

    return score


def make_pair(seed, n=7):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(n + 1, 4, generator=generator)
    sparse = torch.randint(5, (n + 1, 2), generator=generator)
    return (dense[0], sparse[0]), (dense[1:], sparse[1:])


GROUPS = np.array([0, 1, 1, 2]), np.array([3, 0])


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_shapley_values_by_all_orders(seed):
    score, (item, others) = make_score(seed), make_pair(seed)
    exact = np.zeros(4)
    for order in permutations(range(4)):
        way = np.array(order)
        exact[way] += np.diff(score_on_the_way(score, item, others, GROUPS, way)) / 24
    found = split_score(score, item, others, GROUPS, draws=600)
    np.testing.assert_allclose(found, exact, atol=0.1 * np.abs(exact).max())


@pytest.mark.parametrize("seed", range(5))
def test_the_way_is_that_of_mixed_inputs_one_at_a_time(seed):
    score, (item, others) = make_score(seed), make_pair(seed)
    order = np.random.default_rng(seed).permutation(4)
    values = score_on_the_way(score, item, others, GROUPS, order)
    for step in range(5):
        dense, sparse = (part.clone() for part in others)
        for group in order[:step]:
            for mixed, own, groups in zip((dense, sparse), item, GROUPS, strict=True):
                columns = np.flatnonzero(groups == group)
                mixed[:, columns] = own[columns]
        expected = score(dense, sparse).double().mean().item()
        assert values[step] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("draws", [1, 8])
def test_shares_add_up_for_every_item(recommender, draws):
    "Recommended or not, by few orders or by many."
    users, items = recommender.user_ids_[:40:8], recommender.item_ids_[:100:25]
    for user in users:
        for item in items:
            found = why(recommender, user, item, draws=draws)
            assert np.isfinite(found.features.share.astype(float)).all()
            assert found.gap < 1e-3


def test_every_input_of_a_ranker_is_in_a_group(recommender):
    ranker = recommender.ranker_
    names, groups = group_inputs(ranker.features_)
    past = recommender.histories_.take(np.array([5]))
    found = gather_candidates(recommender.sources_, past, recommender.candidates)
    known = found.scores, found.ranks
    inputs = ranker.features_.raw(
        ranker.evidence_, past, found.owner, found.items, *known
    )
    assert [part.shape[1] for part in inputs] == [len(part) for part in groups]
    assert set(np.concatenate(groups)) == set(range(len(names)))
    shares = explain_ranker(ranker, found, past, 0, 4, 0)
    assert shares.index.tolist() == names


def test_an_explanation_is_repeatable(recommender):
    user, item = recommender.user_ids_[3], recommender.item_ids_[3]
    one, other = (why(recommender, user, item, seed=2) for _ in range(2))
    assert one.features.equals(other.features) and one.history.equals(other.history)


def test_why_needs_something_known(recommender):
    with pytest.raises(DataError, match="nothing is known"):
        why(recommender, "nobody", recommender.item_ids_[0])


def test_scores_that_are_not_finite_are_refused(recommender):
    recommender = deepcopy(recommender)
    with torch.no_grad():
        for weights in recommender.ranker_.model_.parameters():
            weights.fill_(torch.nan)
    user, item = recommender.user_ids_[3], recommender.item_ids_[3]
    with pytest.raises(FloatingPointError, match="nan in the ranker's weights"):
        why(recommender, user, item)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_single_bad_score_is_enough(bad):
    item, others = make_pair(0)

    def score(dense, sparse):
        scores = dense.sum(1)
        scores[-1] = bad
        return scores

    with pytest.raises(FloatingPointError, match="nan or infinite"):
        split_score(score, item, others, GROUPS)
