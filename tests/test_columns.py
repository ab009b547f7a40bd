"Any column that pandas can hold gets a role, or is left out with a reason."

import datetime
import warnings

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_nb.data import DataError
from recsys_nb.recommenders.columns import (
    ROLES,
    FeatureTable,
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


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
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


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(columns(), st.sampled_from(sorted(ROLES)))
def test_a_role_that_was_given_fits_or_is_refused(column, role):
    table = table_of(column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            FeatureTable(table, "item_id", np.arange(len(table)), 1, roles={"x": role})
        except DataError as error:
            assert "'x'" in str(error)
