"""Boundaries, confidence sequences, monitoring and Beta-Binomial posteriors against
independent computations."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import trapezoid

matplotlib.use("Agg")
pytest.importorskip("tea_tasting")
from recsys_nb.experiments import (  # noqa: E402  # noqa: E402
    ExperimentError,
    always_valid_p,
    beta_binomial,
    confidence_sequence,
    delta_method,
    duration,
    group_sequential,
    monitor,
    tuned_tau,
)


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
@pytest.mark.parametrize(
    "looks,alpha", [([0.3, 0.7], 0.05), ([0.2, 0.5, 1], 0.1), ([0.1, 0.11, 0.9], 0.01)]
)
def test_boundaries_against_the_multivariate_normal(looks, alpha, spending):
    "The probability of never crossing, by scipy's multivariate normal distribution."
    b = group_sequential(looks, alpha, spending)
    t, z = b.information, b.z * np.sqrt(b.information)
    for drift in (0.0, 2.5):
        stays = stats.multivariate_normal(
            drift * t, np.minimum.outer(t, t), maxpts=10**6, abseps=1e-8, releps=1e-8
        ).cdf(z, lower_limit=-z)
        np.testing.assert_allclose(1 - b.exits(drift).sum(), stays, atol=2e-6)


def test_spending_is_spent():
    t = np.array([0.25, 0.5, 1])
    for spending, f in [
        ("obrien-fleming", 4 * stats.norm.sf(stats.norm.isf(0.0125) / np.sqrt(t))),
        ("pocock", 0.05 * np.log(1 + (np.e - 1) * t)),
    ]:
        b = group_sequential(t, spending=spending)
        np.testing.assert_allclose(b.to_frame().spent, f, atol=1e-8)
    assert (
        len(group_sequential(200).z) == 200
        and np.isfinite(group_sequential(200).z).all()
    )
    b = group_sequential(3)
    assert (
        "3 looks" in repr(b)
        and b.plot().get_ylabel() == "z"
        and list(b.to_frame().columns)
        == ["look", "information", "z", "p", "spent", "power"]
    )
    matplotlib.pyplot.close("all")


def test_sequence_inverts_the_mixture():
    """The mixture likelihood ratio, integrated numerically, is 1/alpha at the ends of
    the interval."""
    for se, tau, alpha in [(0.1, 0.05, 0.05), (0.02, 0.3, 0.1), (1.0, 1.0, 0.01)]:
        edge = confidence_sequence(0.0, se, tau, alpha)[1]
        g = np.linspace(-12 * max(tau, se), 12 * max(tau, se), 400_001)
        ratio = trapezoid(
            stats.norm.pdf(g, 0, tau) * np.exp(g * edge / se**2 - g**2 / (2 * se**2)), g
        )
        np.testing.assert_allclose(ratio, 1 / alpha, rtol=1e-6)
        np.testing.assert_allclose(
            always_valid_p(np.array([edge]), np.array([se]), tau), alpha, rtol=1e-9
        )
    assert (
        np.isnan(confidence_sequence(np.nan, 0.1, 0.1)[0])
        and always_valid_p(np.array([np.nan, 5.0]), np.array([0.1, 0.1]), 0.1)[0] == 1
    )
    assert tuned_tau(2.0) == pytest.approx(2 * tuned_tau(1.0))


def test_sequence_covers_for_ever():
    """Over 5,000 looks at independent data the sequence misses in at most 5% of the
    experiments."""
    x = np.random.default_rng(0).normal(size=(1_000, 5_000)).cumsum(1)
    n = np.arange(1, 5_001)
    low, high = confidence_sequence(x / n, 1 / np.sqrt(n), tau=0.1)
    missed = ((low > 0) | (high < 0)).any(1).mean()
    assert 0.005 < missed <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1_000)


def log(n=400, days=5, seed=0):
    g = np.random.default_rng(seed)
    who, day = np.nonzero(g.random((n, days)) < 0.5)
    shown = 1 + g.poisson(5, len(who))
    t = (
        pd.Timestamp("2024-05-01")
        + pd.to_timedelta(day, "D")
        + pd.to_timedelta(g.uniform(0, 24, len(who)), "h")
    )
    return pd.DataFrame(
        {
            "user_id": who,
            "variant": np.where(who % 2, "treatment", "control"),
            "timestamp": t,
            "impressions": shown,
            "clicks": g.binomial(shown, 0.2),
            "bought": g.random(len(who)) < 0.2,
        }
    )


def test_monitor_is_the_analysis_of_each_day():
    d = log().sample(frac=1, random_state=0)
    for metric, kind in (
        ("clicks/impressions", "mean"),
        ("clicks", "mean"),
        ("bought", "share"),
    ):
        t = monitor(d, metric, kind=kind).to_frame()
        assert len(t) == 5
        for day in range(5):
            past = d[d.timestamp < t.time[day]]
            by = past.groupby(["variant", "user_id"])[
                ["clicks", "impressions", "bought"]
            ].sum()
            for arm in ("control", "treatment"):
                u = by.loc[arm]
                value = (
                    u.clicks.sum() / u.impressions.sum()
                    if "/" in metric
                    else u.clicks.mean()
                    if metric == "clicks"
                    else (u.bought > 0).mean()
                )
                np.testing.assert_allclose(t[arm][day], value)
        assert t.users.iloc[-1] == d.user_id.nunique()
    a = delta_method(*(by.loc["control"][c] for c in ("clicks", "impressions")))
    np.testing.assert_allclose(
        monitor(d, "clicks/impressions").to_frame().control.iloc[-1], a[0]
    )


def test_monitor_says_what_is_wrong():
    d = log()
    early = monitor(
        d.assign(clicks=np.where(d.timestamp < "2024-05-02", 0, d.clicks)),
        "clicks/impressions",
    )
    assert (
        early.table.lift.isna()[0]
        and early.table.lift.notna()[1:].all()
        and "nan" not in repr(early)
        and early.plot().get_xlabel() == "time"
    )
    early_day = d.timestamp < "2024-05-02"
    flips = d.assign(
        clicks=np.where(early_day == (d.variant == "control"), 0, d.impressions).astype(
            int
        ),
        impressions=np.where(early_day, d.impressions, 50 * d.impressions),
    )
    flips["clicks"] = np.where(flips.clicks > 0, flips.impressions, 1)
    with pytest.warns(UserWarning, match="the effect changes over time"):
        monitor(flips, "clicks/impressions", effect=1.0, min_users=0)
    with pytest.warns(UserWarning, match="SAMPLE RATIO MISMATCH"):
        monitor(d[(d.variant == "control") | (d.user_id < 200)], "clicks/impressions")
    with pytest.raises(ExperimentError, match="is in two variants"):
        monitor(pd.concat([d, d.head(1).assign(variant="treatment")]), "clicks")
    with pytest.raises(
        ExperimentError, match="null or no time in 1 rows, the first is row 3"
    ):
        monitor(
            d.astype({"timestamp": str}).assign(
                timestamp=lambda x: x.timestamp.where(x.index != 3, "soon")
            ),
            "clicks",
        )
    assert duration(d, "clicks", days=[2, 5]).plot().get_xlabel() == "days"
    with pytest.raises(ExperimentError, match="nothing to detect"):
        duration(d.assign(clicks=0), "clicks", days=[2])
    matplotlib.pyplot.close("all")


def test_beta_binomial_against_the_closed_form():
    "P(b > a) as a finite sum (Miller 2015), for whole parameters."
    from scipy.special import betaln

    for xa, na, xb, nb in [
        (5, 20, 9, 22),
        (100, 4_000, 130, 4_100),
        (0, 10, 3, 10),
        (0, 5_000_000, 0, 10),
    ]:
        a, b, c, d = 1 + xa, 1 + na - xa, 1 + xb, 1 + nb - xb
        i = np.arange(c)
        p = np.exp(
            betaln(a + i, b + d) - np.log(d + i) - betaln(1 + i, d) - betaln(a, b)
        ).sum()
        r = beta_binomial({"a": xa, "b": xb}, {"a": na, "b": nb})
        np.testing.assert_allclose(r.table.p_best[1], p, atol=1e-6)
        assert (r.table.expected_loss > -1e-9).all() and "best" in repr(r)
    assert r.plot().get_ylabel()
    matplotlib.pyplot.close("all")
