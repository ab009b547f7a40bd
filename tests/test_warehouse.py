"""A table in an engine: the same splits, samples, checks and features as of a frame, on
all engines; engines that are not there are skipped, with the reason."""

import os
import subprocess
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pytest
from conftest import PASSWORD, put
from pandas.testing import assert_frame_equal

from recsys_nb.data import (
    AmbiguousColumnError,
    DataError,
    Dataset,
    DuplicateRowError,
    EmptyLogError,
    IdMismatchError,
    IdTypeError,
    MissingColumnError,
    NullIdError,
    TimestampError,
    UnknownIdError,
    Warehouse,
    check_split,
    hash_rows,
    load,
    parse_timestamps,
    split_by_time,
    split_by_user,
    split_leave_last_out,
    split_random,
)
from recsys_nb.features import point_in_time, standard_features

ENGINES = ["duckdb", "postgres", "pyspark"]
SPLITS = {
    "time": split_by_time,
    "time, few": partial(split_by_time, test=0.01),
    "last": split_leave_last_out,
    "last 3": partial(split_leave_last_out, last=3),
    "last share": partial(split_leave_last_out, last=0.3),
    "user": partial(split_by_user, test=0.4, holdout=0.3, seed=3),
}
root = Path(__file__).resolve().parent.parent


@pytest.fixture(params=ENGINES)
def con(request):
    return request.getfixturevalue(request.param)


def events(seed, n=400, users=15, items=9, hours=40):
    """A log full of ties in time, with ids of both kinds, values that are missing, and
    types that are missing."""
    rng = np.random.default_rng(seed)
    user_ids = [f"ü{i}" for i in rng.integers(0, users, n)]
    item_ids = rng.integers(0, items, n)
    hour = pd.to_timedelta(rng.integers(0, hours, n), "h")
    return pd.DataFrame(
        {
            "user_id": user_ids,
            "item_id": item_ids,
            "timestamp": (pd.Timestamp("2024-03-01") + hour).astype("datetime64[us]"),
            "event_type": rng.choice(["view", "share", "buy"], n),
            "value": rng.choice([1.0, 2.5, 4.0, np.nan], n),
        }
    )


def rows(ds):
    "The interactions in an order of their content."
    order = ["user_id", "item_id", "timestamp", "event_type", "value"]
    return ds.interactions.fillna({"value": -1}).sort_values(order, ignore_index=True)


def alike(a, b):
    "The same rows, the same account of the split, the same given part."
    assert_frame_equal(rows(a), rows(b)[list(a.interactions)], check_dtype=False)
    assert a.split == b.split
    assert list(a.user_ids) == list(b.user_ids)
    assert list(a.item_ids) == list(b.item_ids)
    assert (a.given is None) == (b.given is None)
    if a.given is not None:
        alike(a.given, b.given)


@pytest.mark.parametrize("positive", [None, "buy", 2.5])
def test_splits(con, positive):
    "Each split of the engine is that of the frame, and so is its report."
    frame = events(1)
    put(con, "events", frame)
    here = Dataset(frame, positive=positive)
    there = load(con, table="events", positive=positive)
    spark = con.name == "pyspark"
    if spark and positive == 2.5:
        pytest.skip("Spark takes seconds a query: two rules of three")
    # a chain of windows is slow in Spark too
    for name in ["time", "last share", "user"] if spark else SPLITS:
        (a, b), (c, d) = SPLITS[name](here), SPLITS[name](there)
        assert isinstance(c, Warehouse), name
        assert (len(a), len(b)) == (len(c), len(d)), name
        alike(b, d)
        if not spark or name == "time":
            alike(a, c)
            assert (check_split(a, b) == check_split(c, d)).all(), name


LOGS = [
    {},
    {"users": 3},
    {"hours": 2},
    {"items": 1},
    {"n": 40, "hours": 5 * 10**5},
    {"n": 12},
    {"hours": 1},
    {"users": 200},
]


@pytest.mark.parametrize("seed", range(8))
def test_many_splits(duckdb, seed):
    "The same with other logs: few users, all at one time, unique times, one item."
    frame = events(seed, **LOGS[seed])
    put(duckdb, "events", frame)
    positive = (None, ("buy",), 4.0)[seed % 3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = Dataset(frame, positive=positive)
        there = load(duckdb, table="events", positive=positive)
    alike(here, there)
    alike(here.positives(), there.positives())
    for split in SPLITS.values():
        try:
            a, b = split(here)
        except EmptyLogError as error:
            with pytest.raises(EmptyLogError, match=str(error)):
                split(there)
        else:
            c, d = split(there)
            alike(a, c)
            alike(b, d)


def test_splits_refuse(duckdb):
    put(duckdb, "untimed", events(0).drop(columns="timestamp"))
    ds = load(duckdb, table="untimed")
    for split in (split_by_time, split_leave_last_out, split_by_user):
        with pytest.raises(MissingColumnError, match="'timestamp'"):
            split(ds)
    put(duckdb, "events", events(0))
    ds = load(duckdb, table="events")
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_by_time(ds, test=2)
    with pytest.raises(ValueError, match="whole number"):
        split_leave_last_out(ds, last=1.5)
    with pytest.raises(TypeError, match="Warehouse"):
        check_split(ds, Dataset(events(0)))
    train, test = split_random(ds)  # has no query: it fetches the log
    assert type(train) is Dataset and len(train) + len(test) == len(ds)


def test_a_sample_is_of_the_same_users(con):
    frame = events(2, users=60)
    ids = sorted(set(frame.user_id))
    put(con, "events", frame)
    put(con, "users", pd.DataFrame({"user_id": [*ids, "zoe"], "age": 30}))
    hashes = hash_rows(["sample 7"] * len(ids), ids)
    drawn = zip(ids, hashes, strict=True)
    chosen = [user for user, h in drawn if int(h[:8], 16) < 0.3 * 16**8]
    ds = load(con, table="events", users="users", sample=0.3, seed=7)
    assert sorted(ds.interactions.user_id.unique()) == sorted(chosen)
    assert 8 < len(chosen) < 30
    assert set(ds.users.user_id) - {"zoe"} == set(chosen)
    assert len(ds) == frame.user_id.isin(chosen).sum()


def test_spans_and_conditions(con):
    frame = events(3).assign(country=np.where(np.arange(400) % 3, "DE", "FR"))
    put(con, "events", frame)
    ds = load(
        con,
        table="events",
        where=ibis._.country == "DE",
        since="2024-03-01 10:00",
        until="2024-03-02 02:00+02:00",
        keep=["country"],
    )
    late = frame.timestamp >= "2024-03-01 10:00"
    want = frame[
        (frame.country == "DE") & late & (frame.timestamp < "2024-03-02 00:00")
    ]
    wanted = rows(Dataset(want))[list(ds.interactions)]
    assert_frame_equal(rows(ds), wanted, check_dtype=False)
    with pytest.raises(EmptyLogError, match="events"):
        load(con, table="events", until="2020-01-01")
    with pytest.raises(TimestampError, match="since='soon'"):
        load(con, table="events", since="soon")


zoned = ["2024-07-01 12:00:00.999999+02:00", "2024-11-03 05:30Z", "2024-11-03 06:30Z"]
TIMES = {
    "iso": ["2024-01-31", "2024-01-31T01:02:03.5Z", "2024-02-29 23:59"],
    "day": [20240131, 20240201, 20240229],
    "minutes": [202401310000, 202402010905, 202402292359],
    "digits": [20240131000000, 20240201090501, 20240229235959],
    "s": [1706659200, 1706659201, 1709251140],
    "ms": [1706659200001, 1706659201999, 1706659201000],
    "us": [1706659200000001, 1706659200999999, 1706659201000000],
    "ns": [1706659200000001000, 1706659200999999999, 1706659201000001001],
    "float": [1706659200.25, 1706659201.5, 1706659202.0],
    "date": pd.to_datetime(["2024-01-31"] * 3).date,
    "zoned": pd.to_datetime(zoned, utc=True, format="ISO8601"),
}


def test_times_as_of_a_frame(con):
    "Every form of time is the same moment as in a frame, whatever the session's zone."
    frame = pd.DataFrame({"user_id": [1, 2, 3], "item_id": 1} | TIMES)
    if con.name == "pyspark":  # its timestamps have no zone, its session is in UTC
        frame["zoned"] = frame.zoned.dt.tz_localize(None)
    put(con, "stamps", frame)
    for name in TIMES:
        here = Dataset.from_frame(frame, timestamp=name)
        there = load(con, table="stamps", timestamp=name)
        want, got = (ds.interactions.sort_values("user_id") for ds in (here, there))
        assert got.timestamp.tolist() == want.timestamp.tolist(), name


NOT_TIMES = {
    "two units": [1706659200, 1706659201, 1706659201000],
    "zero": [1706659200, 0, 1706659202],
    "minus one": [1706659200, -1, 1706659202],
    "before": [1706659200, 100_000_000, 1706659202],
    "no day": [20240131, 20240230, 20240301],
    "missing": [1706659200.0, np.nan, 1706659202.0],
    "text of nothing": ["2024-01-31", "n/a", "2024-01-31"],
    "zeros": ["2024-01-31", "0000-00-00", "2024-01-31 10:00"],
    "the last year": ["2024-01-31", "9999-12-31", "2024-01-31 10:00"],
    "long ago": ["2024-01-31", "1873-05-01", "2024-01-31 10:00"],
    "dates of nothing": pd.to_datetime(["2024-01-31", None, "2024-02-01"]),
    "dates of long ago": pd.to_datetime(["2024-01-31", "1970-01-01", "2024-02-01"]),
}


def reasons_of(values):
    "Which rows are no times for a frame, and the first reason that its error tells."
    bad = parse_timestamps(values, unknown="drop").isna().tolist()
    with pytest.raises(TimestampError) as raised:
        parse_timestamps(values)
    return bad, str(raised.value).split(": ")[2].split(" (")[0]


def test_what_is_no_time_is_that_of_a_frame(con):
    "The same rows are refused for the same reason, or dropped where that is asked for."
    frame = pd.DataFrame({"user_id": [1, 2, 3], "item_id": 1} | NOT_TIMES)
    stamps = put(con, "stamps", frame)
    few = ["two units", "no day", "zeros", "dates of nothing"]
    for name in few if con.name == "pyspark" else NOT_TIMES:  # Spark is slow
        bad, reason = reasons_of(frame[name])
        with pytest.raises(TimestampError) as raised:
            load(stamps, timestamp=name)
        assert f": {reason};" in str(raised.value), (name, str(raised.value))
        with pytest.warns(UserWarning, match="timestamp is no time"):
            kept = load(stamps, timestamp=name, unknown="drop")
        users = kept.interactions.user_id.tolist()
        assert sorted(users) == frame.user_id[~np.array(bad)].tolist(), name


good = pd.DataFrame(
    {
        "user_id": ["a", "b", "c"],
        "item_id": [1.0, 2.0, 3.0],
        "timestamp": ["2024-01-01", "2024-01-02", "2024-01-03"],
        "event_type": "buy",
        "rating": [1.0, 2.0, 3.0],
    }
)


def times(*values):
    "A change of the times."
    return {"timestamp": list(values)}


def table_of(key, *ids, **columns):
    "A table of users or items."
    return pd.DataFrame({key: list(ids)} | columns)


# what is changed in the log, the options, the error, and the words of its message
FAULTS = {
    "null user": (
        {"user_id": ["a", None, "c"]},
        {},
        NullIdError,
        ["user_id", "1 rows", "2024-01-02"],
    ),
    "null item": (
        {"item_id": [1.0, np.nan, 3.0]},
        {},
        NullIdError,
        ["item_id", "'b'"],
    ),
    "part of an item": (
        {"item_id": [1.0, 2.5, 3.0]},
        {},
        IdTypeError,
        ["item_id", "2.5"],
    ),
    "digits lost": (
        {"item_id": [1.0, 2.0, 2.0**54]},
        {},
        IdTypeError,
        ["item_id", "lost digits", "'c'"],
    ),
    "more than a whole number holds": (
        {"item_id": [1.0, 2.0, 1e300]},
        {},
        IdTypeError,
        ["item_id", "lost digits", "'c'"],
    ),
    "boolean ids": (
        {"user_id": [True, False, True]},
        {},
        IdTypeError,
        ["user_id", "boolean"],
    ),
    "no such day": (
        times("2024-02-30", "2024-01-02", "2024-01-03"),
        {},
        TimestampError,
        ["timestamp", "2024-02-30", "1 rows"],
    ),
    "another country's date": (
        times("2024-01-01", "31/01/2024", "2024-01-03"),
        {},
        TimestampError,
        ["timestamp", "31/01/2024", "'b'"],
    ),
    "an offset": (
        times("2024-01-01", "2024-01-01T00:00:00+02:00", "2024-01-03"),
        {},
        TimestampError,
        ["timestamp", "+02:00"],
    ),
    "no time": (
        times("2024-01-01", None, "2024-01-03"),
        {},
        TimestampError,
        ["timestamp", "'b'"],
    ),
    "no column": (
        {},
        {"user": "customer"},
        MissingColumnError,
        ["'customer'", "user="],
    ),
    "two roles": (
        {},
        {"user": "user_id", "item": "user_id"},
        DataError,
        ["'user_id'", "two roles"],
    ),
    "two users": (
        {},
        {"users": table_of("user_id", "a", "b", "b", "c")},
        DuplicateRowError,
        ["users table", "'b'", "1 rows too many"],
    ),
    "a user without an id": (
        {},
        {"users": table_of("user_id", "a", None, "b", "c", age=30)},
        NullIdError,
        ["users table", "user_id"],
    ),
    "a stranger": (
        {},
        {"users": table_of("user_id", "a", "b")},
        UnknownIdError,
        ["user_id", "'c'", "users table"],
    ),
    "a stranger by a blank": (
        {},
        {"users": table_of("user_id", "a", "b", "c ")},
        IdMismatchError,
        ["user_id", "'c'", "'c '", "users table"],
    ),
    "ids of another type": (
        {},
        {"items": table_of("item_id", "1", "2", "3")},
        UnknownIdError,
        ["item_id", "string", "no id matches"],
    ),
    "a table without its key": (
        {},
        {"items": pd.DataFrame({"colour": [1]})},
        MissingColumnError,
        ["items table", "colour"],
    ),
    "no values": (
        {},
        {"positive": 3.0, "value": False},
        MissingColumnError,
        ["'value'"],
    ),
    "values that are words": (
        {"rating": ["1,5", "2", "3"]},
        {},
        DataError,
        ["value", "text", "value=False"],
    ),
    "no types": (
        {},
        {"positive": "buy", "event": False},
        MissingColumnError,
        ["'event_type'"],
    ),
    "nothing to keep": (
        {},
        {"keep": ["price"]},
        MissingColumnError,
        ["'price'"],
    ),
    "nothing": (
        {},
        {"where": ibis._.user_id == "z"},
        EmptyLogError,
        ["0 rows"],
    ),
}


# found without a query, or by the expression of another fault: Spark need not be asked
NOT_IN_SPARK = {
    "null item",
    "boolean ids",
    "another country's date",
    "no time",
    "no column",
    "two roles",
    "a user without an id",
    "a table without its key",
    "no values",
    "values that are words",
    "no types",
    "nothing to keep",
}
ASKED = [
    (engine, fault)
    for engine in ENGINES
    for fault in FAULTS
    if engine != "pyspark" or fault not in NOT_IN_SPARK
]


@pytest.mark.parametrize("con, fault", ASKED, indirect=["con"])
def test_each_fault_has_its_error(con, fault):
    "The error's type is that of a frame; it names the column, and a row or an id."
    change, options, error, words = FAULTS[fault]
    put(con, "faulty", good.assign(**change))
    options = {
        name: put(con, name, value) if isinstance(value, pd.DataFrame) else value
        for name, value in options.items()
    }
    with pytest.raises(error) as raised:
        load(con, table="faulty", **options)
    message = str(raised.value)
    assert all(word in message for word in words), message


def test_times_under_another_name_are_asked_for(con):
    "A log whose times are overlooked would be split at random."
    frame = good.rename(columns={"timestamp": "bought_on"})
    put(con, "renamed", frame)
    with pytest.raises(AmbiguousColumnError, match="timestamp='bought_on'"):
        load(con, table="renamed")
    assert "timestamp" not in load(con, table="renamed", timestamp=False).events.columns


def test_drop_what_is_unknown(con):
    strange = good.assign(user_id=[None, "d", "a"], item_id=[1.0, 2.0, 9.0])
    put(con, "faulty", pd.concat([good, strange]))
    put(con, "users", good[["user_id"]])
    put(con, "items", good[["item_id"]])
    with pytest.warns(UserWarning) as said:
        ds = load(con, table="faulty", users="users", items="items", unknown="drop")
    messages = [str(warning.message)[:35] for warning in said]
    assert sorted(m for m in messages if "interactions" in m) == [
        "1 interactions are dropped: item_id",
        "1 interactions are dropped: user_id",
        "1 of 6 interactions are dropped: us",
    ]
    assert len(ds) == 3
    assert ds.interactions.item_id.dtype == "int64"
    assert ds.item_ids.tolist() == [1, 2, 3]
    with pytest.warns(UserWarning, match="no interaction is positive"):
        load(con, table="faulty", unknown="drop", positive="cart")


def test_features_and_batches(con):
    """Features of a part of a split are made where it is, and equal those of the frame;
    little comes out."""
    frame = events(4)
    put(con, "events", frame)
    features = standard_features("user_id")
    here, _ = split_by_time(Dataset(frame))
    there, _ = split_by_time(load(con, table="events"))
    at = pd.Timestamp("2024-03-03")
    users = there.events.select("user_id").distinct()
    moments = users.mutate(as_of=ibis.literal(at, "timestamp"))
    got = con.to_pyarrow(point_in_time(there.events, moments, features)).to_pandas()
    got = got.sort_values("user_id", ignore_index=True)
    users = here.interactions[["user_id"]].drop_duplicates()
    users = users.sort_values("user_id", ignore_index=True)
    want = point_in_time(here.interactions, users.assign(as_of=at), features)
    assert_frame_equal(got[list(want)], want, check_dtype=False, rtol=1e-9)
    before = there.pulled.rows
    batches = list(there.batches(rows=100))
    fetched = sum(batch.num_rows for batch in batches)
    assert fetched == len(there) == there.pulled.rows - before
    assert len(batches) > 1 or con.name == "duckdb"


def test_urls(tmp_path, monkeypatch):
    path = tmp_path / "shop.db"
    con = ibis.duckdb.connect(path)
    con.create_table("events", events(5).rename(columns={"user_id": "customer"}))
    con.create_table("items", pd.DataFrame({"item_id": range(9)}))
    con.disconnect()
    before = path.read_bytes()
    options = "user=customer&items=items&sample=0.5&since=2024-03-01"
    ds = load(f"duckdb://{path}?table=events&{options}", positive="buy")
    assert len(ds.interactions) == len(ds)
    assert ds.items.item_id.tolist() == list(range(9))
    assert "customer" not in ds.interactions
    monkeypatch.chdir(tmp_path)
    assert len(load("duckdb:///shop.db?table=events&sample=.5")) == len(ds)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1  # nothing was written
    sampled = f"duckdb://{path}?table=events&sample=2"
    for url, error, words in [
        ("duckdb:///none.db?table=events", FileNotFoundError, "none.db"),
        (f"duckdb://{path}", DataError, "table="),
        (f"duckdb://{path}?table=event", DataError, "'events'"),
        (sampled, ValueError, "share of the users"),
        ("nosuch://a:b@c/d?table=t", DataError, "nosuch://a:***@c/d"),
    ]:
        with pytest.raises(error) as raised:
            load(url)
        assert words in str(raised.value), str(raised.value)
    with pytest.raises(TypeError, match="Ibis connection"):
        load(42)


def wrong_urls(url):
    "URLs of which each is wrong in one place."
    user = url.replace("postgres:", "postgres:x", 2)
    return (
        user.replace("postgres:x//", "postgres://"),
        url.replace("shop_events", "nothing"),
        url.replace("value=value", "value=price"),
        url.replace("/postgres?", "/nowhere?"),
        url.replace("connect_timeout=10", "no_such_option=1"),
        url.replace("postgres://", "postgrez://"),
    )


def test_postgres_url_and_its_password(postgres_url, postgres, tmp_path):
    """The URL works, and its password shows up nowhere: not in reprs, errors and their
    chains, nor in what is saved."""
    from recsys_nb.recommenders import Recommender, TwoTowerRetriever

    frame = events(6)
    postgres.create_table("shop_events", frame, overwrite=True)
    url = postgres_url + "?table=shop_events&value=value&connect_timeout=10"
    ds = load(url)
    alike(Dataset(frame, name="shop_events"), ds)
    model = Recommender([TwoTowerRetriever(epochs=1, profile="dense")], ranker=None)
    model.fit(split_by_time(ds)[0]).save(tmp_path / "model")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    saved = b"".join(path.read_bytes() for path in files)
    quoted = postgres_url.split(":")[2].split("@")[0]
    texts = [repr(ds), str(ds.pulled), ds.name, repr(vars(ds)), repr(ds.con)]
    for wrong in wrong_urls(url):
        with pytest.raises((DataError, ImportError)) as raised:
            load(wrong)
        texts.append("".join(traceback.format_exception(raised.value)))
    told = [*texts, saved.decode("latin1")]
    assert saved
    assert not [text for text in told if PASSWORD in text or quoted in text]
    assert "postgres:***@127.0.0.1" in texts[5]


def test_spark_url(pyspark):
    put(pyspark, "events", events(7))
    ds = load("spark://local?table=events")
    assert len(ds) == 400 and ds.con._session is pyspark._session


@pytest.mark.parametrize("engine", ["postgres", "spark"])
def test_tutorial(engine, request):
    "The tutorial's cells for an engine, which the notebooks' own tests leave out."
    if engine == "spark":
        request.getfixturevalue("pyspark")
        own = {"SPARK_LOCAL_IP": "127.0.0.1"}
    else:
        own = {"RECSYS_NB_POSTGRES": request.getfixturevalue("postgres_url")}
    command = [Path(sys.executable).with_name("nbdev_test")]
    command += ["--path", "nbs/tutorials/warehouse.ipynb"]
    command += ["--flags", engine, "--n_workers", "0"]
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | own | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
