"""What no reader wants of the metrics: many random inputs against trec_eval and
scikit-learn, kinds of ids, odd input, size."""

import json
import math
import pickle
import tracemalloc

import matplotlib
import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from recsys_nb.data import Dataset
from recsys_nb.evaluation import (
    ACCURACY,
    MetricsError,
    ProtocolError,
    compare,
    compare_all,
    compute_metrics,
    evaluate,
    ranker_metrics,
)

matplotlib.use("agg")
TREC = {
    "P_{}": "precision",
    "recall_{}": "recall",
    "ndcg_cut_{}": "ndcg",
    "map_cut_{}": "map",
    "recip_rank": "mrr",
    "success_{}": "hit_rate",
}


def random_case(seed):
    """Lists of unequal length with tied scores in trec_eval's order (score, then id,
    backwards), and truths that overlap them in part."""
    rng = np.random.default_rng(seed)
    n_users, n_items = rng.integers(2, 200), rng.integers(5, 120)
    recs = pd.DataFrame(
        np.argwhere(rng.random((n_users, n_items)) < rng.beta(1, 2, (n_users, 1))),
        columns=["user_id", "item_id"],
    ).astype(str)
    recs["score"] = rng.integers(1, 6, size=len(recs)).astype(float)
    recs = recs.sort_values(
        ["user_id", "score", "item_id"], ascending=[True, False, False]
    )
    recs["rank"] = recs.groupby("user_id").cumcount() + 1
    truth = pd.DataFrame(
        np.argwhere(
            rng.random((n_users + 5, n_items)) < rng.beta(0.5, 3, (n_users + 5, 1))
        ),
        columns=["user_id", "item_id"],
    ).astype(str)
    truth.loc[len(truth)] = recs.iloc[0][["user_id", "item_id"]]
    return recs.sample(frac=1, random_state=seed), pd.concat(
        [truth, truth.sample(frac=0.3, random_state=seed)]
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [1, 3, 10, 200])
def test_every_user_as_in_trec_eval(seed, k):
    recs, truth = random_case(seed)

    def nest(df, values):
        return {
            u: dict(zip(g.item_id, values(g), strict=False))
            for u, g in df.groupby("user_id")
        }

    asked = {n.format(f"~{k}").replace("_~", ".") for n in TREC}
    found = pytrec_eval.RelevanceEvaluator(
        nest(truth, lambda g: [1] * len(g)), asked
    ).evaluate(nest(recs[recs["rank"] <= k], lambda g: g.score.tolist()))
    theirs = (
        pd.DataFrame(found)
        .T.sort_index()
        .rename(columns={n.format(k): f"{m}@{k}" for n, m in TREC.items()})
    )
    options = {"metrics": list(TREC.values()), "map_denominator": "relevant"}
    ours = evaluate(recs, truth, k=k, missing="drop", n_boot=0, **options)
    pd.testing.assert_frame_equal(
        ours.per_user,
        theirs[ours.per_user.columns],
        check_names=False,
        check_index_type=False,
        atol=1e-12,
    )
    zero = evaluate(recs, truth, k=k, n_boot=0, **options)
    assert (
        zero.counts["users"] == truth.user_id.nunique()
        and ours.counts["users"] + zero.counts["without_recommendations"]
        == zero.counts["users"]
    )
    np.testing.assert_allclose(
        zero.values * zero.counts["users"],
        theirs[ours.per_user.columns].sum(),
        atol=1e-9,
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [1, 4, 200])
def test_graded_truth_and_ties_as_in_trec_eval(seed, k):
    """Scores without ranks, full of ties; values 1 to 4 as gains; repeats of a pair
    count with their greatest value."""
    recs, truth = random_case(seed)
    recs = recs.drop(columns="rank")
    truth["value"] = np.random.default_rng(seed).integers(1, 5, len(truth))

    def nest(df, c):
        return {
            u: dict(zip(g.item_id, g[c].tolist(), strict=False))
            for u, g in df.groupby("user_id")
        }

    for gain, best in [("linear", lambda v: v), ("exponential", lambda v: 2**v - 1)]:
        graded = truth.assign(value=best(truth.value)).sort_values("value")
        found = pytrec_eval.RelevanceEvaluator(
            nest(graded, "value"), {f"ndcg_cut.{k}", f"P.{k}"}
        ).evaluate(nest(recs, "score"))
        ours = evaluate(
            recs, truth, k=k, missing="drop", gain=gain, ties="trec", n_boot=0
        ).per_user
        theirs = pd.DataFrame(found).T.sort_index()
        np.testing.assert_allclose(
            ours[f"ndcg@{k}"], theirs[f"ndcg_cut_{k}"], atol=1e-12
        )
        np.testing.assert_allclose(ours[f"precision@{k}"], theirs[f"P_{k}"], atol=1e-12)
    row = (
        recs.groupby("user_id").score.rank(method="first", ascending=False).astype(int)
    )
    pd.testing.assert_frame_equal(
        evaluate(recs, truth, k=k, n_boot=0).per_user,
        evaluate(recs.assign(rank=row), truth, k=k, n_boot=0).per_user,
    )


def test_users_without_truth_can_count_as_nothing():
    recs, truth = random_case(5)
    k = 5
    drop = evaluate(recs, truth, k=k, n_boot=0)
    zero = evaluate(recs, truth, k=k, no_truth="zero", n_boot=0)
    everybody = set(recs.user_id) | set(truth.user_id)
    assert (
        zero.counts["users"] == len(everybody) > drop.counts["users"]
        and zero.counts["without_truth"] == drop.counts["without_truth"]
    )
    np.testing.assert_allclose(
        zero.values * len(everybody), drop.values * drop.counts["users"]
    )
    asked = evaluate(
        recs,
        truth,
        k=k,
        users=["none", *truth.user_id.unique()[:3]],
        no_truth="zero",
        n_boot=0,
    )
    assert (
        asked.counts["users"] == 4
        and asked.per_user.loc["none"].eq(0).all()
        and asked.counts["without_truth"] == 1
    )


def beyond_case(seed):
    """Lists, truths, a past with repeats, categories (one an item, or shares of
    several), vectors."""
    recs, truth = random_case(seed)
    rng = np.random.default_rng(seed + 100)
    items = pd.Index(pd.concat([recs.item_id, truth.item_id]).unique(), name="item_id")
    past = pd.DataFrame(
        {
            "user_id": rng.choice(truth.user_id.unique(), 300),
            "item_id": rng.choice(items, 300),
        }
    )
    categories = (
        pd.Series(rng.choice(list("abcd"), len(items)), items, name="kind")
        if seed % 2
        else pd.DataFrame(rng.integers(0, 3, (len(items), 4)) + [1, 0, 0, 0], items)
    )
    return (
        recs,
        truth,
        past,
        items,
        categories,
        pd.DataFrame(rng.normal(size=(len(items), 5)), items),
    )


def mean(xs):
    return sum(xs) / len(xs)


def smoothed_divergence(p, q):
    "Kullback-Leibler divergence of p from q with a hundredth of p (Steck 2018)."
    terms = zip(p, q, strict=True)
    return sum(a * math.log(a / (0.99 * b + 0.01 * a)) for a, b in terms if a > 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 3, 12])
def test_beyond_accuracy_equals_plain_loops(seed, k):
    recs, truth, past, items, categories, vectors = beyond_case(seed)
    ours = evaluate(
        recs,
        truth,
        k=k,
        items=items,
        train=past,
        categories=categories,
        vectors=vectors,
        n_boot=0,
    )
    users = ours.per_user.index
    lists = {
        u: recs[(recs.user_id == u) & (recs["rank"] <= k)]
        .sort_values("rank")
        .item_id.tolist()
        for u in users
    }
    had = {u: sorted(set(past.item_id[past.user_id == u])) for u in users}
    events = past.item_id.value_counts().to_dict()
    shown = [i for items_ in lists.values() for i in items_]
    exposure = sorted(shown.count(i) for i in items)
    table = (
        pd.get_dummies(categories) if isinstance(categories, pd.Series) else categories
    )
    share = {i: (table.loc[i] / table.loc[i].sum()).to_numpy(float) for i in items}

    gini = sum(abs(a - b) for a in exposure for b in exposure)
    gini /= 2 * len(exposure) * sum(exposure)
    bits = {
        u: mean([-math.log2(max(1, events.get(i, 0)) / len(past)) for i in lists[u]])
        for u in users
        if lists[u]
    }

    def cos(i, j):
        return (
            vectors.loc[i]
            @ vectors.loc[j]
            / np.linalg.norm(vectors.loc[i])
            / np.linalg.norm(vectors.loc[j])
        )

    apart = {
        u: mean([1 - cos(i, j) for n, i in enumerate(lists[u]) for j in lists[u][:n]])
        for u in users
        if len(lists[u]) > 1
    }
    both = [u for u in users if lists[u] and had[u]]
    kl = {}
    for u in both:
        p, q = mean([share[i] for i in had[u]]), mean([share[i] for i in lists[u]])
        kl[u] = smoothed_divergence(p, q)

    def of(some):
        return mean([mean([events.get(i, 0) for i in some[u]]) for u in both])

    for name, want in {
        "coverage": len(set(shown)) / len(items),
        "gini": gini,
        "popularity_lift": of(lists) / of(had) - 1,
    }.items():
        assert ours[f"{name}@{k}"] == pytest.approx(want, abs=1e-9)
    for name, want in {"novelty": bits, "diversity": apart, "calibration": kl}.items():
        got = ours.per_user[f"{name}@{k}"].dropna()
        assert set(got.index) == set(want)
        near = 1e-5 if name == "novelty" else 1e-9
        np.testing.assert_allclose(got, [want[u] for u in got.index], atol=near)
        if want:
            average = mean(list(want.values()))
            assert ours[f"{name}@{k}"] == pytest.approx(average, abs=1e-5)


def test_influence_of_gini_and_popularity_lift_is_their_derivative():
    "The jackknife over users agrees with the spread of the resamples."
    rng = np.random.default_rng(0)
    n, m = 300, 40
    w = 1 / np.arange(1, m + 1)
    lists = np.array([rng.choice(m, 5, replace=False, p=w / w.sum()) for _ in range(n)])
    recs = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(n), 5),
            "item_id": lists.ravel(),
            "rank": np.tile(np.arange(1, 6), n),
        }
    )
    truth = pd.DataFrame({"user_id": np.arange(n), "item_id": 0})
    past = pd.DataFrame(
        {"user_id": np.repeat(np.arange(n), 6), "item_id": rng.integers(0, m, 6 * n)}
    )
    sold = pd.Series(rng.integers(1, 50, m), range(m))

    def judge(users, n_boot):
        return evaluate(
            recs,
            truth,
            k=5,
            metrics=["gini", "popularity_lift"],
            items=range(m),
            train=past,
            popularity=sold,
            users=users,
            n_boot=n_boot,
        )

    jackknife = (
        pd.DataFrame(
            [judge(np.delete(np.arange(n), u), 0).values for u in range(n)]
        ).std(ddof=0)
        * (n - 1)
        / n**0.5
    )
    np.testing.assert_allclose(judge(None, 4000).draws.std() / jackknife, 1, atol=0.06)


@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_an_evaluation_of_its_own(seed):
    recs, truth, past, items, categories, vectors = beyond_case(seed)
    rng = np.random.default_rng(seed)
    users = truth.user_id.unique()
    tables = Dataset(
        pd.concat([past, pd.DataFrame({"user_id": users[0], "item_id": items})]),
        users=pd.DataFrame(
            {
                "user_id": users,
                "country": rng.choice(["FR", "UK", None], len(users)),
                "age": rng.integers(1, 3, len(users)),
            }
        ),
        items=pd.DataFrame({"item_id": items, "size": rng.integers(1, 4, len(items))}),
    )
    common = {"k": (2, 5), "items": items, "categories": vectors**2, "n_boot": 30}
    r = evaluate(
        recs,
        truth,
        train=tables,
        by=["country", "size", "user_history", "item_popularity"],
        **common,
    )
    for g, of_group in r.groups["country"].items():
        some = tables.users.user_id[tables.users.country.fillna("missing") == g]
        own = evaluate(recs, truth, train=tables, users=some, **common)
        pd.testing.assert_series_equal(of_group.values, own.values)
        pd.testing.assert_frame_equal(of_group.draws, own.draws)
    accuracy = [c for c in r.values.index if c.split("@")[0] in ACCURACY]
    n = tables.interactions.item_id.value_counts()
    least = n.nlargest(round(len(n) / 5)).min()
    level = {
        i: "head" if n.get(i, 0) >= least else "tail" if i in n else "cold"
        for i in items
    }
    for by, group_of in [
        (
            "size",
            dict(
                zip(
                    tables.items.item_id, tables.items["size"].astype(str), strict=False
                )
            ),
        ),
        ("item_popularity", level),
    ]:
        for g, of_group in r.groups[by].items():
            part = truth[truth.item_id.map(group_of) == g]
            own = evaluate(recs, part, k=(2, 5), n_boot=30)
            pd.testing.assert_series_equal(of_group.values, own.values[accuracy])
            assert (
                list(of_group.values.index) == accuracy
                and of_group.counts["users"] == part.user_id.nunique()
            )
    f = r.breakdown()
    assert (
        set(f.by) == {"country", "size", "user_history", "item_popularity"}
        and f[f.by == "country"].groupby("group").users.first().sum()
        == r.counts["users"]
    )
    assert (
        r.plot_breakdown("ndcg@2").get_title()
        and json.loads(json.dumps(r.to_dict()))["groups"]["size"]
    )
    with pytest.raises(MetricsError, match="no group has"):
        r.plot_breakdown("ndcg@3")
    with pytest.raises(MetricsError, match="there are no groups"):
        evaluate(recs, truth, n_boot=0).breakdown()
    one, other = (r.groups["size"][g] for g in list(r.groups["size"])[:2])
    with pytest.raises(ProtocolError, match="group is"):
        compare(one, other)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"by": "country"}, "by has 'country'"),
        ({"by": pd.Series([1], ["1"], name="x")}, "must be named"),
        (
            {
                "by": pd.Series(
                    range(60), pd.Index(map(str, range(60)), name="item_id"), name="x"
                )
            },
            "61 groups",
        ),
        ({"metrics": "gini"}, "gini needs the argument items"),
        (
            {"metrics": "calibration", "categories": pd.Series(dtype=object)},
            "needs the argument categories and train",
        ),
        ({"metrics": "novelty"}, "popularity or train"),
        ({"categories": {"1": "a"}}, "has no item ids"),
        ({"categories": pd.Series(["a"], ["none"])}, "has no row in categories"),
        (
            {"vectors": pd.DataFrame({"x": ["a"]}, ["1"])},
            "has no row in vectors|column 'x'",
        ),
        (
            {"categories": pd.Series(["a", "b"], ["1", "1"])},
            "more than one row for item '1'",
        ),
        ({"gain": "log"}, "gain is one of"),
        ({"gain": "linear"}, "no column 'value'"),
        ({"ties": "none"}, "ties is one of"),
        ({"no_truth": "nan"}, "no_truth is one of"),
        ({"protocol": {"k": 5}}, "not told but computed"),
        ({"protocol": {"excluded": 5}}, "a dict of reason"),
    ],
)
def test_bad_options_are_named(change, message):
    recs, truth = random_case(1)
    with pytest.raises(MetricsError, match=message):
        evaluate(recs, truth, n_boot=0, **change)


def test_a_column_of_two_tables_is_asked_for_by_its_table():
    recs, truth = random_case(2)
    users, items = (
        truth.user_id.unique(),
        pd.unique(pd.concat([recs.item_id, truth.item_id])),
    )
    rng = np.random.default_rng(0)

    def kind(ids):
        return rng.choice(["a", "b"], len(ids))

    train = Dataset(
        truth,
        users=pd.DataFrame(
            {"user_id": users, "kind": kind(users), "user_history": kind(users)}
        ),
        items=pd.DataFrame({"item_id": items, "kind": kind(items)}),
    )
    with pytest.raises(
        MetricsError,
        match=(
            "by has 'kind', which two tables have; ask for 'user:kind' or 'item:kind'"
        ),
    ):
        evaluate(recs, truth, train=train, by="kind", n_boot=0)
    r = evaluate(
        recs,
        truth,
        train=train,
        by=["user:kind", "item:kind", "user_history", "user:user_history"],
        n_boot=0,
    )
    for g, table in (
        ("user:kind", train.users.set_index("user_id").kind),
        ("item:kind", train.items.set_index("item_id").kind),
        ("user:user_history", train.users.set_index("user_id").user_history),
    ):
        own = evaluate(recs, truth, by=table, n_boot=0).groups[table.name]
        assert list(r.groups[g]) == ["a", "b"] == list(own) and all(
            r.groups[g][x].counts == own[x].counts for x in own
        )
        for x in own:
            pd.testing.assert_series_equal(
                r.groups[g][x].values[own[x].values.index], own[x].values
            )
    assert list(r.groups["user_history"]) == ["warm"]
    one = train.users.set_index("user_id").kind
    with pytest.raises(MetricsError, match="two groupings named 'kind'"):
        evaluate(recs, truth, by=[one, one], n_boot=0)
    with pytest.raises(
        MetricsError, match=f"more than one row for user_id {users[0]!r}"
    ):
        evaluate(recs, truth, by=pd.concat([one[:1], one]), n_boot=0)
    named = one.rename("item_popularity")
    assert list(
        evaluate(recs, truth, by=named, n_boot=0).groups["item_popularity"]
    ) == ["a", "b"]  # no label is lost to the known names


def test_the_fingerprint_of_train_covers_all_that_a_report_depends_on():
    recs, truth, past, *_ = beyond_case(3)

    def of(train, **more):
        return evaluate(recs, truth, train=train, n_boot=0, **more)

    others = pd.DataFrame({"user_id": ["nobody"] * 3, "item_id": past.item_id[:3]})
    one = of(pd.concat([past, others]))
    key = "train"
    assert (
        of(pd.concat([others[::-1], past])).protocol[key] == one.protocol[key]
    )  # neither order
    assert (
        of(pd.concat([past, others.assign(user_id="another")])).protocol[key]
        == one.protocol[key]
    )  # nor who, as long as he is not evaluated
    more = of(pd.concat([past, others, others[:1]]))
    assert not more.values.equals(one.values)
    with pytest.raises(ProtocolError, match="train is"):
        compare(one, more)
    sold = past.item_id.value_counts()
    told = of(past, popularity=sold)
    assert (
        of(past, popularity=sold[::-1]).protocol["popularity"]
        == told.protocol["popularity"]
        is not None
        and of(past, popularity=sold, metrics="ndcg").protocol["popularity"] is None
    )
    with pytest.raises(ProtocolError, match="popularity is"):
        compare(told, of(past, popularity=sold + (sold.index == sold.index[0])))


@pytest.mark.parametrize(
    "ids", ["int64", "int8", "uint64", "wide", "str", "object", "Int64"]
)
def test_lists_are_read_in_slices(ids):
    """More rows than a slice has, users before, between and beyond those of the truth,
    ranks beyond k: as plain pandas has it."""
    rng = np.random.default_rng(0)
    n, K = 110, 3000
    u = rng.permutation(n)
    recs = pd.DataFrame(
        {
            "user_id": np.repeat(u, K),
            "item_id": np.concatenate([rng.permutation(K) for _ in range(n)]),
            "rank": np.tile(np.arange(1, K + 1), n),
        }
    )
    truth = pd.DataFrame(
        {"user_id": rng.integers(20, 90, 900), "item_id": rng.integers(0, K, 900)}
    ).query("user_id != 50")
    hits = (
        recs[recs["rank"] <= 40]
        .merge(truth.drop_duplicates())
        .groupby("user_id")
        .size()
        .reindex(truth.user_id.unique(), fill_value=0)
        .sort_index()
    )
    to = {
        "wide": lambda c: c.astype("int64") * 10**12,
        "uint64": lambda c: c.astype("uint64") + np.uint64(2**63),
    }.get(
        ids, lambda c: c.astype(str).astype(ids) if ids == "object" else c.astype(ids)
    )
    r, t = (d.assign(user_id=to(d.user_id)) for d in (recs, truth))
    found = evaluate(r, t, k=40, metrics="precision", n_boot=0)
    got = (
        found.per_user.set_axis(
            pd.Index([int(x) for x in found.per_user.index])
        ).sort_index()["precision@40"]
        * 40
    )
    back = {"wide": lambda x: x // 10**12, "uint64": lambda x: x - 2**63}.get(
        ids, lambda x: x
    )
    assert [back(x) for x in got.index] == list(hits.index) and found.counts[
        "without_truth"
    ] == n - len(hits)
    np.testing.assert_allclose(got.to_numpy(), hits.to_numpy())
    graded = t.assign(value=rng.integers(1, 9, len(t)))
    settings = {"k": 1000, "metrics": "ndcg", "gain": "linear", "n_boot": 0}
    every = evaluate(r, graded, **settings).per_user
    for late in every.index[
        [0, -1]
    ]:  # in the first slice of users, in the last, and alone
        assert evaluate(r, graded, users=[late], **settings)[
            "ndcg@1000"
        ] == pytest.approx(every.loc[late, "ndcg@1000"], abs=1e-12)
        row = np.flatnonzero(r.user_id == late)[1]
        twice = r.copy()
        twice.iloc[row, 1] = twice.iloc[row - 1, 1]
        with pytest.raises(
            MetricsError,
            match=(
                f"user {late if ids not in ('str', 'object') else repr(late)} is "
                "recommended item .* more than once"
            ),
        ):
            evaluate(twice, t, k=1000, n_boot=0)
    with pytest.raises(MetricsError, match="has rank 0"):
        evaluate(
            r.assign(rank=r["rank"].where(np.arange(len(r)) < len(r) - 1, 0)),
            t,
            k=40,
            n_boot=0,
        )


def test_categories_must_be_shares():
    recs, truth, past, items, _, _ = beyond_case(2)
    for bad in (pd.DataFrame(0.0, items, ["a", "b"]), pd.DataFrame(-1.0, items, ["a"])):
        with pytest.raises(MetricsError, match="no positive number, or one below 0"):
            evaluate(recs, truth, train=past, categories=bad, n_boot=0)
    with pytest.raises(MetricsError, match="not finite"):
        evaluate(recs, truth, vectors=pd.DataFrame(np.nan, items, ["a"]), n_boot=0)


def test_the_protocol_is_kept_told_and_checked():
    recs, truth, past, *_ = beyond_case(3)
    told = {
        "split": "by week",
        "candidates": "100 sampled",
        "excluded": {"bots": 3},
        "negatives": "uniform",
    }
    r = evaluate(recs, truth, train=past, protocol=told, n_boot=10)
    p = json.loads(json.dumps(r.to_dict()))["protocol"]
    assert (p["split"], p["candidates"], p["negatives"], p["seen"]) == (
        "by week",
        "100 sampled",
        "uniform",
        "kept",
    ) and r.counts["left out: bots"] == 3
    for words in (
        "split: by week",
        "candidates: 100 sampled",
        "seen: kept",
        "seed 0",
        "10 resamples",
        "3 left out: bots",
        "MAP over min(true items, k)",
    ):
        assert words in repr(r)
    assert told["excluded"] == {"bots": 3} and "split: by week" in repr(compare(r, r))
    clean = (
        recs.merge(past.drop_duplicates(), how="left", indicator=True)
        .query("_merge == 'left_only'")
        .sort_values(["user_id", "rank"])
        .drop(columns=["_merge", "rank"])
    )
    clean["rank"] = clean.groupby("user_id").cumcount() + 1
    left = evaluate(
        clean, truth, train=past, protocol=told | {"seen": "left out"}, n_boot=10
    )
    assert left.protocol["seen"] == "left out"
    with pytest.raises(ProtocolError, match="seen is 'left out', but user"):
        evaluate(recs, truth, train=past, protocol={"seen": "left out"})
    with pytest.raises(
        ProtocolError, match="seen is 'kept' in one and 'left out' in the other"
    ):
        compare(r, left)
    for change in (
        {"split": "random"},
        {"candidates": "all"},
        {"negatives": "by sales"},
    ):
        with pytest.raises(ProtocolError, match=f"{next(iter(change))} is"):
            compare(
                r, evaluate(recs, truth, train=past, protocol=told | change, n_boot=10)
            )
    with pytest.raises(ProtocolError, match="train is"):
        compare(
            r,
            evaluate(
                recs,
                truth,
                train=past[:150],
                protocol=told | {"seen": "kept"},
                n_boot=10,
            ),
        )


def test_a_split_is_known_from_its_dataset():
    from recsys_nb.data import split_by_time

    log = pd.DataFrame(
        {
            "user_id": np.arange(200) % 9,
            "item_id": np.arange(200) % 13,
            "timestamp": 1_700_000_000 + np.arange(200),
        }
    )
    train, test = split_by_time(Dataset(log))
    recs = pd.DataFrame({"user_id": [1, 1], "item_id": [3, 4], "rank": [1, 2]})
    assert evaluate(recs, test, n_boot=0).protocol[
        "split"
    ] == test.split and "split: time (test 0.2" in repr(evaluate(recs, test, n_boot=0))
    assert (
        evaluate(recs, test, protocol={"split": "mine"}, n_boot=0).protocol["split"]
        == "mine"
    )
    assert (
        ranker_metrics(
            [0, 1, 1], [0.1, 0.2, 0.3], protocol={"split": test.split}
        ).protocol["split"]["kind"]
        == "time"
    )


@pytest.mark.parametrize("seed", range(10))
def test_several_models_are_corrected_as_statsmodels_does(seed):
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    rng = np.random.default_rng(seed)
    n = 80
    truth = pd.DataFrame({"user_id": np.arange(n), "item_id": 0})
    reports = {}
    for m in range(4):  # models that put the one true item at a random rank
        place = np.minimum(rng.geometric(0.2 + 0.08 * m, n), 9)
        lists = np.array([np.insert(np.arange(1, 10), p - 1, 0) for p in place])
        reports[f"m{m}"] = evaluate(
            pd.DataFrame(
                {
                    "user_id": np.repeat(np.arange(n), 10),
                    "item_id": lists.ravel(),
                    "rank": np.tile(np.arange(1, 11), n),
                }
            ),
            truth,
            k=5,
            n_boot=400,
        )
    all_ = compare_all(reports, ["ndcg@5", "mrr@5"])
    f = all_.to_frame()
    assert (
        len(f) == 12
        and f.p_holm.to_numpy() == pytest.approx(multipletests(f.p, method="holm")[1])
        and all_.plot().get_title()
        and "Holm" in repr(all_)
    )
    row = f[(f.a_name == "m0") & (f.b_name == "m2") & (f.metric == "mrr")].iloc[0]
    pair = (
        compare(reports["m0"], reports["m2"])
        .to_frame()
        .query("metric == 'mrr'")
        .iloc[0]
    )
    assert (row.difference, row.p, row.low) == (pair.difference, pair.p, pair.low)
    assert list(compare_all(reports, "ndcg@5", baseline="m1").to_frame().b_name) == [
        "m0",
        "m2",
        "m3",
    ]
    with pytest.raises(ProtocolError):
        compare_all(
            reports
            | {
                "other": evaluate(
                    pd.DataFrame({"user_id": [0], "item_id": [1], "rank": [1]}),
                    truth,
                    k=3,
                )
            },
            "ndcg@5",
        )
    with pytest.raises(MetricsError, match="baseline is 'm9'"):
        compare_all(reports, "ndcg@5", baseline="m9")
    assert (
        compare_all(
            {
                n: evaluate(
                    pd.DataFrame({"user_id": [0], "item_id": [1], "rank": [1]}),
                    truth,
                    n_boot=0,
                )
                for n in "ab"
            },
            "ndcg@10",
        )
        .to_frame()
        .p_holm.isna()
        .all()
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_kind_of_id_and_the_order_of_rows_change_nothing(seed):
    recs, truth = random_case(seed)
    plain = evaluate(
        recs,
        truth,
        k=(2, 7),
        items=recs.item_id,
        popularity=recs.item_id.value_counts(),
        n_boot=20,
    )
    for kind in ("category", object, "string"):
        other = evaluate(
            recs.astype({"user_id": kind, "item_id": kind}),
            truth,
            k=(2, 7),
            items=recs.item_id,
            popularity=recs.item_id.value_counts(),
            n_boot=20,
        )
        pd.testing.assert_series_equal(other.values, plain.values)
        pd.testing.assert_frame_equal(other.draws, plain.draws)
    ints = [d.astype({"user_id": int, "item_id": int}) for d in (recs, truth)]
    pd.testing.assert_series_equal(
        evaluate(*ints, k=(2, 7), n_boot=0).values,
        plain.values.drop(
            [f"{m}@{k}" for m in ("coverage", "gini", "novelty") for k in (2, 7)]
        ),
    )
    assert (
        evaluate(
            recs.sort_values("rank").assign(rank=lambda d: d["rank"].astype(float)),
            truth,
            k=2,
            n_boot=0,
        )["map@2"]
        == plain["map@2"]
    )


def test_a_dataset_as_truth_means_its_positives():
    recs = pd.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "rank": [1, 2]})
    events = pd.DataFrame(
        {
            "user_id": [1, 1, 2],
            "item_id": ["a", "b", "b"],
            "event_type": ["view", "click", "view"],
        }
    )
    ds = Dataset(events, positive=("click",))
    report = evaluate(recs, ds, k=1)
    assert report["hit_rate@1"] == 0 and report.counts["users"] == 1
    assert (
        evaluate(recs, ds, k=2)["hit_rate@2"] == 1
        and evaluate(recs, Dataset(events), k=1)["hit_rate@1"] == 0.5
    )


def test_no_hits_no_lists_and_only_coverage():
    recs, truth = (
        pd.DataFrame({"user_id": [1], "item_id": [5], "rank": [1]}),
        pd.DataFrame({"user_id": [1, 2], "item_id": [6, 6]}),
    )
    assert (evaluate(recs, truth).values == 0).all()
    with pytest.raises(MetricsError, match="the recommendations have no rows"):
        evaluate(recs[:0], truth)
    only = evaluate(recs, truth, k=1, metrics="coverage", items=[5, 6])
    assert (
        only["coverage@1"] == 0.5
        and list(only.values.index) == ["coverage@1"]
        and len(only.per_user) == 2
    )
    popularity = pd.Series({5: 1})
    with pytest.raises(MetricsError, match="the recommendations have no rows"):
        evaluate(recs[:0], truth, k=1, metrics="novelty", popularity=popularity)
    assert json.loads(json.dumps(evaluate(recs, truth, n_boot=0).to_dict()))["metrics"][
        "ndcg@10"
    ] == {"value": 0.0, "low": None, "high": None}


@pytest.mark.parametrize(
    "column,value,message",
    [
        ("rank", [0, 1], "has rank 0"),
        ("rank", [1.5, 1], "has rank 1.5"),
        ("rank", [None, 1], "rank is null in row 0"),
        ("rank", [1, 1], "two items at rank 1"),
        ("rank", [1, 3], "none at rank 2"),
        ("item_id", [4, 4], "user 7 is recommended item 4 more than once"),
        ("user_id", [None, 7], "user_id is null"),
        ("user_id", ["7", "7"], "of one type"),
    ],
)
def test_bad_lists_are_named(column, value, message):
    recs = pd.DataFrame({"user_id": [7, 7], "item_id": [4, 5], "rank": [1, 2]}).assign(
        **{column: value}
    )
    with pytest.raises(MetricsError, match=message):
        evaluate(recs, pd.DataFrame({"user_id": [7, 8], "item_id": [5, 5]}))


@pytest.mark.parametrize("seed", range(8))
def test_one_list_and_ranker_as_in_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 3000))
    y = rng.random(n) < 0.3
    y[:2] = True, False
    p = (
        rng.integers(1, 50, size=n) / 50
        if seed % 2
        else rng.random(n).astype("float32")
    )
    users = rng.integers(0, 30, size=n)
    report = ranker_metrics(y, p, users, n_boot=5)
    assert report["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-12) and report[
        "log_loss"
    ] == pytest.approx(log_loss(y, p), rel=1e-6)
    mixed = [
        u for u in np.unique(users) if 0 < y[users == u].sum() < (users == u).sum()
    ]
    each = [roc_auc_score(y[users == u], p[users == u]) for u in mixed]
    assert report["gauc"] == pytest.approx(np.mean(each), abs=1e-12)
    assert ranker_metrics(y, p, users, gauc_weights="rows", n_boot=0)[
        "gauc"
    ] == pytest.approx(
        np.average(each, weights=[(users == u).sum() for u in mixed]), abs=1e-12
    )
    np.testing.assert_allclose(report.draws.shape, (5, 4))
    order = rng.permutation(n).astype(float)
    k = int(rng.integers(1, 2 * n))
    m = compute_metrics(y.astype(int), order, k)
    assert m[f"ndcg@{k}"] == pytest.approx(ndcg_score([y], [order], k=k), abs=1e-12)
    assert m[f"precision@{k}"] == pytest.approx(y[np.argsort(-order)[:k]].mean()) and m[
        f"recall@{k}"
    ] == pytest.approx(y[np.argsort(-order)[:k]].sum() / y.sum())


def test_one_class_warns_and_gives_nan():
    with pytest.warns(UserWarning, match="only the class 1"):
        m = compute_metrics([1, 1, 1], [0.1, 0.2, 0.3], 2)
    assert (
        np.isnan(m["auc"])
        and m["recall@2"] == pytest.approx(2 / 3)
        and m["ndcg@2"] == 1
    )
    with pytest.warns(UserWarning, match="recall and ndcg"):
        m = compute_metrics([0, 0], [0.1, 0.2], 2)
    assert (
        np.isnan([m["auc"], m["recall@2"], m["ndcg@2"]]).all() and m["precision@2"] == 0
    )


def test_influence_of_every_metric_is_its_derivative():
    """Removing one user moves each metric by its share of the influence, to second
    order: the jackknife agrees."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 15)
    y = rng.random(3000) < rng.beta(1, 3, 200)[users]
    p = rng.random(3000) * 0.9 + 0.05
    report = ranker_metrics(y, p, users, n_boot=4000)
    without = [
        ranker_metrics(y[users != u], p[users != u], users[users != u], n_boot=0).values
        for u in range(200)
    ]
    jackknife = pd.DataFrame(without).std(ddof=0) * 199 / 200**0.5
    np.testing.assert_allclose(
        report.draws.std() / jackknife[report.draws.columns], 1, atol=0.06
    )


def test_comparison_is_paired_and_guarded():
    recs, truth = random_case(3)
    a = evaluate(recs, truth, k=5, name="a")
    worse = recs[recs["rank"] > 1].assign(rank=lambda d: d["rank"] - 1)
    c = compare(a, evaluate(worse, truth, k=5, name="b"))
    f = c.to_frame()
    np.testing.assert_allclose(f.difference, f.b - f.a)
    assert (
        (f.low <= f.difference).all()
        and (f.difference <= f.high).all()
        and f.p.between(0, 1).all()
    )
    np.testing.assert_allclose(c.per_user.mean(), f.difference, atol=1e-12)
    assert c.plot().get_title() and a.plot().get_title() and "b − a" in repr(c)
    for change in (
        {"seed": 1},
        {"n_boot": 10},
        {"k": 4},
        {"missing": "drop"},
        {"level": 0.9},
        {"metrics": ["ndcg"]},
    ):
        with pytest.raises(ProtocolError, match=next(iter(change))):
            compare(a, evaluate(recs, truth, **({"k": 5} | change)))
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(a)).draws, a.draws)


def test_a_hundred_thousand_lists_in_little_memory():
    n, K, n_items = 100_000, 20, 5_000
    rng = np.random.default_rng(0)
    items = (rng.integers(n_items, size=(n, 1)) + 7 * np.arange(K)) % n_items
    recs = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(n), K),
            "item_id": items.ravel(),
            "rank": np.tile(np.arange(1, K + 1), n),
        }
    )
    truth = pd.DataFrame(
        {
            "user_id": np.tile(np.arange(n), 5),
            "item_id": rng.integers(n_items, size=5 * n),
        }
    )
    tracemalloc.start()
    report = evaluate(
        recs,
        truth,
        items=range(n_items),
        popularity=truth.item_id.value_counts(),
        n_boot=20,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        peak < 300e6
        and report.counts["users"] == n
        and report["precision@10"] == pytest.approx(5 / n_items, rel=0.1)
    )
