"What no reader wants of the metrics: many random inputs against trec_eval and scikit-learn, kinds of ids, odd input, size."
import json
import pickle
import tracemalloc

import matplotlib
import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from recsys_nb.data import Dataset
from recsys_nb.metrics import MetricsError, ProtocolError, RecommendationsError, compare, compute_metrics, evaluate, ranker_metrics

matplotlib.use("agg")
TREC = {"P_{}": "precision", "recall_{}": "recall", "ndcg_cut_{}": "ndcg", "map_cut_{}": "map", "recip_rank": "mrr", "success_{}": "hit_rate"}


def random_case(seed):
    "Lists of unequal length with tied scores in trec_eval's order (score, then id, backwards), and truths that overlap them in part."
    rng = np.random.default_rng(seed); n_users, n_items = rng.integers(2, 200), rng.integers(5, 120)
    recs = pd.DataFrame(np.argwhere(rng.random((n_users, n_items)) < rng.beta(1, 2, (n_users, 1))), columns=["user_id", "item_id"]).astype(str)
    recs["score"] = rng.integers(1, 6, size=len(recs)).astype(float)
    recs = recs.sort_values(["user_id", "score", "item_id"], ascending=[True, False, False]); recs["rank"] = recs.groupby("user_id").cumcount() + 1
    truth = pd.DataFrame(np.argwhere(rng.random((n_users + 5, n_items)) < rng.beta(.5, 3, (n_users + 5, 1))), columns=["user_id", "item_id"]).astype(str)
    truth.loc[len(truth)] = recs.iloc[0][["user_id", "item_id"]]
    return recs.sample(frac=1, random_state=seed), pd.concat([truth, truth.sample(frac=.3, random_state=seed)])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [1, 3, 10, 200])
def test_every_user_as_in_trec_eval(seed, k):
    recs, truth = random_case(seed)
    nest = lambda df, values: {u: dict(zip(g.item_id, values(g))) for u, g in df.groupby("user_id")}
    asked = {n.format(f"~{k}").replace("_~", ".") for n in TREC}
    found = pytrec_eval.RelevanceEvaluator(nest(truth, lambda g: [1] * len(g)), asked).evaluate(nest(recs[recs["rank"] <= k], lambda g: g.score.tolist()))
    theirs = pd.DataFrame(found).T.sort_index().rename(columns={n.format(k): f"{m}@{k}" for n, m in TREC.items()})
    ours = evaluate(recs, truth, k=k, missing="drop", map_denominator="relevant", n_boot=0)
    pd.testing.assert_frame_equal(ours.per_user, theirs[ours.per_user.columns], check_names=False, check_index_type=False, atol=1e-12)
    zero = evaluate(recs, truth, k=k, map_denominator="relevant", n_boot=0)
    assert zero.counts["users"] == truth.user_id.nunique() and ours.counts["users"] + zero.counts["without_recommendations"] == zero.counts["users"]
    np.testing.assert_allclose(zero.values * zero.counts["users"], theirs[ours.per_user.columns].sum(), atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_kind_of_id_and_the_order_of_rows_change_nothing(seed):
    recs, truth = random_case(seed); plain = evaluate(recs, truth, k=(2, 7), items=recs.item_id, popularity=recs.item_id.value_counts(), n_boot=20)
    for kind in ("category", object, "string"):
        other = evaluate(recs.astype({"user_id": kind, "item_id": kind}), truth, k=(2, 7), items=recs.item_id, popularity=recs.item_id.value_counts(), n_boot=20)
        pd.testing.assert_series_equal(other.values, plain.values); pd.testing.assert_frame_equal(other.draws, plain.draws)
    ints = [d.astype({"user_id": int, "item_id": int}) for d in (recs, truth)]
    pd.testing.assert_series_equal(evaluate(*ints, k=(2, 7), n_boot=0).values, plain.values.drop(["coverage@2", "coverage@7", "novelty@2", "novelty@7"]))
    assert evaluate(recs.sort_values("rank").assign(rank=lambda d: d["rank"].astype(float)), truth, k=2, n_boot=0)["map@2"] == plain["map@2"]


def test_a_dataset_as_truth_means_its_positives():
    recs = pd.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "rank": [1, 2]})
    events = pd.DataFrame({"user_id": [1, 1, 2], "item_id": ["a", "b", "b"], "event_type": ["view", "click", "view"]})
    ds = Dataset(events, positive=("click",))
    report = evaluate(recs, ds, k=1)
    assert report["hit_rate@1"] == 0 and report.counts["users"] == 1
    assert evaluate(recs, ds, k=2)["hit_rate@2"] == 1 and evaluate(recs, Dataset(events), k=1)["hit_rate@1"] == .5


def test_no_hits_no_lists_and_only_coverage():
    recs, truth = pd.DataFrame({"user_id": [1], "item_id": [5], "rank": [1]}), pd.DataFrame({"user_id": [1, 2], "item_id": [6, 6]})
    assert (evaluate(recs, truth).values == 0).all() and (evaluate(recs[:0], truth).values == 0).all()
    only = evaluate(recs, truth, k=1, metrics="coverage", items=[5, 6])
    assert only["coverage@1"] == .5 and list(only.values.index) == ["coverage@1"] and len(only.per_user) == 2
    assert np.isnan(evaluate(recs[:0], truth, k=1, metrics="novelty", popularity=pd.Series({5: 1}))["novelty@1"])
    assert json.loads(json.dumps(evaluate(recs, truth, n_boot=0).to_dict()))["metrics"]["ndcg@10"] == {"value": 0.0, "low": None, "high": None}


@pytest.mark.parametrize("column,value,message", [("rank", [0, 1], "has rank 0"), ("rank", [1.5, 1], "has rank 1.5"), ("rank", [None, 1], "rank is null in row 0"), ("rank", [1, 1], "two items at rank 1"),
    ("rank", [1, 3], "none at rank 2"), ("item_id", [4, 4], "user 7 is recommended item 4 more than once"), ("user_id", [None, 7], "user_id is null"), ("user_id", ["7", "7"], "of one type")])
def test_bad_lists_are_named(column, value, message):
    recs = pd.DataFrame({"user_id": [7, 7], "item_id": [4, 5], "rank": [1, 2]}).assign(**{column: value})
    with pytest.raises(MetricsError, match=message): evaluate(recs, pd.DataFrame({"user_id": [7, 8], "item_id": [5, 5]}))


@pytest.mark.parametrize("seed", range(8))
def test_one_list_and_ranker_as_in_scikit_learn(seed):
    rng = np.random.default_rng(seed); n = int(rng.integers(20, 3000)); y = rng.random(n) < .3; y[:2] = True, False
    p = rng.integers(1, 50, size=n) / 50 if seed % 2 else rng.random(n).astype("float32"); users = rng.integers(0, 30, size=n)
    report = ranker_metrics(y, p, users, n_boot=5)
    assert report["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-12) and report["log_loss"] == pytest.approx(log_loss(y, p), rel=1e-6)
    mixed = [u for u in np.unique(users) if 0 < y[users == u].sum() < (users == u).sum()]; each = [roc_auc_score(y[users == u], p[users == u]) for u in mixed]
    assert report["gauc"] == pytest.approx(np.mean(each), abs=1e-12)
    assert ranker_metrics(y, p, users, gauc_weights="rows", n_boot=0)["gauc"] == pytest.approx(np.average(each, weights=[(users == u).sum() for u in mixed]), abs=1e-12)
    np.testing.assert_allclose(report.draws.shape, (5, 4))
    order = rng.permutation(n).astype(float); k = int(rng.integers(1, 2 * n)); m = compute_metrics(y.astype(int), order, k)
    assert m[f"ndcg@{k}"] == pytest.approx(ndcg_score([y], [order], k=k), abs=1e-12)
    assert m[f"precision@{k}"] == pytest.approx(y[np.argsort(-order)[:k]].mean()) and m[f"recall@{k}"] == pytest.approx(y[np.argsort(-order)[:k]].sum() / y.sum())


def test_one_class_warns_and_gives_nan():
    with pytest.warns(UserWarning, match="only the class 1"): m = compute_metrics([1, 1, 1], [.1, .2, .3], 2)
    assert np.isnan(m["auc"]) and m["recall@2"] == pytest.approx(2 / 3) and m["ndcg@2"] == 1
    with pytest.warns(UserWarning, match="recall and ndcg"): m = compute_metrics([0, 0], [.1, .2], 2)
    assert np.isnan([m["auc"], m["recall@2"], m["ndcg@2"]]).all() and m["precision@2"] == 0


def test_influence_of_every_metric_is_its_derivative():
    "Removing one user moves each metric by its share of the influence, to second order: the jackknife agrees."
    rng = np.random.default_rng(0); users = np.repeat(np.arange(200), 15); y = rng.random(3000) < rng.beta(1, 3, 200)[users]; p = rng.random(3000) * .9 + .05
    report = ranker_metrics(y, p, users, n_boot=4000)
    without = [ranker_metrics(y[users != u], p[users != u], users[users != u], n_boot=0).values for u in range(200)]
    jackknife = pd.DataFrame(without).std(ddof=0) * 199 / 200**.5
    np.testing.assert_allclose(report.draws.std() / jackknife[report.draws.columns], 1, atol=.06)


def test_comparison_is_paired_and_guarded():
    recs, truth = random_case(3); a = evaluate(recs, truth, k=5, name="a"); worse = recs[recs["rank"] > 1].assign(rank=lambda d: d["rank"] - 1)
    c = compare(a, evaluate(worse, truth, k=5, name="b")); f = c.to_frame()
    np.testing.assert_allclose(f.difference, f.b - f.a); assert (f.low <= f.difference).all() and (f.difference <= f.high).all() and f.p.between(0, 1).all()
    np.testing.assert_allclose(c.per_user.mean(), f.difference, atol=1e-12)
    assert c.plot().get_title() and a.plot().get_title() and "b − a" in repr(c)
    for change in ({"seed": 1}, {"n_boot": 10}, {"k": 4}, {"missing": "drop"}, {"level": .9}, {"metrics": ["ndcg"]}):
        with pytest.raises(ProtocolError, match=next(iter(change))): compare(a, evaluate(recs, truth, **({"k": 5} | change)))
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(a)).draws, a.draws)


def test_a_hundred_thousand_lists_in_little_memory():
    n, K, n_items = 100_000, 20, 5_000; rng = np.random.default_rng(0)
    items = (rng.integers(n_items, size=(n, 1)) + 7 * np.arange(K)) % n_items
    recs = pd.DataFrame({"user_id": np.repeat(np.arange(n), K), "item_id": items.ravel(), "rank": np.tile(np.arange(1, K + 1), n)})
    truth = pd.DataFrame({"user_id": np.tile(np.arange(n), 5), "item_id": rng.integers(n_items, size=5 * n)})
    tracemalloc.start(); report = evaluate(recs, truth, items=range(n_items), popularity=truth.item_id.value_counts(), n_boot=20); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert peak < 300e6 and report.counts["users"] == n and report["precision@10"] == pytest.approx(5 / n_items, rel=.1)
