"Calibration from end to end: a calibrated ranker in every form it is kept in, refusals, and shares against another implementation of integrated gradients."
import json

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_nb.calibration import IsotonicCalibrator, PlattCalibrator, by_segment, calibrator, reliability
from recsys_nb.data import DataError
from recsys_nb.recommenders import _in_double, _integrated, _logits, _network, _pairs, _shares, why
from recsys_nb.metrics import MetricsError
from recsys_nb.recommenders import DLRMRanker, Recommender, TwoTowerRetriever
from recsys_nb.simulate import World


@pytest.fixture(scope="module")
def shop(): return World(n_users=300, n_items=100, seed=1).sample(8_000)


@pytest.fixture(scope="module", params=["platt", "isotonic"])
def calibrated(request, shop): return Recommender(TwoTowerRetriever(dim=8, epochs=2), DLRMRanker(epochs=2, calibration=request.param)).fit(shop)


def test_saved_and_loaded(calibrated, shop, tmp_path):
    shown = shop.labelled().head(500)
    again = Recommender.load(calibrated.save(tmp_path/"model"))
    assert np.array_equal(again.ranker.predict(shown), calibrated.ranker.predict(shown))
    pd.testing.assert_frame_equal(again.recommend(k=5), calibrated.recommend(k=5))
    assert not [p for p in (tmp_path/"model").iterdir() if p.suffix in (".pkl", ".pickle", ".pt")]


def test_exported_probabilities_are_the_calibrated_ones(calibrated, tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"): pytest.importorskip(module)
    from recsys_nb.serve import Exported, export
    served, k = Exported(export(calibrated, tmp_path/"onnx")), calibrated.ranker
    h, items = calibrated.histories.take(np.array([3])), np.arange(40)
    sparse, dense = k._pairs(k.retriever, k.evidence, h, np.zeros(40, int), items, k.usual.expand(40, -1))
    there = 1 / (1 + np.exp(-served.logits(dense.numpy(), sparse.numpy())))
    here = 1 / (1 + np.exp(-k.logits(h, np.zeros(40, int), items)))
    raw = _network(k)((dense - k.mean) / k.std, sparse).sigmoid().detach().numpy()
    assert np.abs(there - here).max() < 1e-5 < np.abs(raw - here).max()


@pytest.mark.parametrize("make", [PlattCalibrator, IsotonicCalibrator])
@pytest.mark.parametrize("seed", range(5))
def test_monotone_and_within_bounds(make, seed):
    rng = np.random.default_rng(seed); p = rng.beta(.3, .8, 3000).clip(0, 1); p[:20] = [0., 1.] * 10
    y = rng.random(3000) < p ** rng.uniform(.3, 3)
    q = calibrator(json.loads(json.dumps(make().fit(y, p).to_dict()))).transform(np.sort(p))
    assert (np.diff(q) >= 0).all() and q.min() >= 0 and q.max() <= 1


def test_true_probabilities_look_calibrated_and_others_do_not():
    rng = np.random.default_rng(0); inside = 0
    for _ in range(20):
        p = rng.beta(1, 3, 4000); y = rng.random(4000) < p
        assert reliability(y, p ** 2, n_boot=0)["ece"] > 4 * reliability(y, p, n_boot=0)["ece_by_chance"]
        r = by_segment(y, p, np.zeros(4000), n_boot=300); inside += (r.low <= 1).all() and (r.high >= 1).all()
    assert inside >= 16 # of 20 at 95%


def test_what_cannot_be_calibrated(shop):
    with pytest.raises(MetricsError, match="empty"): reliability([], [])
    with pytest.raises(MetricsError, match="n_bins"): reliability([0, 1], [.1, .2], n_bins=3)
    with pytest.raises(ValueError, match="not 'temperature'"): DLRMRanker(calibration="temperature")
    with pytest.raises(MetricsError, match="between 0 and 1"): IsotonicCalibrator().transform([1.2])


def test_random_examples_hold_every_positive_and_nothing_seen(shop):
    retriever = TwoTowerRetriever(dim=8, epochs=1).fit(shop.positives())
    for how, made in (("random", DLRMRanker(examples="random", candidates=20)), ("candidates", DLRMRanker(examples="candidates", candidates=20))):
        h, owner, items, label, _ = made._candidates(shop)(np.ones(len(shop.user_ids), bool), retriever)
        seen = set(zip(np.repeat(np.arange(len(h)), np.diff(h.offsets)).tolist(), h.items.tolist()))
        assert not seen & set(zip(owner.tolist(), items.tolist())) and (np.diff(owner) >= 0).all() and 0 < label.mean() < 1, how


def test_shares_against_a_plain_sum_over_the_path(calibrated):
    h, items = calibrated.histories.take(np.array([5])), np.arange(30); net = _in_double(_network(calibrated.ranker))
    _, dense, vectors = _pairs(calibrated, h, items); x, base = (dense[0], vectors[0]), (dense[1:].mean(0), vectors[1:].mean(0))
    sums, n = [torch.zeros_like(t) for t in x], 4000
    for a in (np.arange(n) + .5) / n: # one point at a time, evenly, and backward instead of autograd.grad
        point = [(b + a * (t - b)).detach().clone().requires_grad_() for t, b in zip(x, base)]
        _logits(net, *(p[None] for p in point)).sum().backward()
        for s, p in zip(sums, point): s += p.grad / n
    shares = _integrated(net, x, base, 1e-6)
    assert torch.allclose(shares[0], (x[0] - base[0]) * sums[0], atol=1e-4, rtol=0)
    assert torch.allclose(shares[1], ((x[1] - base[1]) * sums[1]).sum(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-8])
def test_shares_add_up_within_the_tolerance(calibrated, tol):
    for row in range(0, 40, 4):
        h = calibrated.histories.take(np.array([row]))
        found, there, baseline = _shares(calibrated, h, row % 7, np.arange(10, 60), tol)
        assert abs(found.share.sum() - (there - baseline)) <= tol


def test_weights_that_are_nan_are_an_error(shop):
    bad = Recommender(TwoTowerRetriever(dim=8, epochs=1), DLRMRanker(epochs=1)).fit(shop)
    with torch.no_grad(): next(_network(bad.ranker).top.parameters())[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"): why(bad, bad.user_ids[0], bad.item_ids[0])


def test_ablation_is_the_logit_with_the_group_at_the_baseline(calibrated):
    h = calibrated.histories.take(np.array([7])); others = np.arange(1, 40)
    found, there, _ = _shares(calibrated, h, 0, others, 1e-4); k = calibrated.ranker
    sparse, dense = k._pairs(k.retriever, k.evidence, h, np.zeros(40, int), np.arange(40), k.usual.expand(40, -1))
    dense = (dense - k.mean) / k.std; j = 5 # a group of a single number
    without = dense[:1].clone(); without[0, j] = dense[1:, j].mean()
    with torch.no_grad(): assert found.ablation.iloc[j] == pytest.approx(there - k.model(without, sparse[:1]).item(), abs=1e-5)


def test_why_needs_something_known(calibrated):
    with pytest.raises(DataError, match="nothing is known"): why(calibrated, "nobody", calibrated.item_ids[0])
