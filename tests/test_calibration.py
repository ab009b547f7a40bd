"""Calibration from end to end: a calibrated ranker in every form it is kept in, and
refusals."""

import json

import numpy as np
import pandas as pd
import pytest

from recsys_nb.data import World
from recsys_nb.evaluation import (
    IsotonicCalibrator,
    MetricsError,
    PlattCalibrator,
    by_segment,
    calibrator,
    reliability,
)
from recsys_nb.recommenders import (
    DLRMRanker,
    Recommender,
    TwoTowerRetriever,
    predict_shown,
)


@pytest.fixture(scope="module")
def shop():
    return World(n_users=300, n_items=100, seed=1).sample(8_000)


@pytest.fixture(scope="module", params=["platt", "isotonic"])
def calibrated(request, shop):
    towers = {"Two-Tower": TwoTowerRetriever(dim=8, epochs=2, profile="sparse")}
    return Recommender(
        towers, DLRMRanker(epochs=2, calibration=request.param), answer="two stages"
    ).fit(shop)


def test_saved_and_loaded(calibrated, shop, tmp_path):
    shown = shop.labelled().head(500)
    again = Recommender.load(calibrated.save(tmp_path / "model"))
    assert np.array_equal(predict_shown(again, shown), predict_shown(calibrated, shown))
    pd.testing.assert_frame_equal(again.recommend(k=5), calibrated.recommend(k=5))
    assert not [
        p
        for p in (tmp_path / "model").iterdir()
        if p.suffix in (".pkl", ".pickle", ".pt")
    ]


def test_exported_probabilities_are_the_calibrated_ones(calibrated, tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    from recsys_nb.serving import Exported, export

    served, k = Exported(export(calibrated, tmp_path / "onnx")), calibrated.ranker_
    past, items = calibrated.histories_.take(np.array([3])), np.arange(40)
    owner, nothing = np.zeros(40, int), np.zeros((40, 1), np.float32)
    dense, sparse = k.features_.raw(k.evidence_, past, owner, items, nothing, nothing)
    there = 1 / (1 + np.exp(-served.logits(dense.numpy(), sparse.numpy())))
    here = 1 / (1 + np.exp(-k.predict_pairs(past, owner, items, nothing, nothing)))
    raw = (
        k.model_.model(k.features_.standardise(dense), sparse)
        .sigmoid()
        .detach()
        .numpy()
    )
    assert np.abs(there - here).max() < 1e-5 < np.abs(raw - here).max()


@pytest.mark.parametrize("make", [PlattCalibrator, IsotonicCalibrator])
@pytest.mark.parametrize("seed", range(5))
def test_monotone_and_within_bounds(make, seed):
    rng = np.random.default_rng(seed)
    p = rng.beta(0.3, 0.8, 3000).clip(0, 1)
    p[:20] = [0.0, 1.0] * 10
    y = rng.random(3000) < p ** rng.uniform(0.3, 3)
    q = calibrator(json.loads(json.dumps(make().fit(y, p).to_dict()))).transform(
        np.sort(p)
    )
    assert (np.diff(q) >= 0).all() and q.min() >= 0 and q.max() <= 1


def test_true_probabilities_look_calibrated_and_others_do_not():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(20):
        p = rng.beta(1, 3, 4000)
        y = rng.random(4000) < p
        assert (
            reliability(y, p**2, n_boot=0)["ece"]
            > 4 * reliability(y, p, n_boot=0)["ece_by_chance"]
        )
        r = by_segment(y, p, np.zeros(4000), n_boot=300)
        inside += (r.low <= 1).all() and (r.high >= 1).all()
    assert inside >= 16  # of 20 at 95%


def test_what_cannot_be_calibrated(shop):
    with pytest.raises(MetricsError, match="empty"):
        reliability([], [])
    with pytest.raises(MetricsError, match="n_bins"):
        reliability([0, 1], [0.1, 0.2], n_bins=3)
    with pytest.raises(ValueError, match="temperature"):
        DLRMRanker(calibration="temperature")
    with pytest.raises(MetricsError, match="between 0 and 1"):
        IsotonicCalibrator().transform([1.2])
