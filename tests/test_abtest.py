"""The statistics of recsys_nb.experiments against statsmodels, scipy and tea-tasting on
random inputs, and what bad data gets."""

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

matplotlib.use("Agg")
from recsys_nb.evaluation import correct_holm as _holm  # noqa: E402
from recsys_nb.experiments import (  # noqa: E402
    analyze,
    delta_method,
    power,
    srm_test,
    two_proportion_test,
)
from recsys_nb.experiments import (
    newcombe_interval as _newcombe,
)
from recsys_nb.experiments import (
    wilson_interval as _wilson,
)

proportion = pytest.importorskip("statsmodels.stats.proportion")
tt = pytest.importorskip("tea_tasting")

rng = np.random.default_rng(7)
COUNTS = [
    (int(x0), int(n0), int(x1), int(n1))
    for n0, n1 in rng.integers(5, 5_000, (40, 2))
    for x0, x1 in [(rng.integers(0, n0 + 1), rng.integers(0, n1 + 1))]
]


@pytest.mark.parametrize("x0,n0,x1,n1", COUNTS)
def test_against_statsmodels(x0, n0, x1, n1):
    r = two_proportion_test(x0, n0, x1, n1, alpha=0.1)
    z, p = proportion.proportions_ztest([x1, x0], [n1, n0])
    np.testing.assert_allclose([r.z, r.p_value], [z, p], rtol=1e-9)
    np.testing.assert_allclose(
        r.ci,
        proportion.confint_proportions_2indep(
            x1, n1, x0, n0, method="newcomb", alpha=0.1
        ),
        rtol=1e-9,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        _wilson(x0, n0, stats.norm.isf(0.05)),
        proportion.proportion_confint(x0, n0, alpha=0.1, method="wilson"),
        atol=1e-12,
    )
    if min(x0, x1) > 0 and x0 < n0 and x1 < n1:
        ratio = proportion.confint_proportions_2indep(
            x1, n1, x0, n0, compare="ratio", method="log", alpha=0.1
        )
        np.testing.assert_allclose(r.lift_ci, np.array(ratio) - 1, rtol=1e-9)


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize("rate", [0.9, 0.97, 1])
def test_lifts_of_nearly_full_arms_are_covered(n, rate):
    "Exact coverage of the interval of the lift over all pairs of counts."
    counts = np.arange(1, n + 1)
    chances = stats.binom.pmf(counts, n, rate)
    covered = 0.0
    for x0, chance0 in zip(counts, chances, strict=True):
        for x1, chance1 in zip(counts, chances, strict=True):
            if chance0 * chance1 < 1e-6:
                continue
            low, high = two_proportion_test(x0, n, x1, n).lift_ci
            assert low < high
            covered += chance0 * chance1 * (low <= 0 <= high)
    assert covered >= 0.93


def test_fieller_inverts_its_test():
    """At each end of Fieller's interval the test of p1 - theta * p0 = 0 is exactly at
    its critical value."""
    for x0, n0, x1, n1 in [
        (1_250, 50_000, 1_400, 50_000),
        (30, 900, 45, 1_000),
        (400, 1_000, 20, 300),
    ]:
        r = two_proportion_test(x0, n0, x1, n1)
        p0, p1 = r.rates
        for lift in r.lift_fieller:
            t = 1 + lift
            z = (p1 - t * p0) / np.sqrt(p1 * (1 - p1) / n1 + t**2 * p0 * (1 - p0) / n0)
            assert abs(abs(z) - stats.norm.isf(0.025)) < 1e-9


@pytest.mark.parametrize(
    "x0,x1,n",
    [(0, 0, 50), (0, 5, 50), (5, 0, 50), (50, 50, 50), (50, 49, 50), (1, 1, 1)],
)
def test_edges_print_and_plot(x0, x1, n):
    r = two_proportion_test(x0, n, x1, n)
    assert np.isfinite(r.ci).all() and -1 <= r.ci[0] <= r.difference <= r.ci[1] <= 1
    assert np.isnan(r.z) == (x0 == x1 and x0 in (0, n)) and not (
        np.isnan(r.z) and r.significant
    )
    assert "nan" not in repr(r) and len(r.to_frame()) == 5
    assert len(r.plot()) == 2
    matplotlib.pyplot.close("all")


def test_newcombe_covers():
    "Coverage over all outcomes of two small arms, exactly enumerated, stays near 95%."
    n, p0, p1 = 40, 0.1, 0.25
    w = [stats.binom.pmf(np.arange(n + 1), n, p) for p in (p0, p1)]
    cover = sum(
        w[0][a] * w[1][b]
        for a in range(n + 1)
        for b in range(n + 1)
        for low, high in [_newcombe(a, n, b, n, 1.959964)]
        if low <= p1 - p0 <= high
    )
    assert 0.935 < cover < 0.97


def users(n=3_000, seed=0, arms=("control", "treatment")):
    g = np.random.default_rng(seed)
    m, b = g.geometric(0.1, n), g.geometric(0.1, n)
    p = g.beta(2, 30, n)
    return pd.DataFrame(
        {
            "user_id": np.arange(n),
            "variant": g.choice(arms, n),
            "impressions": m,
            "clicks": g.binomial(m, p),
            "impressions_before": b,
            "clicks_before": g.binomial(b, p),
            "converted": g.random(n) < 0.1,
            "revenue": g.lognormal(0, 1, n),
            "revenue_before": g.lognormal(0, 1, n),
        }
    )


METRICS = {"ctr": "clicks/impressions", "conversion": "converted", "revenue": "revenue"}


@pytest.mark.parametrize("seed", range(5))
def test_analyze_against_tea_tasting_and_scipy(seed):
    d = users(seed=seed)
    covariates = {
        "ctr": "clicks_before/impressions_before",
        "revenue": "revenue_before",
    }
    for cov in (None, covariates):
        t = (
            analyze(d, metrics=METRICS, covariates=cov, alpha=0.1)
            .to_frame()
            .set_index("metric")
        )
        e = tt.Experiment(
            {
                "ctr": tt.RatioOfMeans(
                    "clicks",
                    "impressions",
                    *(("clicks_before", "impressions_before") if cov else ()),
                    confidence_level=0.9,
                ),
                "conversion": tt.Mean("converted", confidence_level=0.9),
                "revenue": tt.Mean(
                    "revenue",
                    *(("revenue_before",) if cov else ()),
                    confidence_level=0.9,
                ),
            }
        )
        for name, r in e.analyze(
            d.assign(converted=d.converted.astype(int)), control="control"
        ).items():
            row = t.loc[name]
            np.testing.assert_allclose(
                [
                    row.control,
                    row.treatment,
                    row.difference,
                    row.low,
                    row.high,
                    row.lift,
                    row.lift_low,
                    row.lift_high,
                    row.p_value,
                    row.statistic,
                ],
                [
                    r.control,
                    r.treatment,
                    r.effect_size,
                    r.effect_size_ci_lower,
                    r.effect_size_ci_upper,
                    r.rel_effect_size,
                    r.rel_effect_size_ci_lower,
                    r.rel_effect_size_ci_upper,
                    r.pvalue,
                    r.statistic,
                ],
                rtol=1e-7,
            )
            assert (row.fieller_low > 0 or row.fieller_high < 0) == (
                row.p_value < 0.1
            )  # Fieller agrees with the test
    x = d.groupby("variant").revenue.apply(np.array)
    w = stats.ttest_ind(x["treatment"], x["control"], equal_var=False)
    np.testing.assert_allclose(
        analyze(d, metrics="revenue").table.p_value[0], w.pvalue, rtol=1e-9
    )


def test_delta_method_against_tea_tasting():
    d = users()
    ratio, sd = delta_method(d.clicks, d.impressions)
    a = tt.aggr.read_aggregates(
        d,
        None,
        has_count=True,
        mean_cols=("clicks", "impressions"),
        var_cols=("clicks", "impressions"),
        cov_cols=(("clicks", "impressions"),),
    )
    np.testing.assert_allclose(
        [ratio, sd**2],
        [d.clicks.sum() / d.impressions.sum(), a.ratio_var("clicks", "impressions")],
        rtol=1e-9,
    )


def test_events_equal_users():
    "Several rows a user, in any order, give what one row a user gives."
    d = users(800).assign(converted=lambda x: x.converted.astype(int))
    first = d.impressions // 2
    part = d.assign(
        impressions=first, clicks=np.minimum(d.clicks, first), revenue=d.revenue / 4
    )
    rest = d.assign(
        impressions=d.impressions - part.impressions,
        clicks=d.clicks - part.clicks,
        revenue=d.revenue * 0.75,
    )
    events = pd.concat([part, rest]).sample(frac=1, random_state=0)
    kw = {
        "metrics": METRICS,
        "covariates": {"ctr": "clicks_before/impressions_before"},
        "kind": {"conversion": "share"},
    }
    pd.testing.assert_frame_equal(
        analyze(events, **kw).to_frame(), analyze(d, **kw).to_frame()
    )


def test_holm_against_statsmodels():
    from statsmodels.stats.multitest import multipletests

    for k in (1, 2, 7):
        p = np.random.default_rng(k).random(k) ** 3
        np.testing.assert_allclose(_holm(p), multipletests(p, method="holm")[1])


def test_bh_against_statsmodels():
    from statsmodels.stats.multitest import multipletests

    t = analyze(
        users(arms=("control", "b", "c")), metrics=METRICS, correction="bh"
    ).to_frame()
    np.testing.assert_allclose(
        t.p_adjusted, multipletests(t.p_value, method="fdr_bh")[1]
    )
    none = analyze(
        users(arms=("control", "b", "c")), metrics=METRICS, correction="none"
    ).to_frame()
    np.testing.assert_array_equal(none.p_adjusted, none.p_value)


@pytest.mark.parametrize("seed", range(4))
def test_strata_against_the_formula(seed):
    """Post-stratified means and their variance, by a plain loop over strata; a
    regression with strata and their interactions gives the same estimate."""
    import statsmodels.formula.api as smf

    d = users(2_000, seed=seed)
    d["stratum"] = np.digitize(d.clicks_before, [1, 3])
    d["revenue"] *= 1 + d.stratum
    t = analyze(d, metrics="revenue", strata="stratum").table.iloc[0]
    share, parts = (
        d.stratum.value_counts(normalize=True),
        d.groupby(["variant", "stratum"]).revenue,
    )
    mean = (parts.mean() * share).groupby("variant").sum()
    var = (parts.var() / parts.size() * share**2).groupby("variant").sum()
    np.testing.assert_allclose([t.control, t.treatment], mean[["control", "treatment"]])
    np.testing.assert_allclose(
        t.statistic, (mean["treatment"] - mean["control"]) / np.sqrt(var.sum())
    )
    fit = smf.ols(
        "revenue ~ T * C(stratum)", d.assign(T=(d.variant == "treatment") * 1.0)
    ).fit()
    effect = fit.params["T"] + sum(
        share[s] * fit.params[f"T:C(stratum)[T.{s}]"] for s in (1, 2)
    )
    np.testing.assert_allclose(t.difference, effect)
    two = analyze(
        d.assign(half=d.user_id % 2),
        metrics=METRICS,
        strata=["stratum", "half"],
        covariates={"ctr": "clicks_before/impressions_before"},
    )
    assert len(two.table) == 3 and two.table.p_value.between(0, 1).all()


def test_one_stratum_is_no_stratum():
    d = users().assign(one="x")
    kw = {"metrics": METRICS, "covariates": {"ctr": "clicks_before/impressions_before"}}
    pd.testing.assert_frame_equal(
        analyze(d, strata="one", **kw).to_frame(), analyze(d, **kw).to_frame()
    )


def test_guardrail_is_the_end_of_fiellers_interval():
    """A margin just inside the interval does not hold, just outside it does; the
    one-sided p agrees at half the level."""
    d = users(seed=3)
    base = analyze(d, metrics=METRICS).to_frame().set_index("metric").loc["revenue"]
    for margin, verdict in [
        (base.fieller_low - 1e-6, "holds"),
        (base.fieller_low + 1e-6, "not shown"),
    ]:
        row = (
            analyze(d, metrics=METRICS, guardrails={"revenue": margin})
            .to_frame()
            .set_index("metric")
            .loc["revenue"]
        )
        assert (
            (row.guardrail == verdict)
            and (row.p_margin < 0.025) == (verdict == "holds")
            and np.isnan(row.p_adjusted)
        )
    worse = d.assign(revenue=np.where(d.variant == "treatment", 0.5, 1.0) * d.revenue)
    a = analyze(worse, metrics=METRICS, guardrails={"revenue": -0.1})
    assert (
        a.decision.startswith("Do not ship")
        and "broken" in a.decision
        and a.plot().get_xlabel()
    )
    slower = d.assign(
        revenue=np.where(d.variant == "treatment", 2.0, 1.0) * d.revenue
    )  # a rise to be avoided: 10% more is tolerable
    assert (
        analyze(
            slower, metrics=["converted", "revenue"], guardrails={"revenue": 0.1}
        ).table.guardrail[1]
        == "broken"
    )
    matplotlib.pyplot.close("all")


def test_segments_are_the_analyses_of_their_users():
    d = users().assign(
        country=lambda x: np.array(["DE", "FR", "US"])[x.user_id % 3],
        half=lambda x: x.user_id % 2,
    )
    a = analyze(d, metrics=METRICS, segments=["country", "half"], correction="none")
    for (s, level), rows in a.segments.groupby(["segment", "level"]):
        alone = analyze(d[d[s] == level], metrics=METRICS, correction="none").to_frame()
        np.testing.assert_allclose(
            rows.set_index("metric")
            .loc[alone.metric, ["p_value", "lift", "low"]]
            .to_numpy(),
            alone[["p_value", "lift", "low"]].to_numpy(),
        )
    assert (
        "country" in repr(a)
        and (a.segments.groupby(["segment", "metric"]).p_differs.nunique() == 1).all()
    )
    d.loc[d.country == "US", "clicks"] = np.where(
        d.variant == "treatment", 0, d.clicks
    )[d.country == "US"]
    assert analyze(d, metrics=METRICS, segments="country").segments.p_differs[0] < 1e-6
    tiny = d.assign(country=d.country.where(d.user_id > 0, "AT"))
    row = analyze(tiny, metrics=METRICS, segments="country").segments.query(
        "level == 'AT'"
    )
    assert row.p_value.isna().all() and not row.significant.any() and len(row) == 3


def test_cochran_against_statsmodels():
    from statsmodels.stats.meta_analysis import combine_effects

    d = users(6_000).assign(country=lambda x: x.user_id % 4)
    s = analyze(d, metrics="revenue", segments="country").segments
    ref = combine_effects(
        s.difference.to_numpy(), ((s.difference / s.statistic) ** 2).to_numpy()
    )
    np.testing.assert_allclose(s.p_differs[0], stats.chi2.sf(ref.q, 3))


def test_page_stands_alone():
    d = users().assign(country=lambda x: x.user_id % 3)
    page = analyze(
        d, metrics=METRICS, segments="country", guardrails={"revenue": -0.5}
    ).page("<Test> & more")
    assert (
        "&lt;Test&gt; &amp; more" in page
        and page.count("data:image/png;base64,") == 2
        and "//" not in page.replace("data:image/png;base64,", "").split("src=")[0]
    )
    assert not [
        w
        for w in ("http://", "https://", "<script", "nan")
        if w in page.split("base64,")[0]
    ]


def test_several_arms_types_and_options():
    d = users(arms=(0, 1, 2)).drop(columns="user_id")
    a = analyze(d, metrics=METRICS, user=None, expected={0: 1, 1: 1, 2: 1})
    assert (
        a.control == 0
        and len(a.table) == 6
        and str(a).count("No decision") + str(a).count("hip") >= 2
    )
    assert a.plot().get_xlabel().startswith("lift")
    back = analyze(d, metrics=METRICS, user=None, control=2)
    two = (
        a.table[(a.table.variant == 2)].reset_index(),
        back.table[back.table.variant == 0].reset_index(),
    )
    np.testing.assert_allclose(two[0].difference, -two[1].difference)
    cat = analyze(
        d.assign(variant=d.variant.map({0: "a", 1: "b", 2: "c"}).astype("category")),
        metrics=METRICS,
        user=None,
    )
    np.testing.assert_allclose(cat.table.p_value, a.table.p_value)
    orders = d.assign(clicks=d.impressions * 2)
    orders.loc[0, "clicks"] = 0
    with pytest.raises(ValueError, match="clicks exceeds impressions"):
        analyze(orders, metrics=METRICS, user=None)
    analyze(orders, metrics=METRICS, user=None, unbounded=["ctr"])
    matplotlib.pyplot.close("all")


def change(**kw):
    def f(d):
        d = d.copy()
        for c, v in kw.items():
            d[c] = d[c].astype(object) if isinstance(v, str) or v is None else d[c]
            d.loc[3, c] = v
        return d

    return f


@pytest.mark.parametrize(
    "broken,kw,message",
    [
        (
            lambda d: pd.concat(
                [
                    d,
                    d.head(1).assign(
                        variant=d.variant.map(
                            {"control": "treatment", "treatment": "control"}
                        )
                    ),
                ]
            ),
            {},
            "user 0 is in two variants",
        ),
        (lambda d: d[d.variant == "control"], {}, "only the variant 'control'"),
        (lambda d: d.iloc[:0], {}, "no rows"),
        (change(variant=None), {}, "variant is null in 1 rows, the first is row 3"),
        (
            lambda d: d.assign(user_id=d.user_id.where(d.user_id != 3)),
            {},
            "user_id is null in 1 rows, the first is row 3",
        ),
        (lambda d: d.assign(revenue=1.5), {}, "'revenue' has zero variance"),
        (lambda d: d.assign(clicks=0), {}, "'ctr' has zero variance"),
        (
            lambda d: d.assign(impressions=0, clicks=0),
            {},
            "a denominator is 0 for every user",
        ),
        (change(clicks=-2), {}, "'clicks' has negative counts, first for user 3"),
        (
            change(clicks=5_000),
            {},
            "clicks exceeds impressions for 1 users, first for 3",
        ),
        (
            lambda d: change(revenue=np.nan)(d).sample(frac=1, random_state=0),
            {},
            "'revenue' is null or infinite in 1 rows, the first is row 3",
        ),
        (lambda d: d, {"variant": "arm"}, "no column 'arm'"),
        (lambda d: d, {"user": "visitor"}, "no column 'visitor'"),
        (lambda d: d, {"metrics": []}, "metrics is empty"),
        (lambda d: d, {"metrics": "clicks/views"}, "no column 'views'"),
        (lambda d: d, {"metrics": "/clicks"}, "neither 'column' nor"),
        (lambda d: d, {"control": "x"}, "control='x' is not one of"),
        (
            lambda d: d.replace({"control": "old", "treatment": "new"}),
            {},
            "which variant is the control",
        ),
        (lambda d: d, {"alpha": 0}, "alpha must lie between"),
        (lambda d: d, {"unbounded": ["x"]}, "'x', which is not among the metrics"),
        (lambda d: d, {"expected": {"control": 1}}, "the data has"),
        (lambda d: d, {"strata": "city"}, "no column 'city' for strata"),
        (
            lambda d: d.assign(
                city=pd.Series(["x"] * (len(d) - 1) + [None], dtype=object)
            ),
            {"strata": "city"},
            "strata: city is null in 1 rows",
        ),
        (
            lambda d: d.assign(city=d.user_id),
            {"strata": "city"},
            "at least 2 are needed; merge small strata",
        ),
        (
            lambda d: d,
            {"segments": ["variant", "city"]},
            "no column 'city' for segments",
        ),
        (
            lambda d: pd.concat([d, d.assign(city=1)]).assign(
                city=lambda x: x.city.fillna(0) if "city" in x else 0
            ),
            {"segments": "city"},
            "city differs between rows of one user",
        ),
        (lambda d: d, {"guardrails": {"sales": -0.1}}, "guardrails names 'sales'"),
        (
            lambda d: d,
            {"guardrails": {"ctr": -0.1}},
            "the first metric, 'ctr', decides",
        ),
        (
            lambda d: d,
            {"guardrails": {"revenue": -2}},
            "the margin of guardrail 'revenue' is -2",
        ),
        (lambda d: d, {"correction": "x"}, "correction='x' is not one of"),
        (
            lambda d: d.assign(variant=["treatment"] + ["control"] * (len(d) - 1)),
            {},
            "'treatment' has 1 user",
        ),
    ],
)
def test_bad_frames(broken, kw, message):
    with pytest.raises(ValueError) as e:
        analyze(broken(users(400)), **{"metrics": METRICS, **kw})
    assert message in str(e.value)


def test_not_numeric():
    with pytest.raises(TypeError, match="'revenue' is not numeric"):
        analyze(users(100).astype({"revenue": str}), metrics="revenue")


def test_srm():
    for counts in ([10, 20], [300, 310, 290]):
        r = srm_test(counts)
        np.testing.assert_allclose([r.chi2, r.p_value], stats.chisquare(counts))
        assert len(r.to_frame()) == len(counts) and r.plot().get_ylabel()
    with pytest.warns(UserWarning, match="SAMPLE RATIO MISMATCH"):
        analyze(users(arms=("control",) * 3 + ("treatment",) * 2), metrics="revenue")
    for bad, message in [
        ([0, 0], "all counts are 0"),
        ([1.5, 2], "whole number"),
        ([5], "two arms"),
    ]:
        with pytest.raises(ValueError, match=message):
            srm_test(bad)
    with pytest.raises(ValueError, match="one positive share"):
        srm_test([5, 5], [1, 0])
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(
    "p0,mde", [(0.025, 0.12), (0.3, 0.05), (0.1, -0.2), (0.5, 0.5)]
)
def test_power_against_statsmodels(p0, mde):
    t = power(p0, mde=mde, n=4_000).table
    ref = proportion.power_proportions_2indep(p0 * mde, p0, 4_000, alpha=0.05)
    ref = getattr(ref, "power", ref)
    np.testing.assert_allclose(t.power[0], ref, rtol=1e-6)
    n = power(p0, mde=mde, power=0.9).table.n[0]
    assert (
        power(p0, mde=mde, n=int(n)).table.power[0]
        >= 0.9 - 1e-9
        > power(p0, mde=mde, n=int(n) - 1).table.power[0] - 1e-3
    )
    if mde > 0:
        np.testing.assert_allclose(
            power(p0, n=int(n), power=0.9).table.mde[0], mde, rtol=2e-2
        )


def test_power_of_means_against_tea_tasting():
    d = users(5_000)
    ratio, sd = delta_method(d.clicks, d.impressions)
    ref = (
        tt.RatioOfMeans(
            "clicks", "impressions", rel_effect_size=0.08, power=0.8, use_t=False
        )
        .solve_power(d, "n_obs")[0]
        .n_obs
    )
    assert abs(2 * power(ratio, mde=0.08, sd=sd).table.n[0] - ref) <= 2
    with pytest.raises(ValueError, match="too few"):
        power(0.5, n=2)
    r = power(0.1, n=[1_000, 10_000])
    assert (
        list(r.table.columns) == ["mde", "difference", "n", "power"]
        and r.plot().get_xscale() == "log"
    )
    matplotlib.pyplot.close("all")


def test_without_tea_tasting(monkeypatch):
    monkeypatch.setitem(sys.modules, "tea_tasting", None)
    with pytest.raises(ImportError, match=r"recsys_nb\[abtest\]"):
        analyze(users(100), metrics="revenue")
    two_proportion_test(5, 100, 9, 100)


def test_command(tmp_path, capsys):
    """The command prints the decision, writes a whole page or none, and says what is
    wrong with its words."""
    from recsys_nb.cli import main

    d = (
        users(2_000)
        .assign(
            country=lambda x: x.user_id % 2,
            arm=lambda x: x.variant.map({"control": 0, "treatment": 1}),
        )
        .rename(columns={"user_id": "member"})
    )
    d.to_csv(tmp_path / "shop.csv", index=False)
    words = [
        "abtest",
        str(tmp_path / "shop.csv"),
        "--variant",
        "arm",
        "--control",
        "0",
        "--metric",
        "clicks/impressions",
        "--user",
        "member",
    ]
    more = [
        "--guardrail",
        "revenue=-0.3",
        "--covariate",
        "clicks/impressions=clicks_before/impressions_before",
        "--strata",
        "country",
        "--segment",
        "country",
        "--correction",
        "bh",
        "--alpha",
        "0.1",
    ]
    assert main([*words, *more, "--out", str(tmp_path / "page.html")]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    found = analyze(
        d,
        "arm",
        metrics=["clicks/impressions", "revenue"],
        user="member",
        alpha=0.1,
        guardrails={"revenue": -0.3},
        covariates={"clicks/impressions": "clicks_before/impressions_before"},
        strata="country",
        segments=["country"],
        correction="bh",
    )
    assert (
        out.startswith(str(found))
        and "page.html" in out
        and "Experiment shop" in page
        and [p.name for p in tmp_path.glob("page*")] == ["page.html"]
    )
    assert (
        main(
            [
                *words[:2],
                "--metric",
                "revenue",
                "--variant",
                "variant",
                "--user",
                "member",
            ]
        )
        == 0
        and "decision" in capsys.readouterr().out.lower()
    )
    for extra, message in [
        (
            ["--guardrail", "revenue"],
            "--guardrail 'revenue' is not of the form METRIC=VALUE",
        ),
        (["--guardrail", "revenue=much"], "could not convert"),
        (["--out", "page.csv"], "name an .html file"),
        (["--out", str(tmp_path / "no" / "p.html")], "in a folder that exists"),
        (["--segment", "city"], "no column 'city'"),
        (["--variant", "group"], "no column 'group'"),
        (["--alpha", "7"], "alpha must lie between"),
    ]:
        assert main([*words, *extra]) == 2 and message in capsys.readouterr().err
    d[(d.arm == 0) | (d.member % 3 > 0)].to_csv(tmp_path / "lost.csv", index=False)
    assert main(["abtest", str(tmp_path / "lost.csv"), *words[2:]]) == 0
    said = capsys.readouterr()
    assert (
        said.out.startswith("SAMPLE RATIO MISMATCH")
        and "Do not decide" in said.out
        and not said.err
    )
