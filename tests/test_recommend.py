"""What the default ranker learns from."""
import numpy as np
import pytest
import torch

from recsys_nb.recommend import DLRMRanker, TwoTowerRetriever, _context
from recsys_nb.simulate import World


@pytest.fixture(scope="module")
def log(): return World(n_users=200, n_items=80, seed=1).sample(4_000)


@pytest.fixture(scope="module")
def retriever(log): return TwoTowerRetriever(dim=8, epochs=1).fit(log.positives())


def of(examples, **more): return DLRMRanker(**{"dim": 4, "epochs": 1, "candidates": 20, "examples": examples} | more)


def test_auto_learns_from_exposures_and_candidates_and_tells_them_apart(log, retriever):
    both, shown, brought = (of(e)._data(log, retriever) for e in ("auto", "exposures", "candidates"))
    was_shown = both["sparse"][:, -1] == 1
    for k in ("dense", "label", "user"): assert torch.equal(both[k][was_shown], shown[k]) and torch.equal(both[k][~was_shown], brought[k])
    assert torch.equal(both["sparse"][was_shown, :-1], shown["sparse"]) and (both["sparse"][~was_shown, -1] == 0).all()


def test_auto_orders_as_candidates_and_predicts_as_shown(log, retriever):
    k = of("auto", epochs=8, lr=1e-2).fit(log, retriever); frame = log.labelled().iloc[:50]
    assert k.context[-1] == "shown" and k.usual[0, -1] == 0
    trained = k._data(log, retriever)["sparse"]; trained = trained[trained[:, -1] == 0]
    assert (trained[:, -len(k.context):] == k.usual).all() # in service a candidate has the codes of training
    h = retriever.histories.take(retriever.user_ids.get_indexer(frame.user_id)); items = retriever.item_ids.get_indexer(frame.item_id)
    asked = lambda context: 1 / (1 + np.exp(-k.logits(h, np.arange(50), items, context)))
    np.testing.assert_allclose(k.predict(frame), asked(_context(frame, k.context)), atol=1e-5)
    assert k.predict(frame).mean() > 1.5 * asked(None).mean() # most candidates are not taken


def test_without_exposures_auto_is_candidates(log, retriever):
    taken = log.positives(); auto, candidates = (of(e).fit(taken, retriever) for e in ("auto", "candidates"))
    assert auto.context == []
    np.testing.assert_array_equal(auto.predict(taken.interactions), candidates.predict(taken.interactions))


def test_a_calibrated_auto_learns_from_exposures_alone(log, retriever):
    made = of("auto", calibration="platt"); data = made._data(log, retriever)
    assert "shown" not in made.context and torch.equal(data["sparse"], of("exposures")._data(log, retriever)["sparse"])
