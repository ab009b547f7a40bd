"Two periods of a log: columns of any type, and what counts as a change."

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pytest

from recsys_nb.data import Dataset
from recsys_nb.evaluation.drift import compare_logs

N = 400
rng = np.random.default_rng(0)
numbers = rng.normal(size=N)
codes = rng.integers(4, size=N)
holes = np.where(rng.random(N) < 0.2, None, codes)
COLUMNS = {
    "float": numbers,
    "infinite": np.where(numbers > 1, np.inf, numbers),
    "float with holes": np.where(numbers > 1, np.nan, numbers),
    "int": codes,
    "nullable int": pd.array(holes, dtype="Int64"),
    "bool": codes > 1,
    "nullable bool": pd.array(np.where(holes == 1, None, codes > 1), "boolean"),
    "text": codes.astype(str),
    "category": pd.Categorical(codes.astype(str)),
    "datetime": pd.Timestamp("2024-01-01") + pd.to_timedelta(codes, "D"),
    "zoned": pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(numbers, "D"),
    "no time": [None if code else pd.Timestamp("2024-01-01") for code in codes],
    "duration": pd.to_timedelta(codes, "D"),
    "date": [datetime.date(2024, 1, 1 + code) for code in codes],
    "decimal": [decimal.Decimal(int(code)) for code in codes],
    "bytes": [b"ab"[: code % 3] for code in codes],
    "list": [[1.0] * code for code in codes],
    "array": [np.ones(code) for code in codes],
    "dict": [{"a": int(code)} for code in codes],
    "mixed": [code if code > 1 else str(code) for code in codes],
    "empty": [None] * N,
}


def make_log(column, users):
    "One event of each of some users, with a table of all."
    table = pd.DataFrame({"user_id": range(N), "x": column})
    events = pd.DataFrame({"user_id": users, "item_id": 1})
    return Dataset(events, table)


@pytest.mark.parametrize("kind", COLUMNS)
def test_any_column_is_compared_or_named(kind):
    halves = np.arange(0, N, 2), np.arange(1, N, 2)
    found = compare_logs(*(make_log(COLUMNS[kind], users) for users in halves))
    named = {*found.table.column, *found.left_out}
    assert named == {"users: x"}
    assert found.changed == []
    json.dumps(found.to_dict())


@pytest.mark.parametrize("kind", ["float", "nullable int", "text", "datetime"])
def test_another_distribution_is_a_change(kind):
    column = pd.Series(COLUMNS[kind])
    order = column.sort_values().index.to_numpy()
    found = compare_logs(
        *(make_log(column, part) for part in (order[:200], order[200:]))
    )
    assert found.changed == ["users: x"] and found.table.change[0] == "large"


def test_a_new_value_is_a_change():
    column = np.where(np.arange(N) < 200, "old", "new")
    parts = np.arange(200), np.arange(100, 300)
    found = compare_logs(*(make_log(column, users) for users in parts))
    assert found.changed == ["users: x"]
    assert found.shares["active users who are new"] == 0.5


def test_missing_values_are_a_bin_of_their_own():
    column = np.where(np.arange(N) < 200, 1.0 * codes, np.nan)
    found = compare_logs(make_log(column, range(200)), make_log(column, range(200, N)))
    assert found.changed == ["users: x"]
