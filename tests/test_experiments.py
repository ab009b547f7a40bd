"What experiments must survive: any library's frame, odd outcomes, names, clocks."

import warnings
import zoneinfo
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tea_tasting")
from recsys_nb.data import DataError  # noqa: E402
from recsys_nb.experiments import (  # noqa: E402
    VALUES,
    ExperimentError,
    analyze,
    beta_binomial,
    compute_moments,
    delta_method,
    duration,
    estimate_means,
    interleaving_test,
    monitor,
    off_policy,
    pool_strata,
    read_floats,
    read_times,
    srm_test,
    team_draft,
    two_proportion_test,
)


def make_log(seed=0, n=400, days=10):
    "Sessions of users in two arms."
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(n), 2)
    shown = 1 + rng.poisson(5, len(who))
    at = pd.Timestamp("2024-03-01") + pd.to_timedelta(
        rng.integers(0, days * 24 * 60, len(who)), "min"
    )
    return pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in who],
            "variant": np.where(who % 2, "treatment", "control"),
            "timestamp": at,
            "country": np.where(who % 3, "DE", "FR"),
            "impressions": shown,
            "clicks": rng.binomial(shown, 0.3),
            "bought": rng.random(len(who)) < 0.2,
            "revenue": rng.exponential(size=len(who)).round(3),
        }
    )


# ---- frames of any library


def to_nullable(frame):
    return frame.convert_dtypes()


def to_arrow_types(frame):
    return frame.convert_dtypes(dtype_backend="pyarrow")


def to_arrow(frame):
    return pa.Table.from_pandas(frame, preserve_index=False)


def to_polars(frame):
    return pytest.importorskip("polars").from_pandas(frame)


def to_objects(frame):
    return frame.astype(object)


LIBRARIES = [to_nullable, to_arrow_types, to_arrow, to_polars, to_objects]


def draft(frame):
    lists = frame[["user_id"]].assign(item_id=frame.country, rank=1)
    return lists.drop_duplicates("user_id")


FUNCTIONS = {
    "analyze": lambda d: analyze(
        d,
        metrics={"ctr": "clicks/impressions", "bought": "bought", "revenue": "revenue"},
        kind={"bought": "share"},
        segments="country",
        strata="country",
    ).to_frame(),
    "monitor": lambda d: monitor(d, "clicks/impressions", min_users=20).to_frame(),
    "monitor share": lambda d: monitor(d, "bought", kind="share").to_frame(),
    "duration": lambda d: duration(d, "revenue", days=[3, 10]).to_frame(),
}


@pytest.mark.parametrize("convert", LIBRARIES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_logs_of_any_library(name, convert):
    log = make_log()
    want = FUNCTIONS[name](log)
    found = FUNCTIONS[name](convert(log))
    pd.testing.assert_frame_equal(found, want, check_dtype=False)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.booleans(), st.integers(0, 4)),
        min_size=8,
        max_size=60,
    ),
    st.sampled_from([to_nullable, to_arrow_types, to_arrow, to_objects]),
)
def test_rows_of_any_library(rows, convert):
    "A result, or an error with the same words, whichever library made the frame."
    frame = pd.DataFrame(rows, columns=["user_id", "variant", "x"])

    def run(given):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = analyze(given, metrics="x", control=False, kind="share")
            except ExperimentError as error:
                return str(error)
        return found.table.round(9).to_json()

    assert run(convert(frame)) == run(frame)


@pytest.mark.parametrize("convert", LIBRARIES)
def test_lists_of_any_library(convert):
    users = [1, 1, 2, 2]
    a = pd.DataFrame({"user_id": users, "item_id": list("xyxy"), "rank": [1, 2] * 2})
    b = a.assign(item_id=list("yzyz"))
    want = team_draft(a, b)
    found = team_draft(convert(a), convert(b))
    pd.testing.assert_frame_equal(found, want, check_dtype=False)
    shown = want.assign(clicked=[True, False, True] * 2)
    want = interleaving_test(shown).to_frame()
    found = interleaving_test(convert(shown)).to_frame()
    pd.testing.assert_frame_equal(found, want)


@pytest.mark.parametrize("convert", [pd.Series, pa.array, list])
def test_arrays_of_any_library(convert):
    rng = np.random.default_rng(0)
    logged = rng.uniform(0.2, 0.8, 50)
    arrays = [rng.random(50), logged, logged]
    want = off_policy(*arrays, user=np.arange(50) % 7)
    users = [f"u{i % 7}" for i in range(50)]
    found = off_policy(*map(convert, arrays), user=convert(users))
    pd.testing.assert_frame_equal(found.table, want.table)
    ratio = delta_method(convert(arrays[0]), convert(arrays[1]))
    np.testing.assert_allclose(ratio, delta_method(*arrays[:2]))


def test_split_of_any_library():
    counts = pd.Series([500, 520], ["a", "b"])
    want = srm_test(counts).p_value
    for kind in ("Int64", "int64[pyarrow]", "float64"):
        assert srm_test(counts.astype(kind)).p_value == want


# ---- outcomes

OUTCOMES = {
    "bool": lambda x: x > 0,
    "nullable": lambda x: pd.Series(x).astype("Int8"),
    "nullable bool": lambda x: pd.Series(x > 0).astype("boolean"),
    "Decimal": lambda x: pd.Series([Decimal(int(v)) for v in x]),
    "Arrow decimal": lambda x: pd.Series(x).astype(pd.ArrowDtype(pa.decimal128(25, 2))),
    "object": lambda x: pd.Series(list(map(int, x)), dtype=object),
    "unsigned": lambda x: x.astype("uint8"),
}


@pytest.mark.parametrize("kind", ["mean", "share"])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_outcomes_of_any_type(outcome, kind):
    log = make_log().assign(bought=lambda d: d.bought.astype(int))
    other = log.assign(bought=OUTCOMES[outcome](log.bought.to_numpy()))
    want = analyze(log, metrics="bought", kind=kind).to_frame()
    found = analyze(other, metrics="bought", kind=kind).to_frame()
    pd.testing.assert_frame_equal(found, want)
    want = monitor(log, "bought", kind=kind).to_frame()
    pd.testing.assert_frame_equal(monitor(other, "bought", kind=kind).to_frame(), want)


@pytest.mark.parametrize(
    "gap",
    [
        pd.Series([0, 1, None] * 8),
        pd.Series([0, 1, None] * 8, dtype="Int64"),
        pd.Series([True, False, None] * 8, dtype=object),
        pd.Series([Decimal(1), Decimal(0), None] * 8),
        pd.Series([1.0, 0.0, np.inf] * 8),
    ],
    ids=["floats", "nullable", "bool", "Decimal", "inf"],
)
def test_a_gap_in_an_outcome_is_named(gap):
    log = make_log(n=12).assign(x=gap)
    log["timestamp"] = pd.Timestamp("2024-03-01") + pd.to_timedelta(log.index, "h")
    says = "'x' is null or infinite in 8 rows, the first is row 2"
    for run in (
        lambda: analyze(log, metrics="x"),
        lambda: monitor(log, "x"),
        lambda: duration(log, "x", days=[1]),
    ):
        with pytest.raises(ExperimentError, match=says):
            run()


@given(st.lists(st.one_of(st.integers(-9, 9), st.booleans(), st.none()), max_size=9))
def test_numbers_are_what_they_are(values):
    found = read_floats(pd.Series(values, dtype=object), "x")
    want = [np.nan if value is None else float(value) for value in values]
    np.testing.assert_array_equal(found, want)


# ---- intervals of shares


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 1)), min_size=12, max_size=40),
    st.booleans(),
)
def test_differences_of_shares_stay_inside(rows, stratified):
    "By strata too, and at every look of a monitor."
    frame = pd.DataFrame(rows, columns=["variant", "x"])
    frame["half"] = np.arange(len(frame)) % 2
    frame["timestamp"] = pd.Timestamp("2024-03-01") + pd.to_timedelta(frame.index, "h")
    frame["user_id"] = frame.index
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            strata = "half" if stratified else None
            row = analyze(frame, metrics="x", strata=strata).table.iloc[0]
        except ExperimentError as error:
            assert (
                "users in variant" in str(error)
                or "variant" in str(error)
                or ("zero variance" in str(error))
            )
            return
        options = {"scale": "difference", "min_users": 2, "every": "6h"}
        table = monitor(frame, "x", **options).table
    assert -1 <= row.low <= row.high <= 1
    ends = table[["low", "high", "plain_low", "plain_high"]].to_numpy()
    assert (np.abs(ends[~np.isnan(ends)]) <= 1).all()


# ---- the parts of an analysis


@pytest.mark.parametrize("stratified", [False, True])
def test_analysis_is_made_of_moments(stratified):
    "CUPED and strata by the functions that the simulations use."
    rng = np.random.default_rng(3)
    shown, before = rng.geometric(0.05, (2, 2_000))
    rate = rng.beta(1, 19, 2_000)
    values = [rng.binomial(shown, rate), shown, rng.binomial(before, rate), before]
    flat = dict(zip(VALUES, np.array(values, float), strict=True))
    arm = np.arange(2_000) % 2
    rows = pd.DataFrame(flat).assign(variant=np.array(["control", "new"])[arm])
    rows["stratum"] = rows.covariate > 0
    options = {"covariates": {"ctr": "covariate/covariate_denominator"}}
    names, group, share = VALUES, arm, np.ones(1)
    if stratified:
        options, names = {"strata": "stratum"}, VALUES[:2]
        group = 2 * arm + rows.stratum
        share = np.bincount(rows.stratum) / 2_000
    moments = compute_moments(flat, group.astype(int), (2, len(share)))
    arms = [pool_strata(moments, place, share) for place in (0, 1)]
    m0, v0, m1, v1 = estimate_means(*arms, names)
    metrics = {"ctr": "numerator/denominator"}
    found = analyze(rows, metrics=metrics, user=None, **options).table.statistic[0]
    assert found == pytest.approx((m1 - m0) / np.sqrt(v0 + v1), rel=1e-9)


# ---- names


def test_names_that_differ_by_a_blank():
    log = make_log()
    slip = log.assign(variant=log.variant.where(log.index != 5, "Control "))
    users = {"Control ": 5, "control": 5}
    for run in (
        lambda: analyze(slip, metrics="clicks"),
        lambda: monitor(slip, "clicks", treatment="treatment"),
        lambda: analyze(log, metrics="clicks", control="Control "),
        lambda: srm_test(users),
        lambda: beta_binomial({"Control ": 1, "control": 1}, users),
    ):
        with pytest.raises(ExperimentError) as error:
            run()
        assert "'Control '" in str(error.value) and "'control'" in str(error.value)
    country = log.assign(country=log.country.where(log.user_id != "u3", "DE "))
    with pytest.raises(ExperimentError, match="segments: country has 'DE' and 'DE '"):
        analyze(country, metrics="clicks", segments="country")


def test_errors_are_errors_of_data():
    with pytest.raises(DataError, match="no column 'x'"):
        analyze(make_log(), metrics="x")
    with pytest.raises(ValueError, match="exceeds"):
        two_proportion_test(5, 3, 1, 3)


# ---- times


def test_first_arm_by_written_times():
    "Dates as text are compared as times: 31/12/2023 is before 01/02/2024."
    log = make_log(n=20)[["user_id", "variant", "clicks"]]
    log["at"] = "15/01/2024"
    late = log.head(1).assign(variant="treatment", at="01/02/2024")
    early = log.head(1).assign(variant="treatment", at="31/12/2023")
    for extra, arm in ((late, "control"), (early, "treatment")):
        both = pd.concat([extra, log])
        with pytest.warns(UserWarning, match="first arm"):
            found = analyze(both, metrics="clicks", user_policy="first", time="at")
        users = {"control": 10, "treatment": 10} | {arm: 10}
        if arm == "treatment":
            users = {"control": 9, "treatment": 11}
        assert found.srm.counts.to_dict() == users


@given(
    st.sampled_from([None, *sorted(zoneinfo.available_timezones() - {"localtime"})]),
    st.datetimes(pd.Timestamp("1990-01-01"), pd.Timestamp("2030-01-01")),
    st.sampled_from(["1h", "12h", "7D"]),
)
def test_times_keep_their_zone(zone, start, step):
    start = pd.Timestamp(start).floor("s")
    moments = pd.date_range(start, periods=9, freq=step)
    if zone:
        moments = moments.tz_localize("UTC").tz_convert(zone)
    at = pd.Series(moments)
    frame = at.to_frame("at")
    assert (read_times(frame, "at") == at).all()
    text = at.map(lambda t: t.isoformat()).to_frame("at")
    assert (read_times(text, "at") == at).all()


@pytest.mark.parametrize("level", [0, 1e6, 1e12])
def test_small_differences_of_large_numbers_are_watched(level):
    rng = np.random.default_rng(0)
    log = make_log(n=2000).drop_duplicates("user_id")
    treated = (log.variant == "treatment").to_numpy()
    log["x"] = level + rng.choice([-1.0, 1.0], len(log)) + treated
    options = {"scale": "difference", "unbounded": True, "effect": 1.0}
    last = monitor(log, "x", **options).table.iloc[-1]
    assert last.difference == pytest.approx(1, abs=0.2)
    width = last.plain_high - last.plain_low
    assert width == pytest.approx(4 * 1.96 / 2000**0.5, rel=0.1)
    if level:
        row = duration(log, "x", days=[10]).table.iloc[0]
        assert row.mde * level == pytest.approx(2.8 * 1.1 * (2 / 1000) ** 0.5, rel=0.2)
