"Any column that pandas can hold gets a role, or is left out with a reason."

import datetime
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_nb.data import DataError, as_plain_column
from recsys_nb.recommenders.columns import (
    ROLES,
    ColumnLimits,
    guess_roles,
)
from recsys_nb.recommenders.feature_tables import (
    FeatureTable,
    guess_encoder,
    prepare_columns,
)

tags = st.lists(st.text(max_size=3), max_size=4)
CELLS = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "small": st.integers(0, 5),
    "huge": st.integers(-(10**400), 10**400),
    "float": st.floats(),
    "bool": st.booleans(),
    "text": st.text(max_size=8),
    "barred": st.text("ab|", max_size=8),
    "bytes": st.binary(max_size=4),
    "decimal": st.decimals(allow_nan=False),
    "complex": st.complex_numbers(),
    "datetime": st.datetimes(),
    "aware": st.datetimes(timezones=st.just(datetime.timezone.utc)),
    "date": st.dates(),
    "dates as text": st.dates().map(str),
    "time": st.times(),
    "timedelta": st.timedeltas(),
    "tags": tags,
    "tuples": tags.map(tuple),
    "sets": tags.map(set),
    "vectors": st.lists(st.floats(), min_size=3, max_size=3),
    "arrays": st.lists(st.integers(0, 3), max_size=3).map(np.array),
    "dicts": st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    "nested": st.lists(tags, max_size=2),
    "objects": st.just(object()),
    "periods": st.dates(datetime.date(1990, 1, 1)).map(lambda d: pd.Period(d, "M")),
    "intervals": st.integers(0, 9).map(lambda n: pd.Interval(n, n + 1)),
}
DTYPES = "int8 uint64 float32 Int64 Float64 boolean string category".split()
NULLS = st.sampled_from([None, np.nan, pd.NA, pd.NaT])


@st.composite
def columns(draw):
    "A column of one kind or of two, with and without nulls, of many dtypes."
    kinds = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=2))
    cells = st.one_of(*[CELLS[kind] for kind in kinds])
    if draw(st.booleans()):
        cells = cells | NULLS
    values = draw(st.lists(cells, min_size=1, max_size=30))
    column = pd.Series(values, dtype=object)
    if draw(st.booleans()):
        try:
            column = pd.Series(values)
        except (ValueError, TypeError, OverflowError):
            return column
    dtype = draw(st.sampled_from([None, *DTYPES]))
    if dtype is None:
        return column
    try:
        return column.astype(dtype)
    except (ValueError, TypeError, OverflowError, AttributeError, NotImplementedError):
        return column


def table_of(column):
    return pd.DataFrame({"item_id": range(len(column)), "x": column})


@settings(suppress_health_check=list(HealthCheck))
@given(columns())
def test_every_column_has_a_role_and_a_reason(column):
    table = table_of(column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = FeatureTable(table, "item_id", np.arange(len(table)), len(table))
    assert made.columns.role.isin(list(ROLES)).all()
    assert made.columns.why.str.len().min() > 0
    assert len(made.sparse) == len(made.dense) == len(table)
    assert (made.sparse.amax(0) < torch.tensor(made.cardinalities)).all()
    assert torch.isfinite(made.dense).all()


@settings(suppress_health_check=list(HealthCheck))
@given(columns(), st.sampled_from(sorted(ROLES)))
def test_a_role_that_was_given_fits_or_is_refused(column, role):
    table = table_of(column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            FeatureTable(table, "item_id", np.arange(len(table)), 1, roles={"x": role})
        except DataError as error:
            assert "'x'" in str(error)


def roles_of(**columns):
    "The guessed roles of columns, with warnings caught."
    frame = pd.DataFrame(columns)
    frame["item_id"] = range(len(frame))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        guess = guess_roles(frame, "item_id")
    told = " ".join(str(warning.message) for warning in caught)
    return guess.set_index("column").role.to_dict(), told


def test_dates_become_ages_and_what_does_not_fit_is_named():
    n = 40
    days = pd.date_range("2020-01-01", periods=n)
    numbers = np.arange(n) + 0.5
    roles, told = roles_of(
        datetime=days,
        zoned=days.tz_localize("Europe/Berlin"),
        date=days.date,
        text=days.strftime("%Y-%m-%d"),
        period=days.to_period("D"),
        duration=days - days[0],
        dictionary=[{"a": 1}] * n,
        raw=[b"a"] * n,
        mixed=[1, "a"] * (n // 2),
        infinite=np.where(numbers == 3.5, np.inf, numbers),
    )
    dates = {"datetime", "zoned", "date", "text", "period"}
    assert {name for name, role in roles.items() if role == "date"} == dates
    assert roles["duration"] == "number"
    left_out = ["dictionary", "raw", "mixed", "infinite"]
    assert [name for name, role in roles.items() if role == "ignore"] == left_out
    assert all(f"column {name!r} is left out" in told for name in left_out)
    assert "infinite in row 3" in told and "first in row 0" in told


def test_ages_are_days_before_the_latest_date():
    frame = pd.DataFrame({"day": pd.to_datetime(["2024-01-03", None, "2024-01-10"])})
    prepared = prepare_columns(frame, guess_roles(frame, "item_id", {"day": "date"}))
    np.testing.assert_array_equal(prepared.day, [7, np.nan, 0])


def test_one_title_with_a_bar_makes_no_tags():
    titles = [f"title {n}" for n in range(20_000)]
    titles[7] = "Alien | Aliens"
    roles, _ = roles_of(title=titles, genre=["drama|comedy", "drama"] * 10_000)
    assert roles["title"] == "ignore"
    roles, _ = roles_of(genre=["drama|comedy", "drama", "war|drama"] * 1_000)
    assert roles["genre"] == "tags"
    roles, told = roles_of(title=[f"{n}|{n + 1}" for n in range(2_000)])
    assert roles["title"] == "ignore" and "2,001 distinct tags" in told


def test_vectors_are_no_tags():
    vectors = np.random.default_rng(0).normal(size=(2_000, 64))
    codes = np.random.default_rng(0).integers(0, 9, (2_000, 64))
    roles, told = roles_of(
        embedding=list(vectors), pixels=list(codes), brands=[[1], [2, 3]] * 1_000
    )
    assert roles == {"embedding": "vector", "pixels": "vector", "brands": "tags"}
    assert not told


def test_whole_numbers_are_categories_where_they_are_few():
    rng = np.random.default_rng(0)
    roles, _ = roles_of(
        brand=rng.integers(0, 150, 6_000),
        price=rng.lognormal(4, 1, 6_000).round(2),
        stars=rng.integers(1, 6, 6_000) / 2,
    )
    assert roles == {"brand": "category", "price": "number", "stars": "category"}


def test_memory_is_counted_before_it_is_taken():
    frame = pd.DataFrame({"item_id": range(1_000)})
    frame["few"] = ["a|b", "b|c"] * 500
    frame["many"] = [f"{n % 200}|{(n * 7) % 200}" for n in range(1_000)]
    limits = ColumnLimits(max_gib=0.0005)
    with pytest.warns(UserWarning, match="'many' is left out: 0.0023 GiB"):
        made = FeatureTable(frame, "item_id", np.arange(1_000), 1_000, limits=limits)
    assert made.encoder.dense_names == ["few=a", "few=b", "few=c"]
    with pytest.raises(ValueError, match="max_gib is 0"):
        ColumnLimits(max_gib=0)


def test_the_encoder_is_the_one_of_the_table():
    frame = pd.DataFrame(
        {"item_id": range(4), "brand": list("abca"), "price": [1, 2] * 2}
    )
    guess = guess_roles(frame, "item_id")
    encoder = guess_encoder(frame, "item_id").fit(prepare_columns(frame, guess))
    made = FeatureTable(frame, "item_id", np.arange(4), 4)
    assert encoder.cardinalities == made.cardinalities[1:]
    features = encoder.transform(prepare_columns(frame, guess))
    assert torch.equal(features.sparse, made.sparse[:, 1:])


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean"])
def test_a_column_that_holds_nothing_but_nulls_is_read(dtype):
    plain = as_plain_column(pd.Series([None, None], dtype=dtype))
    assert plain.isna().all()
    assert isinstance(plain.dtype, np.dtype)
