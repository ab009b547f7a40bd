"A table in an engine: the same splits, samples, checks and features as of a frame, on all engines; engines that are not there are skipped, with the reason."
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

from recsys_nb.data import (DataError, Dataset, DuplicateRowError, EmptyLogError, IdTypeError, MissingColumnError, NullIdError, TimestampError, UnknownIdError, hash_rows, check_split,
                            load, split_by_time, split_by_user, split_leave_last_out, split_random)
from recsys_nb.features import point_in_time, standard_features
from recsys_nb.warehouse import Warehouse

ENGINES = ["duckdb", "postgres", "pyspark"]
SPLITS = {"time": split_by_time, "time, few": partial(split_by_time, test=.01), "last": split_leave_last_out, "last 3": partial(split_leave_last_out, last=3),
    "last share": partial(split_leave_last_out, last=.3), "user": partial(split_by_user, test=.4, holdout=.3, seed=3)}
root = Path(__file__).resolve().parent.parent


@pytest.fixture(params=ENGINES)
def con(request): return request.getfixturevalue(request.param)


def events(seed, n=400, users=15, items=9, hours=40):
    "A log full of ties in time, with ids of both kinds, values that are missing, and types that are missing."
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"user_id": [f"ü{i}" for i in rng.integers(0, users, n)], "item_id": rng.integers(0, items, n),
        "timestamp": (pd.Timestamp("2024-03-01") + pd.to_timedelta(rng.integers(0, hours, n), "h")).astype("datetime64[us]"),
        "event_type": rng.choice(["view", "share", "buy"], n), "value": rng.choice([1., 2.5, 4., np.nan], n)})


def rows(ds): return ds.interactions.fillna({"value": -1}).sort_values(["user_id", "item_id", "timestamp", "event_type", "value"], ignore_index=True)


def alike(a, b):
    "The same rows, the same account of the split, the same given part."
    assert_frame_equal(rows(a), rows(b)[list(a.interactions)], check_dtype=False)
    assert a.split == b.split and (a.given is None) == (b.given is None) and list(a.user_ids) == list(b.user_ids) and list(a.item_ids) == list(b.item_ids)
    if a.given is not None: alike(a.given, b.given)


@pytest.mark.parametrize("positive", [None, "buy", 2.5])
def test_splits(con, positive):
    "Each split of the engine is that of the frame, and so is its report."
    frame = events(1); put(con, "events", frame)
    here, there = Dataset(frame, positive=positive), load(con, table="events", positive=positive)
    if con.name == "pyspark" and positive == 2.5: pytest.skip("Spark takes seconds a query: two rules of three")
    for name in ["time", "last share", "user"] if con.name == "pyspark" else SPLITS: # a chain of windows is slow there too
        (a, b), (c, d) = SPLITS[name](here), SPLITS[name](there)
        assert isinstance(c, Warehouse) and (len(a), len(b)) == (len(c), len(d)), name
        alike(b, d)
        if con.name != "pyspark" or name == "time": alike(a, c); assert (check_split(a, b) == check_split(c, d)).all(), name


@pytest.mark.parametrize("seed", range(8))
def test_many_splits(duckdb, seed):
    "The same with other logs: few users, all at one time, unique times, one item."
    frame = [events(seed), events(seed, users=3), events(seed, hours=2), events(seed, items=1), events(seed, n=40, hours=5 * 10**5), events(seed, n=12), events(seed, hours=1), events(seed, users=200)][seed]
    put(duckdb, "events", frame)
    for positive in [(None, ("buy",), 4.)[seed % 3]]:
        with warnings.catch_warnings(): warnings.simplefilter("ignore"); here, there = Dataset(frame, positive=positive), load(duckdb, table="events", positive=positive)
        alike(here, there); alike(here.positives(), there.positives())
        for split in SPLITS.values():
            try: a, b = split(here)
            except EmptyLogError as e:
                with pytest.raises(EmptyLogError, match=str(e)[:25]): split(there)
            else: c, d = split(there); alike(a, c); alike(b, d)


def test_splits_refuse(duckdb):
    put(duckdb, "untimed", events(0).drop(columns="timestamp")); ds = load(duckdb, table="untimed")
    for split in (split_by_time, split_leave_last_out, split_by_user):
        with pytest.raises(MissingColumnError, match="'timestamp'"): split(ds)
    put(duckdb, "events", events(0)); ds = load(duckdb, table="events")
    with pytest.raises(ValueError, match="between 0 and 1"): split_by_time(ds, test=2)
    with pytest.raises(ValueError, match="whole number"): split_leave_last_out(ds, last=1.5)
    with pytest.raises(TypeError, match="Warehouse"): check_split(ds, Dataset(events(0)))
    train, test = split_random(ds) # has no query: it fetches the log
    assert type(train) is Dataset and len(train) + len(test) == len(ds)


def test_a_sample_is_of_the_same_users(con):
    frame = events(2, users=60); put(con, "events", frame); put(con, "users", pd.DataFrame({"user_id": sorted(set(frame.user_id)) + ["zoe"], "age": 30}))
    ids = sorted(set(frame.user_id)); chosen = [u for u, h in zip(ids, hash_rows(["sample 7"] * len(ids), ids)) if int(h[:8], 16) < .3 * 16**8]
    ds = load(con, table="events", users="users", sample=.3, seed=7)
    assert sorted(ds.interactions.user_id.unique()) == sorted(chosen) and 8 < len(chosen) < 30
    assert set(ds.users.user_id) - {"zoe"} == set(chosen) and len(ds) == frame.user_id.isin(chosen).sum()


def test_spans_and_conditions(con):
    frame = events(3).assign(country=np.where(np.arange(400) % 3, "DE", "FR")); put(con, "events", frame)
    ds = load(con, table="events", where=ibis._.country == "DE", since="2024-03-01 10:00", until="2024-03-02 02:00+02:00", keep=["country"])
    want = frame[(frame.country == "DE") & (frame.timestamp >= "2024-03-01 10:00") & (frame.timestamp < "2024-03-02 00:00")]
    assert_frame_equal(rows(ds), rows(Dataset(want))[list(ds.interactions)], check_dtype=False)
    with pytest.raises(EmptyLogError, match="events"): load(con, table="events", until="2020-01-01")
    with pytest.raises(TimestampError, match="since='soon'"): load(con, table="events", since="soon")


TIMES = {"iso": ["2024-01-31", "2024-01-31T01:02:03.5Z", "2024-02-29 23:59"], "day": [20240131, 20240201, 20240229], "s": [1706659200, 1706659201, 1709251140], "ms": [1706659200001, 1706659201999, 1706659201000],
    "us": [1706659200000001, 1706659200999999, 1706659201000000], "ns": [1706659200000001000, 1706659200999999999, 1706659201000001001], "float": [1706659200.25, 1706659201.5, 1706659202.], "date": pd.to_datetime(["2024-01-31"] * 3).date,
    "zoned": pd.to_datetime(["2024-07-01 12:00:00.999999+02:00", "2024-11-03 05:30Z", "2024-11-03 06:30Z"], utc=True, format="ISO8601")}

def test_times_as_of_a_frame(con):
    "Every form of time is the same moment as in a frame, whatever the session's zone."
    frame = pd.DataFrame({"user_id": [1, 2, 3], "item_id": 1} | TIMES)
    if con.name == "pyspark": frame["zoned"] = frame.zoned.dt.tz_localize(None) # its timestamps have no zone, its session is in UTC
    put(con, "stamps", frame)
    for c in TIMES:
        want, got = (ds.interactions.sort_values("user_id").timestamp.tolist() for ds in (Dataset.from_frame(frame, timestamp=c), load(con, table="stamps", timestamp=c)))
        assert got == want, c


good = pd.DataFrame({"user_id": ["a", "b", "c"], "item_id": [1., 2., 3.], "timestamp": ["2024-01-01", "2024-01-02", "2024-01-03"], "event_type": "buy", "rating": ["1", "2", "3"]})
FAULTS = {
    "null user": ({"user_id": ["a", None, "c"]}, {}, NullIdError, ["user_id", "1 rows", "2024-01-02"]),
    "null item": ({"item_id": [1., np.nan, 3.]}, {}, NullIdError, ["item_id", "'b'"]),
    "part of an item": ({"item_id": [1., 2.5, 3.]}, {}, IdTypeError, ["item_id", "2.5"]),
    "digits lost": ({"item_id": [1., 2., 2.**54]}, {}, IdTypeError, ["item_id", "lost digits", "'c'"]),
    "boolean ids": ({"user_id": [True, False, True]}, {}, IdTypeError, ["user_id", "boolean"]),
    "no such day": ({"timestamp": ["2024-02-30", "2024-01-02", "2024-01-03"]}, {}, TimestampError, ["timestamp", "2024-02-30", "1 rows"]),
    "another country's date": ({"timestamp": ["2024-01-01", "31/01/2024", "2024-01-03"]}, {}, TimestampError, ["timestamp", "31/01/2024", "'b'"]),
    "an offset": ({"timestamp": ["2024-01-01", "2024-01-01T00:00:00+02:00", "2024-01-03"]}, {}, TimestampError, ["timestamp", "+02:00"]),
    "no time": ({"timestamp": ["2024-01-01", None, "2024-01-03"]}, {}, TimestampError, ["timestamp", "'b'"]),
    "no column": ({}, {"user": "customer"}, MissingColumnError, ["'customer'", "user="]),
    "two roles": ({}, {"user": "user_id", "item": "user_id"}, DataError, ["'user_id'", "two roles"]),
    "two users": ({}, {"users": pd.DataFrame({"user_id": ["a", "b", "b", "c"]})}, DuplicateRowError, ["users table", "'b'", "1 rows too many"]),
    "a user without an id": ({}, {"users": pd.DataFrame({"user_id": ["a", None, "b", "c"], "age": 30})}, NullIdError, ["users table", "user_id"]),
    "a stranger": ({}, {"users": pd.DataFrame({"user_id": ["a", "b"]})}, UnknownIdError, ["user_id", "'c'", "users table"]),
    "ids of another type": ({}, {"items": pd.DataFrame({"item_id": ["1", "2", "3"]})}, UnknownIdError, ["item_id", "string", "no id matches"]),
    "a table without its key": ({}, {"items": pd.DataFrame({"colour": [1]})}, MissingColumnError, ["items table", "colour"]),
    "no values": ({}, {"positive": 3., "value": False}, MissingColumnError, ["'value'"]),
    "values that are words": ({}, {"positive": 3.}, DataError, ["value", "string"]),
    "no types": ({}, {"positive": "buy", "event": False}, MissingColumnError, ["'event_type'"]),
    "nothing to keep": ({}, {"keep": ["price"]}, MissingColumnError, ["'price'"]),
    "nothing": ({}, {"where": ibis._.user_id == "z"}, EmptyLogError, ["0 rows"]),
}

@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_error(con, fault):
    "The error's type is that of a frame; it names the column, and a row or an id."
    change, options, error, words = FAULTS[fault]
    put(con, "faulty", good.assign(**change)); options = options | {k: put(con, k, v) for k, v in options.items() if isinstance(v, pd.DataFrame)}
    with pytest.raises(error) as e: load(con, table="faulty", **options)
    assert all(w in str(e.value) for w in words), str(e.value)


def test_drop_what_is_unknown(con):
    put(con, "faulty", pd.concat([good, good.assign(user_id=[None, "d", "a"], item_id=[1., 2., 9.])])); put(con, "users", good[["user_id"]]); put(con, "items", good[["item_id"]])
    with pytest.warns(UserWarning) as said: ds = load(con, table="faulty", users="users", items="items", unknown="drop")
    assert sorted(m for w in said if "interactions" in (m := str(w.message)[:35])) == ["1 interactions are dropped: item_id", "1 interactions are dropped: user_id", "1 of 6 interactions are dropped: us"] and len(ds) == 3
    assert ds.interactions.item_id.dtype == "int64" and ds.item_ids.tolist() == [1, 2, 3]
    with pytest.warns(UserWarning, match="no interaction is positive"): load(con, table="faulty", unknown="drop", positive="cart")


def test_features_and_batches(con):
    "Features of a part of a split are made where it is, and equal those of the frame; little comes out."
    frame = events(4); put(con, "events", frame); features = standard_features("user_id")
    here, there = (split_by_time(ds)[0] for ds in (Dataset(frame), load(con, table="events"))); at = pd.Timestamp("2024-03-03")
    moments = there.events.select("user_id").distinct().mutate(as_of=ibis.literal(at, "timestamp"))
    got = con.to_pyarrow(point_in_time(there.events, moments, features)).to_pandas().sort_values("user_id", ignore_index=True)
    want = point_in_time(here.interactions, here.interactions[["user_id"]].drop_duplicates().sort_values("user_id", ignore_index=True).assign(as_of=at), features)
    assert_frame_equal(got[list(want)], want, check_dtype=False, rtol=1e-9)
    before = there.pulled.rows
    batches = list(there.batches(rows=100))
    assert sum(b.num_rows for b in batches) == len(there) == there.pulled.rows - before
    assert len(batches) > 1 or con.name == "duckdb"


def test_urls(tmp_path, monkeypatch):
    path = tmp_path / "shop.db"; con = ibis.duckdb.connect(path); con.create_table("events", events(5).rename(columns={"user_id": "customer"}))
    con.create_table("items", pd.DataFrame({"item_id": range(9)})); con.disconnect(); before = path.read_bytes()
    ds = load(f"duckdb://{path}?table=events&user=customer&items=items&sample=0.5&since=2024-03-01", positive="buy")
    assert len(ds.interactions) == len(ds) and ds.items.item_id.tolist() == list(range(9)) and "customer" not in ds.interactions
    monkeypatch.chdir(tmp_path); assert len(load("duckdb:///shop.db?table=events&sample=.5")) == len(ds)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1 # nothing was written
    for url, error, words in [("duckdb:///none.db?table=events", FileNotFoundError, "none.db"), (f"duckdb://{path}", DataError, "table="), (f"duckdb://{path}?table=event", DataError, "'events'"),
            (f"duckdb://{path}?table=events&sample=2", ValueError, "share of the users"), ("nosuch://a:b@c/d?table=t", DataError, "nosuch://a:***@c/d")]:
        with pytest.raises(error) as e: load(url)
        assert words in str(e.value), str(e.value)
    with pytest.raises(TypeError, match="Ibis connection"): load(42)


def test_postgres_url_and_its_password(postgres_url, postgres, tmp_path):
    "The URL works, and its password shows up nowhere: not in reprs, errors and their chains, nor in what is saved."
    frame = events(6); postgres.create_table("shop_events", frame, overwrite=True)
    url = postgres_url + "?table=shop_events&value=value&connect_timeout=10"; ds = load(url)
    alike(Dataset(frame, name="shop_events"), ds)
    from recsys_nb.recommenders import Recommender, TwoTowerRetriever
    Recommender([TwoTowerRetriever(epochs=1, profile="dense")], ranker=None).fit(split_by_time(ds)[0]).save(tmp_path / "model")
    saved = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()); quoted = postgres_url.split(":")[2].split("@")[0]
    texts = [repr(ds), str(ds.pulled), ds.name, repr(vars(ds)), repr(ds.con)]
    for wrong in (url.replace("postgres:", "postgres:x", 2).replace("postgres:x//", "postgres://"), url.replace("shop_events", "nothing"), url.replace("value=value", "value=price"), url.replace("/postgres?", "/nowhere?"),
            url.replace("connect_timeout=10", "no_such_option=1"), url.replace("postgres://", "postgrez://")):
        with pytest.raises((DataError, ImportError)) as e: load(wrong)
        texts.append("".join(traceback.format_exception(e.value)))
    assert saved and not [t for t in [*texts, saved.decode("latin1")] if PASSWORD in t or quoted in t]
    assert "postgres:***@127.0.0.1" in texts[5]


def test_spark_url(pyspark):
    put(pyspark, "events", events(7)); ds = load("spark://local?table=events")
    assert len(ds) == 400 and ds.con._session is pyspark._session


@pytest.mark.parametrize("engine", ["postgres", "spark"])
def test_tutorial(engine, request):
    "The tutorial's cells for an engine, which the notebooks' own tests leave out."
    own = {"RECSYS_NB_POSTGRES": request.getfixturevalue("postgres_url")} if engine == "postgres" else {"SPARK_LOCAL_IP": "127.0.0.1"}
    if engine == "spark": request.getfixturevalue("pyspark")
    r = subprocess.run([Path(sys.executable).with_name("nbdev_test"), "--path", "nbs/tutorials/warehouse.ipynb", "--flags", engine, "--n_workers", "0"],
        cwd=root, env=os.environ | own | {"MPLBACKEND": "agg"}, capture_output=True, text=True, timeout=600)
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
