"""Statistics that could be silently wrong: each with its right value, and by kind."""

import re
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import slow
from hypothesis import assume, given
from hypothesis import strategies as st
from ibis import _ as col
from scipy import stats

matplotlib.use("Agg")
pytest.importorskip("tea_tasting")
from recsys_nb.evaluation import (  # noqa: E402
    MetricsError,
    compare,
    compare_all,
    correct_holm,
    evaluate,
    ranker_metrics,
    reliability,
)
from recsys_nb.evaluation.calibration import split_by_mass  # noqa: E402
from recsys_nb.experiments import (  # noqa: E402
    ExperimentError,
    analyze,
    beta_binomial,
    duration,
    expected_shares,
    group_sequential,
    interleaving_test,
    monitor,
    off_policy,
    srm_test,
    two_proportion_test,
)
from recsys_nb.features import Feature, point_in_time  # noqa: E402

some = slow(15)  # each example runs a query
DAY = pd.Timedelta(days=1)


# ---- sums within a window


def window_sums(days, prices, moments, window=7):
    "Sums of prices on days since 2024, within the window before each moment."
    start = pd.Timestamp("2024-01-01")
    events = pd.DataFrame(
        {
            "user_id": "a",
            "item_id": "x",
            "event_type": "purchase",
            "timestamp": [start + d * DAY for d in days],
            "price": np.asarray(prices, float),
        }
    )
    asked = pd.DataFrame({"user_id": "a", "as_of": [start + d * DAY for d in moments]})
    feature = Feature("spent", "user_id", col.price, window=window)
    return point_in_time(events, asked, [feature]).spent.to_numpy()


def test_cents_after_a_trillion():
    found = window_sums([0, 60, 61], [1e12, 0.1, 0.2], [62, 40, 90])
    assert found.tolist() == [0.1 + 0.2, 0.0, 0.0]


def test_window_edges():
    "An event at the moment is not seen; one exactly a window before is."
    found = window_sums([0, 7, 14], [1e12, 0.1, 0.2], [7, 14, 14.5, 21])
    assert found.tolist() == [1e12, 0.1, 0.2, 0.2]


@some
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0.1, 0.2, -3.5, 1e12, -1e15])),
        min_size=1,
        max_size=12,
    )
)
def test_windows_are_sums_of_their_events(events):
    days, prices = map(np.array, zip(*events, strict=True))
    moments = np.arange(0, 45, 5)
    found = window_sums(days, prices, moments)
    for moment, total in zip(moments, found, strict=True):
        inside = prices[(days >= moment - 7) & (days < moment)]
        largest = np.abs(inside).sum()
        assert total == pytest.approx(inside.sum(), abs=1e-15 * largest)
        assert len(inside) or total == 0


# ---- the expected calibration error


def drawn(truth, seed, n=1000):
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(-1.5, 1, n)))
    q = truth(p)
    true = np.abs(np.bincount(split_by_mass(p, 10), q - p)).sum() / n
    return rng.random(n) < q, p, true


@pytest.mark.parametrize(
    "truth",
    [
        lambda p: p,
        lambda p: np.minimum(p * 1.2, 1),
        lambda p: np.where(p > np.quantile(p, 0.9), p - 0.3, p).clip(0),
    ],
)
def test_interval_of_ece_covers(truth):
    inside = 0
    for seed in range(40):
        y, p, true = drawn(truth, seed)
        r = reliability(y, p, n_boot=300, seed=seed)
        assert 0 <= r["ece_low"] <= r["ece_debiased"] <= r["ece_high"] <= 1
        inside += r["ece_low"] <= true <= r["ece_high"]
    assert inside >= 36  # of 40; 95% of them are 38


def test_perfect_probabilities_have_no_ece():
    "Without the bias of noise the error is nearer to 0 than by chance alone."
    found = [reliability(*drawn(lambda p: p, s)[:2], n_boot=300) for s in range(20)]
    debiased = np.mean([r["ece_debiased"] for r in found])
    assert debiased < 0.5 * np.mean([r["ece_by_chance"] for r in found])
    assert np.mean([r["ece_low"] == 0 for r in found]) >= 0.9


def test_bins_without_positives_have_noise():
    y = np.zeros(400, bool)
    y[:2] = True
    p = np.full(400, 0.005)
    r = reliability(y, p, n_bins=1)
    assert r["ece_low"] == 0 and r["ece_high"] > 0.002


# ---- several models


def hits(rates, users=300, seed=0):
    rng = np.random.default_rng(seed)
    truth = pd.DataFrame({"user_id": np.arange(users), "item_id": 1})
    out = {}
    for m, rate in enumerate(rates):
        item = np.where(rng.random(users) < rate, 1, 2)
        lists = pd.DataFrame({"user_id": truth.user_id, "item_id": item, "rank": 1})
        out[f"m{m}"] = evaluate(lists, truth, k=1, metrics="hit_rate")
    return out


def test_better_model_among_eight_is_found():
    f = compare_all(hits([0.6] + [0.3] * 7), "hit_rate@1").to_frame()
    of_best = (f.a_name == "m0") | (f.b_name == "m0")
    assert len(f) == 28
    assert (f.p_holm[of_best] < 0.01).all() and (f.p_holm[~of_best] > 0.05).all()


def test_tail_is_that_of_the_t_test():
    reports = hits([0.6, 0.3])
    row = compare(*reports.values()).to_frame().iloc[0]
    values = [r.per_user["hit_rate@1"] for r in reports.values()]
    assert np.log(row.p) == pytest.approx(
        np.log(stats.ttest_rel(*values).pvalue), rel=0.15
    )


def test_few_users_cannot_show_much():
    f = compare(*hits([1.0, 0.0], users=4).values()).to_frame()
    assert f.p[0] == pytest.approx(2**-3) and -1 <= f.low[0] < f.high[0] <= 1


@given(st.lists(st.one_of(st.floats(0, 1), st.just(np.nan)), min_size=1, max_size=12))
def test_holm_leaves_what_was_not_tested(p):
    p = np.array(p)
    found, tested = correct_holm(p), ~np.isnan(p)
    assert (np.isnan(found) == ~tested).all()
    assert (found[tested] >= p[tested]).all() and (found[tested] <= 1).all()
    np.testing.assert_array_equal(found[tested], correct_holm(p[tested]))


# ---- intervals


def test_ten_of_ten():
    report = hits([1.0], users=10)["m0"].to_frame()
    least = stats.binomtest(10, 10).proportion_ci().low
    assert report.low[0] == pytest.approx(least) and report.high[0] == 1
    shown = pd.DataFrame({"user_id": np.arange(10), "team": "b", "clicked": 1})
    found = interleaving_test(shown)
    assert found.share == 1 and 0.6 < found.ci[0] < 0.8 and found.ci[1] == 1
    assert found.p_value == pytest.approx(2**-9)
    one = np.ones(10)
    table = off_policy(one, one, one).table
    logged = table[table.method == "logged"].iloc[0]
    assert 0.6 < logged.low < 0.8 and logged.high == 1
    both = users([1] * 20)
    row = analyze(both, metrics="x").table.iloc[0]
    assert row.low < 0 < row.high and row.p_value == 1
    rates = two_proportion_test(10, 10, 10, 10).to_frame()
    assert (rates.low[:3] < rates.high[:3]).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(0, 1))
def test_metrics_stay_inside(seed, n, rate):
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.5
    y[:2] = [True, False]
    score = np.clip(np.where(rng.random(n) < rate, y, rng.random(n)), 0.01, 0.99)
    auc = ranker_metrics(y, score, n_boot=200, seed=seed).to_frame().iloc[0]
    assert auc.metric == "auc" and 0 <= auc.low <= auc.high <= 1
    assert auc.low < auc.high
    table = reliability(y, score, n_bins=1, n_boot=0).table
    assert (table.low >= 0).all() and (table.high <= 1).all()


@given(st.integers(0, 10), st.integers(0, 10))
def test_shares_stay_inside(a, b):
    frame = users([1] * a + [0] * (10 - a) + [1] * b + [0] * (10 - b))
    row = analyze(frame, metrics="x").table.iloc[0]
    assert -1 <= row.low <= row.difference <= row.high <= 1 and row.low < row.high
    assert 0 <= row.p_value <= 1


# ---- analysis


def users(x, **columns):
    "One row per user, the first half in the control."
    n = len(x)
    arm = np.where(np.arange(n) < n // 2, "control", "treatment")
    return pd.DataFrame({"user_id": np.arange(n), "variant": arm, "x": x, **columns})


def sessions(seed=0, n=1000):
    "Five sessions a user with a purchase or none."
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(n), 5)
    rate = np.where(who % 2, 0.24, 0.2)
    return pd.DataFrame(
        {
            "user_id": who,
            "variant": np.where(who % 2, "treatment", "control"),
            "timestamp": pd.Timestamp("2024-03-01") + pd.to_timedelta(who % 28, "D"),
            "bought": (rng.random(len(who)) < rate).astype(int),
        }
    )


@pytest.mark.parametrize("kind", ["mean", "share"])
def test_one_cell_does_not_change_the_estimand(kind):
    log = sessions()
    twice = log.copy()
    twice.loc[7, "bought"] = 2
    for run in (
        lambda d: analyze(d, metrics="bought", kind=kind).table.iloc[0],
        lambda d: monitor(d, "bought", kind=kind, every="W").table.iloc[-1],
    ):
        assert run(twice).lift == pytest.approx(run(log).lift, abs=0.01)
    plans = [duration(d, "bought", kind=kind, days=[20]) for d in (log, twice)]
    base = [p.table.baseline[0] for p in plans]
    assert base[1] == pytest.approx(base[0], rel=0.01)
    words = {"mean": "mean per user", "share": "share of users with at least one"}
    said = analyze(log, metrics="bought", kind=kind)
    assert words[kind] in repr(said) and words[kind] in said.page()
    assert said.table.estimand[0] == words[kind]
    watching = monitor(log, "bought", kind=kind)
    assert words[kind] in repr(plans[0]) and words[kind] in repr(watching)


def test_kinds_by_hand():
    log = pd.DataFrame(
        {
            "user_id": ["a", "a", "b", "c", "c", "d"],
            "variant": ["control"] * 3 + ["treatment"] * 3,
            "x": [1, 1, 0, 1, 0, 1],
        }
    )
    share = analyze(
        log.assign(y=[2, 0, 1, 3, 3, 1]), metrics=["y", "x"], kind={"x": "share"}
    )
    mean, part = share.table.itertuples()
    assert (mean.control, mean.treatment) == (1.5, 3.5)
    assert (part.control, part.treatment) == (0.5, 1.0)
    with pytest.raises(ExperimentError, match="kind='median' of metric 'x'"):
        analyze(log, metrics="x", kind="median")


def test_winsorize():
    rng = np.random.default_rng(0)
    frame = users(rng.exponential(size=400))
    frame.loc[3, "x"] = 1e6
    found = analyze(frame, metrics="x", winsorize=0.99)
    capped = frame.x.clip(upper=frame.x.quantile(0.99))
    assert found.table.control[0] == pytest.approx(capped[:200].mean())
    assert "capped at the 0.99 quantile" in repr(found)
    with pytest.raises(ExperimentError, match="winsorize=99"):
        analyze(frame, metrics="x", winsorize=99)
    with pytest.raises(ExperimentError, match="winsorize names 'r'"):
        analyze(frame.assign(m=1), metrics={"r": "x/m"}, winsorize={"r": 0.9})


def test_users_in_two_arms():
    frame = users(np.arange(20.0))
    late = pd.DataFrame({"user_id": [0], "variant": ["treatment"], "x": [5.0]})
    both = pd.concat([late.assign(t=2), frame.assign(t=1)])
    with pytest.raises(ExperimentError, match="user_policy"):
        analyze(both, metrics="x")
    with pytest.warns(UserWarning, match="1 users are in two variants, e.g. 0: left"):
        out = analyze(both, metrics="x", user_policy="exclude")
    assert out.table.n_control[0] == 9
    with pytest.warns(UserWarning, match="first arm"):
        first = analyze(both, metrics="x", user_policy="first", time="t").table
    assert first.n_control[0] == 10 and first.control[0] == pytest.approx(5.0)


def test_planned_shares_and_refunds():
    rng = np.random.default_rng(0)
    frame = users(rng.integers(0, 50, 1000))
    frame["variant"] = np.where(np.arange(1000) < 100, "treatment", "control")
    frame.loc[5, "x"] = -20
    found = analyze(
        frame,
        metrics={"revenue": "x"},
        expected={"control": 0.9, "treatment": 0.1},
        unbounded=["revenue"],
    )
    assert not found.srm.mismatch
    with pytest.raises(ExperimentError, match="unbounded"):
        analyze(frame, metrics="x", expected={"control": 9, "treatment": 1})


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=8), st.integers(2, 4))
def test_planned_shares_may_be_rounded(parts, digits):
    "Whole parts, their shares, and the shares as one writes them plan the same split."
    arms = [f"arm {n}" for n in range(len(parts))]
    shares = np.array(parts) / sum(parts)
    np.testing.assert_allclose(expected_shares(parts, arms), shares)
    np.testing.assert_allclose(expected_shares(shares, arms), shares)
    rounded = shares.round(digits)
    if (rounded > 0).all():
        found = expected_shares(dict(zip(arms, rounded, strict=True)), arms)
        assert abs(found.sum() - 1) < 1e-12
        assert abs(found - shares).max() < 0.5 * len(parts) * 10**-digits


@given(st.lists(st.floats(0.01, 3), min_size=2, max_size=6))
def test_shares_that_do_not_sum_to_1_are_refused(shares):
    assume(abs(sum(shares) - 1) > 0.005 * len(shares))
    assume(any(share != int(share) for share in shares))
    arms = list(range(len(shares)))
    with pytest.raises(ExperimentError, match=re.escape(f"sum to {sum(shares):g}")):
        expected_shares(shares, arms)
    counts = dict.fromkeys(arms, 100)
    with pytest.raises(ExperimentError, match="not to 1"):
        srm_test(counts, shares)


def test_arms_that_differ_by_a_blank():
    frame = users(np.arange(20.0))
    frame.loc[0, "variant"] = "Control "
    with pytest.raises(ExperimentError, match="'Control ' and 'control'"):
        analyze(frame, metrics="x", control="control")


@pytest.mark.parametrize("level", [0, 1e6, 1e12, -1e12])
def test_small_differences_of_large_numbers(level):
    "1e12 ± 1 is tested like 0 ± 1."
    step = np.resize([-1.0, 1.0, 1.0], 200) + np.where(np.arange(200) < 100, 0, 0.5)
    row = analyze(users(level + step), metrics="x", unbounded=["x"]).table.iloc[0]
    want = stats.ttest_ind(step[100:], step[:100], equal_var=False)
    assert row.difference == pytest.approx(
        step[100:].mean() - step[:100].mean(), abs=1e-3
    )
    assert row.p_value == pytest.approx(want.pvalue, rel=0.02)


def test_zero_variance():
    with pytest.raises(ExperimentError, match="zero variance.*5 in the control"):
        analyze(users([5.0] * 20), metrics="x")
    with pytest.raises(ExperimentError, match="2 in the treatment"):
        analyze(users([1.5] * 10 + [2.0] * 10), metrics="x")
    all_or_none = analyze(users([0] * 10 + [1] * 10), metrics="x").table.iloc[0]
    assert all_or_none.p_value == pytest.approx(
        stats.fisher_exact([[0, 10], [10, 0]]).pvalue
    )
    assert 0 < all_or_none.low < all_or_none.high == 1


def test_segments_are_corrected_together():
    rng = np.random.default_rng(2)
    n = 600
    groups = {f"s{c}": rng.integers(3, size=n) for c in range(5)}
    found = analyze(
        users(rng.exponential(size=n), **groups), metrics="x", segments=list(groups)
    )
    tests = found.segments.drop_duplicates("segment")
    np.testing.assert_allclose(
        tests.p_differs_adjusted, correct_holm(tests.p_differs.to_numpy())
    )
    assert "adjusted p" in repr(found)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_cochran_does_not_depend_on_alpha(alpha):
    rng = np.random.default_rng(0)
    frame = users(rng.exponential(size=400), s=rng.integers(3, size=400))
    found = analyze(frame, metrics="x", segments="s", alpha=alpha).segments
    d, se = found.difference, found.se
    q = ((d - np.average(d, weights=se**-2)) ** 2 / se**2).sum()
    assert found.p_differs[0] == pytest.approx(stats.chi2.sf(q, 2))


# ---- looks and priors


@given(
    st.lists(st.floats(0.02, 1), min_size=1, max_size=5, unique=True).map(sorted),
    st.sampled_from(["obrien-fleming", "pocock"]),
)
def test_any_looks_have_boundaries(looks, spending):
    found = group_sequential(looks, spending=spending)
    table = found.to_frame()
    assert np.isfinite(table.z).all() and (table.z > 1.9).all()
    assert table.spent.iloc[-1] <= 0.0501 and "looks" in repr(found)


@pytest.mark.parametrize("looks", [[0.05], [0.1, 0.2]])
def test_looks_that_end_early(looks):
    found = group_sequential(looks)
    spent = 4 * stats.norm.sf(stats.norm.isf(0.05 / 4) / np.sqrt(looks[0]))
    assert found.z[0] == pytest.approx(stats.norm.isf(spent / 2), rel=1e-6)
    assert found.cost()["inflation"] > 1


@given(
    st.floats(0.02, 1),
    st.floats(0.02, 1),
    st.lists(st.integers(0, 20), min_size=2, max_size=3),
)
def test_priors_below_one(a, b, wins):
    arms = {f"arm {i}": x for i, x in enumerate(wins)}
    table = beta_binomial(arms, dict.fromkeys(arms, 20), prior=(a, b)).table
    assert table.p_best.sum() == pytest.approx(1)
    assert table.p_best.between(-1e-9, 1 + 1e-9).all()
    assert (table.expected_loss >= 0).all()
    assert table.p_best.idxmax() in np.flatnonzero(np.array(wins) == max(wins))


def test_jeffreys_against_draws():
    found = beta_binomial({"a": 0, "b": 2}, {"a": 20, "b": 20}, prior=(0.5, 0.5))
    rates = np.random.default_rng(0).beta(found.a, found.b, (400_000, 2))
    best = (rates.argmax(1)[:, None] == np.arange(2)).mean(0)
    np.testing.assert_allclose(found.table.p_best, best, atol=0.003)
    loss = (rates.max(1, keepdims=True) - rates).mean(0)
    np.testing.assert_allclose(found.table.expected_loss, loss, atol=3e-4)


# ---- monitoring


def watched(n=2000, zone=None, days=60, share=0.5, rates=(0.1, 0.1), seed=0):
    rng = np.random.default_rng(seed)
    arm = (rng.random(n) < share).astype(int)
    at = pd.Timestamp("2024-03-05", tz=zone) + pd.to_timedelta(
        rng.uniform(0, days, n), "D"
    )
    return pd.DataFrame(
        {
            "user_id": np.arange(n),
            "variant": np.array(["A", "B"])[arm],
            "timestamp": at,
            "bought": (rng.random(n) < np.array(rates)[arm]).astype(int),
        }
    )


@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "America/Santiago"])
@pytest.mark.parametrize(
    "every", ["h", "6h", "D", "7D", "W", "W-TUE", "MS", "ME", "M", "QS"]
)
def test_periods_of_any_length(every, zone):
    "Every row is counted once, in a period that ends after it, across clock changes."
    log = watched(zone=zone)
    table = monitor(log, "bought", every=every).table
    assert table.time.is_monotonic_increasing and table.users.iloc[-1] == len(log)
    for i in (0, len(table) // 2):
        assert table.users[i] == (log.timestamp < table.time[i]).sum()
    if every in ("W", "MS"):
        assert {(t.hour, t.minute) for t in table.time} == {(0, 0)}


def test_offsets_that_change():
    log = watched(zone="Europe/Berlin")
    text = log.assign(timestamp=log.timestamp.map(lambda t: t.isoformat()))
    assert monitor(text, "bought").table.users.iloc[-1] == len(log)


@pytest.mark.parametrize("every", ["fortnight", "", "0D", "-1D"])
def test_periods_that_are_none(every):
    with pytest.raises(ExperimentError, match="is no length of a period"):
        monitor(watched(), "bought", every=every)


def test_planned_split_of_named_arms():
    log = watched(share=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = monitor(log, "bought", expected={"A": 0.9, "B": 0.1}, min_users=50)
    assert found.arms == ("A", "B") and "of 'B' against 'A'" in repr(found)
    with pytest.warns(UserWarning, match="MISMATCH: A .*B "):
        monitor(log, "bought")


def test_an_arm_without_conversions():
    log = watched(n=6000, rates=(0.1, 0.0))
    found = monitor(log, "bought", effect=1.0)
    assert found.scale == "difference" and found.decided is not None
    last = found.table.iloc[-1]
    assert last.difference == pytest.approx(-last.control) and last.high < 0
    assert "difference" in repr(found) and found.plot().get_ylabel().startswith("diff")
    nobody = monitor(log.assign(bought=0), "bought")
    assert nobody.decided is None and nobody.table.low.isna().all()
    matplotlib.pyplot.close("all")


def test_nothing_is_decided_by_few():
    log = watched(n=800, rates=(0.02, 0.5))
    assert monitor(log, "bought", effect=1.0).decided is None
    assert "500 users in each arm" in repr(monitor(log, "bought"))
    assert monitor(log, "bought", effect=1.0, min_users=100).decided is not None


def test_heavy_tails_wait_for_more():
    rng = np.random.default_rng(0)
    log = watched(n=3000)
    log["revenue"] = log.bought * rng.lognormal(3, 2, len(log))
    found = monitor(log, "revenue", effect=1.0)
    assert found.min_users > 1500 and found.decided is None


# ---- truths and ids

LISTS = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [10, 11, 10], "rank": [1, 2, 1]})


@pytest.mark.parametrize("column", ["value", "relevance"])
@pytest.mark.parametrize("gain", ["binary", "linear", "exponential"])
def test_relevance_zero_is_not_relevant(column, gain):
    truth = pd.DataFrame(
        {"user_id": [1, 1, 2], "item_id": [10, 11, 10], column: [0, 2, 0]}
    )
    options = {"k": 2, "gain": gain, "n_boot": 0}
    found = evaluate(LISTS, truth, **options)
    alone = evaluate(LISTS, truth[truth[column] > 0], **options)
    assert found["recall@2"] == 1 and found["precision@2"] == 0.5
    pd.testing.assert_series_equal(found.values, alone.values)
    assert found.counts["users"] == 1


@pytest.mark.parametrize("key", ["user_id", "item_id"])
@pytest.mark.parametrize("side", [0, 1])
def test_ids_of_two_types(key, side):
    truth = LISTS[["user_id", "item_id"]]
    frames = [LISTS, truth]
    frames[side] = frames[side].astype({key: str})
    with pytest.raises(MetricsError, match="of one type") as e:
        evaluate(*frames, k=2)
    one = LISTS[key].iloc[0]
    assert repr(int(one)) in str(e.value) and repr(str(one)) in str(e.value)


@pytest.mark.parametrize("change", ["{} ", "00{}", " {}", "{}\t"])
def test_ids_that_differ_by_their_writing(change):
    text = LISTS.astype({"user_id": str, "item_id": str})
    truth = text[["user_id", "item_id"]].assign(item_id=text.item_id.map(change.format))
    with pytest.raises(MetricsError, match="blanks, leading zeros or capitals") as e:
        evaluate(text, truth, k=2)
    assert repr("10") in str(e.value) and repr(change.format("10")) in str(e.value)


def test_lists_without_a_hit_are_no_error():
    truth = pd.DataFrame({"user_id": [1, 2], "item_id": [98, 99]})
    assert evaluate(LISTS, truth, k=2, n_boot=0)["recall@2"] == 0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=30)
)
def test_numbers_and_text_give_the_same(pairs):
    "Ids written as numbers on both sides, or as text on both, are evaluated alike."
    truth = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    lists = pd.DataFrame({"user_id": np.repeat(np.arange(6), 3)})
    lists = lists.assign(item_id=np.tile([0, 1, 2], 6), rank=np.tile([1, 2, 3], 6))
    text = [f.astype({"user_id": str, "item_id": str}) for f in (lists, truth)]
    a, b = evaluate(lists, truth, k=3, n_boot=0), evaluate(*text, k=3, n_boot=0)
    pd.testing.assert_series_equal(a.values, b.values)
