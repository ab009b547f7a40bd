"Rankers: leak-free examples, one interface, the choice, and what is saved."

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from recsys_nb.data import DataError, Dataset, UnknownIdError, World
from recsys_nb.recommenders.base import BaseRecommender
from recsys_nb.recommenders.baselines import ItemKNN
from recsys_nb.recommenders.candidates import (
    find_ranks,
    gather_candidates,
    list_candidates,
    merge_lists,
    score_sources,
)
from recsys_nb.recommenders.evidence import CONTEXT, ItemEvidence
from recsys_nb.recommenders.pairs import make_examples, past_before, split_head
from recsys_nb.recommenders.ranker import (
    RANKERS,
    BoostedRanker,
    DLRMRanker,
    LogisticRanker,
)
from recsys_nb.recommenders.ranker_choice import choose_ranker
from recsys_nb.recommenders.ranker_data import prepare_examples

FAST = {
    "dlrm": {"dim": 4, "epochs": 6, "lr": 5e-3, "device": "cpu"},
    "logistic": {},
    "boosted": {"trees": 10},
}


class Cosine(BaseRecommender):
    "Items by the cosine of who took them."

    learnt = ("similar_",)

    def learn(self, train):
        taken = self.histories_.matrix().toarray()
        lengths = np.sqrt((taken**2).sum(0)) + 1
        self.similar_ = (taken.T @ taken / np.outer(lengths, lengths)).astype("f4")

    def score_all(self, histories):
        return histories.matrix() @ self.similar_


@pytest.fixture(scope="module")
def log():
    return World(n_users=300, n_items=80, seed=1).sample(12_000)


@pytest.fixture(scope="module")
def taken_without_times(log):
    frame = log.positives().interactions[["user_id", "item_id"]].drop_duplicates()
    return Dataset.from_frame(frame, items=log.items)


def make_parts(log, seed=0):
    head, held = split_head(log, seed=seed)
    sources = {"cosine": Cosine().fit(head.positives())}
    return head, held, sources


@pytest.fixture(scope="module")
def examples(log):
    return make_examples(*make_parts(log), candidates=20)


def make_pairs(log, source, n=50):
    frame = log.labelled().iloc[:n]
    frame = frame.sort_values("user_id", kind="stable")
    owner = np.arange(n)
    rows = source.user_ids_.get_indexer(frame.user_id)
    past = source.histories_.take(rows)
    items = source.item_ids_.get_indexer(frame.item_id)
    return past, owner, items


def test_head_and_held_share_no_event_and_no_future(log):
    head, held = split_head(log)
    assert len(head) + len(held) == len(log)
    last = head.interactions.groupby("user_id").timestamp.max()
    first = held.interactions.groupby("user_id").timestamp.min()
    both = pd.concat([last, first], axis=1, keys=["last", "first"]).dropna()
    assert len(both) > 100
    assert (both["last"] < both["first"]).all()


def test_each_user_with_two_positives_has_a_held_one(taken_without_times):
    head, held = split_head(taken_without_times, share=0.2)
    counts = taken_without_times.interactions.user_id.value_counts()
    n_held = held.interactions.user_id.value_counts()
    n_held = n_held.reindex(counts.index).fillna(0)
    expected = np.where(counts > 1, np.maximum(1, (counts * 0.2).astype(int)), 0)
    assert (n_held == expected).all()


def test_without_times_the_order_of_rows_changes_nothing(taken_without_times):
    log = taken_without_times
    rows = np.random.default_rng(3).permutation(len(log))
    shuffled = log.replace(log.interactions.iloc[rows])
    ours = make_examples(*make_parts(log), candidates=20)
    theirs = make_examples(*make_parts(shuffled), candidates=20)
    names = ("owner", "items", "label", "source_ranks", "source_scores", "users")
    for name in names:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(ours.histories.items, theirs.histories.items)
    models = [
        LogisticRanker().learn(e, d) for e, d in [(ours, log), (theirs, shuffled)]
    ]
    assert models[0].valid_log_loss_ == pytest.approx(models[1].valid_log_loss_, 1e-6)


def test_with_times_rows_of_one_moment_may_come_in_any_order(log):
    rows = np.random.default_rng(3).permutation(len(log))
    shuffled = log.replace(log.interactions.iloc[rows])
    ours = make_examples(*make_parts(log), candidates=20)
    theirs = make_examples(*make_parts(shuffled), candidates=20)
    for name in ("owner", "items", "label", "source_ranks", "users"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_sources_and_histories_know_nothing_of_what_is_held(log, examples):
    head, held, _ = make_parts(log)
    candidate = (examples.context.shown == 0).to_numpy()
    taken = set(
        zip(
            held.positives().interactions.user_id,
            held.positives().interactions.item_id,
            strict=True,
        )
    )
    for row in np.flatnonzero(candidate & (examples.label > 0))[:20]:
        user = log.user_ids[examples.users[row]]
        assert (user, log.item_ids[examples.items[row]]) in taken
    first = np.flatnonzero(candidate)[0]
    user = examples.users[first]
    past = examples.histories.take([examples.owner[first]]).items
    mine = head.positives().interactions
    mine = mine[mine.user_id == log.user_ids[user]]
    assert sorted(past) == sorted(head.item_ids.get_indexer(mine.item_id))


def test_candidates_are_labelled_by_the_held_part_and_ranked_by_their_source(examples):
    candidate = (examples.context.shown == 0).to_numpy()
    assert set(np.unique(examples.label)) == {0, 1}
    assert (examples.source_ranks[candidate] > 0).all()
    assert (examples.source_ranks[~candidate] == 0).all()
    assert (np.diff(examples.owner) >= 0).all()
    owner = examples.owner[np.flatnonzero(candidate)[0]]
    mine = examples.owner == owner
    by_rank = examples.source_scores[mine, 0][
        np.argsort(examples.source_ranks[mine, 0])
    ]
    assert (np.diff(by_rank) <= 0).all()


def test_kinds(log):
    head, held, sources = make_parts(log)
    made = {
        kind: make_examples(head, held, sources, 20, kind)
        for kind in ("exposures", "candidates", "random")
    }
    auto = make_examples(head, held, sources, 20)
    assert len(auto) == len(made["exposures"]) + len(made["candidates"])
    assert len(made["exposures"]) == len(held.labelled())
    assert made["random"].label.sum() > made["candidates"].label.sum()
    with pytest.raises(ValueError, match="kinds must be"):
        make_examples(head, held, sources, 20, "all")
    with pytest.raises(DataError, match="every event of the log is a positive"):
        make_examples(head, held.positives(), sources, 20, "exposures")


def test_past_before_a_moment_is_strictly_before_it(log):
    taken = log.positives().interactions.sort_values("timestamp", kind="stable")
    user = taken.user_id.value_counts().index[0]
    mine = taken[taken.user_id == user]
    at = mine.timestamp.to_numpy().astype(np.int64)
    code = log.user_ids.get_indexer([user])[0]
    past = past_before(log, np.full(len(at), code), at)
    sizes = np.diff(past.offsets)
    expected = [(mine.timestamp < time).sum() for time in mine.timestamp]
    assert sizes.tolist() == expected
    assert (
        past_before(log, np.array([code]), at[-1:], length=2).items.tolist()
        == (
            log.item_ids.get_indexer(
                mine.item_id[mine.timestamp < mine.timestamp.max()]
            )[-2:]
        ).tolist()
    )


@pytest.mark.parametrize("name", RANKERS)
def test_each_ranker_is_better_than_the_share_and_comes_back_from_its_state(
    name, log, examples
):
    ranker = RANKERS[name](**FAST[name]).learn(examples, log)
    held = np.isin(examples.users, ranker.valid_users_)
    share, label = examples.label[~held].mean(), examples.label[held]
    constant = -np.log(np.where(label > 0, share, 1 - share)).mean()
    assert ranker.valid_log_loss_ < constant
    source = Cosine().fit(log.positives())
    past, owner, items = make_pairs(log, source)
    scores = score_sources({"cosine": source}, past, owner, items)
    ranks = np.ones_like(scores)
    logits = ranker.predict_pairs(past, owner, items, scores, ranks)
    assert logits.dtype == np.float32 and np.isfinite(logits).all()
    assert logits.std() > 0.01
    settings, arrays = ranker.state()
    settings = json.loads(json.dumps(settings))
    again = RANKERS[name].from_state(settings, arrays, source.catalogue_)
    np.testing.assert_array_equal(
        again.predict_pairs(past, owner, items, scores, ranks), logits
    )
    same = RANKERS[name](**FAST[name]).learn(examples, log)
    np.testing.assert_array_equal(
        same.predict_pairs(past, owner, items, scores, ranks), logits
    )


def test_unknown_scores_are_allowed(log, examples):
    ranker = LogisticRanker().learn(examples, log)
    source = Cosine().fit(log.positives())
    past, owner, items = make_pairs(log, source)
    unknown = np.full((len(items), 1), np.nan, np.float32)
    logits = ranker.predict_pairs(past, owner, items, unknown, np.zeros_like(unknown))
    assert np.isfinite(logits).all()


def test_the_choice_is_the_best_or_a_simpler_equal(log, examples):
    rankers = {name: RANKERS[name](**FAST[name]) for name in RANKERS}
    choice = choose_ranker(examples, log, rankers)
    table = choice.to_frame().set_index("ranker")
    assert table.chosen.sum() == 1 and table.chosen[choice.chosen]
    assert table.low[choice.chosen] <= 0
    simpler = [n for n in RANKERS if RANKERS[n].rank < RANKERS[choice.chosen].rank]
    assert (table.low[simpler] > 0).all()
    assert choice.chosen in repr(choice)
    with pytest.raises(ValueError, match="rankers is empty"):
        choose_ranker(examples, log, {})


@pytest.mark.parametrize("name", RANKERS)
def test_alone_with_one_source(name, log):
    source = Cosine().fit(log.positives())
    ranker = RANKERS[name](candidates=20, **FAST[name]).fit(log, source)
    frame = log.labelled().iloc[:200]
    p = ranker.predict(frame)
    assert p.shape == (200,) and ((p > 0) & (p < 1)).all()
    backwards = ranker.predict(frame.iloc[::-1])
    np.testing.assert_allclose(backwards[::-1], p, atol=1e-6)
    with pytest.raises(UnknownIdError, match="not in the catalogue"):
        ranker.predict(pd.DataFrame({"user_id": ["u"], "item_id": ["nothing"]}))


def test_exposures_are_told_from_candidates(log):
    source = Cosine().fit(log.positives())
    ranker = DLRMRanker(candidates=20, epochs=6, dim=4, lr=5e-3).fit(log, source)
    assert "shown" in ranker.features_.usual
    frame = log.labelled().iloc[:100]
    past, owner, items = make_pairs(log, source, 100)
    scores = score_sources({"retriever": source}, past, owner, items)
    as_candidates = ranker.predict_pairs(past, owner, items, scores, 0 * scores)
    assert (
        ranker.predict(frame).mean() > 1.5 * (1 / (1 + np.exp(-as_candidates))).mean()
    )


def test_without_exposures_auto_is_candidates(taken_without_times):
    source = Cosine().fit(taken_without_times)
    frame = taken_without_times.interactions
    made = [
        LogisticRanker(examples=kind, candidates=20).fit(taken_without_times, source)
        for kind in ("auto", "candidates")
    ]
    assert made[0].features_.usual == {}
    np.testing.assert_array_equal(made[0].predict(frame), made[1].predict(frame))


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_calibrated_ranker_learns_from_exposures_and_is_saved(kind, log):
    source = Cosine().fit(log.positives())
    ranker = LogisticRanker(calibration=kind).fit(log, source)
    assert "shown" not in ranker.features_.usual
    settings, arrays = ranker.state()
    again = LogisticRanker.from_state(settings, arrays, source.catalogue_)
    again.retriever_ = source
    frame = log.labelled().iloc[:50]
    np.testing.assert_array_equal(again.predict(frame), ranker.predict(frame))


def test_merged_lists_have_each_item_once_and_the_rank_of_each_source(log):
    one, two = Cosine().fit(log.positives()), Cosine().fit(log.positives())
    past = one.histories_.take(np.arange(5))
    cold = np.diff(past.offsets) == 0
    lists = list_candidates({"one": one, "two": two}, past, 10, cold=cold)
    owner, items = merge_lists(lists, past.n_items)
    ranks = find_ranks(lists, owner * past.n_items + items)
    assert len(set(zip(owner, items, strict=True))) == len(owner)
    np.testing.assert_array_equal(ranks[:, 0], ranks[:, 1])
    found, _ = one.top_items(past, cold, 10)
    first = [items[(owner == user) & (ranks[:, 0] == 1)][0] for user in range(5)]
    assert first == found[:, 0].tolist()


def test_errors_name_the_remedy(log, examples):
    with pytest.raises(NotFittedError, match="call .fit"):
        DLRMRanker().predict(log.interactions)
    with pytest.raises(NotFittedError, match="predict_pairs"):
        LogisticRanker().learn(examples, log).predict(log.interactions)
    with pytest.raises(ValueError, match="examples must be"):
        DLRMRanker(examples="none")
    with pytest.raises(ValueError, match="calibration must be"):
        BoostedRanker(calibration="none")
    with pytest.raises(ValueError, match="share must be"):
        split_head(log, share=1)
    assert list(CONTEXT) == ["position", "hour", "weekday", "shown"]


@pytest.mark.parametrize("seed", range(3))
def test_a_dlrm_is_not_worse_than_its_logistic_start(examples, log, seed):
    "On the users left out, however bad the training was."
    prepared = prepare_examples(examples, log, seed=seed)
    logistic = LogisticRanker(seed=seed).learn(prepared, log)
    for lr in (1e-3, 1.0):
        dlrm = DLRMRanker(seed=seed, lr=lr, epochs=2, device="cpu")
        dlrm.learn(prepared, log)
        assert dlrm.valid_log_loss_ <= logistic.valid_log_loss_ + 1e-6


def test_a_logistic_start_needs_a_linear_term():
    with pytest.raises(ValueError, match="logistic_start=False"):
        DLRMRanker(linear=False)
    assert not DLRMRanker(linear=False, logistic_start=False).settings.linear


def test_evidence_is_made_anew_for_a_longer_log_only(log):
    head, _ = split_head(log)
    known = ItemEvidence.of(head)
    assert known.of_longer(head) is known
    longer = known.of_longer(log)
    expected = ItemEvidence.of(log)
    assert (longer.numbers == expected.numbers).all()
    assert (longer.together != expected.together).nnz == 0
    assert (longer.numbers != known.numbers).any()


def test_evidence_takes_what_goes_together_from_a_fitted_source(log):
    source = ItemKNN().fit(log.positives())
    ours, theirs = ItemEvidence.of(log, source.weights_), ItemEvidence.of(log)
    assert (ours.together != theirs.together).nnz == 0
    np.testing.assert_array_equal(ours.numbers, theirs.numbers)


def test_rankers_and_recommenders_merge_lists_in_one_way(log):
    head, held = split_head(log)
    sources = {
        "one": ItemKNN().fit(head.positives()),
        "two": Cosine().fit(head.positives()),
    }
    made = make_examples(head, held, sources, candidates=15, kinds="candidates")
    found = gather_candidates(sources, made.histories, 15)
    np.testing.assert_array_equal(made.owner, found.owner)
    np.testing.assert_array_equal(made.items, found.items)
    np.testing.assert_array_equal(made.source_ranks, found.ranks)
