"""What no reader wants in the chapter: random logs, broken downloads, and the real data
sets where they are."""

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pytest

import recsys_nb.data as data
from recsys_nb.data import (
    DataError,
    Dataset,
    DownloadError,
    DuplicateRowError,
    EmptyLogError,
    IdTypeError,
    MissingColumnError,
    NullIdError,
    TimestampError,
    UnknownIdError,
    check_split,
    load,
    read_log,
    split_by_time,
    split_by_user,
    split_leave_last_out,
    split_random,
)

SPLITS = [split_by_time, split_leave_last_out, split_by_user, split_random]


def random_log(seed, exposures=True, timestamps=True):
    "A log full of ties and repeats; ids are numbers or strings."
    r = np.random.default_rng(seed)
    n = int(r.integers(20, 200))
    u, i = r.integers(0, r.integers(3, 30), n), r.integers(0, r.integers(2, 15), n)
    df = pd.DataFrame(
        {
            "user_id": u,
            "item_id": i,
            "event_type": r.choice(["view", "click", "buy"], n),
            "value": r.integers(1, 6, n) / 1.0,
            "extra": np.arange(n),
        }
    )
    if seed % 2:
        df = df.assign(
            user_id="u" + df.user_id.astype(str), item_id="i" + df.item_id.astype(str)
        )
    if timestamps:
        df["timestamp"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(
            r.integers(0, r.integers(5, 400), n), unit="h"
        )
    positive = [None, ("click", "buy"), "buy", 4.0][seed % 4] if exposures else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Dataset(df, positive=positive)


def rows(ds):
    return Counter(
        ds.interactions.drop(columns="extra", errors="ignore").itertuples(
            index=False, name=None
        )
    )


# --- validation
# ------------------------------------------------------------

FAULTS = {
    "no user column": (
        lambda d, r: d.rename(columns={"user_id": "who"}),
        MissingColumnError,
    ),
    "no item column": (lambda d, r: d.drop(columns="item_id"), MissingColumnError),
    "null user": (
        lambda d, r: d.assign(user_id=d.user_id.where(np.arange(len(d)) != r)),
        NullIdError,
    ),
    "null item": (
        lambda d, r: d.assign(
            item_id=d.item_id.astype(object).where(np.arange(len(d)) != r, None)
        ),
        NullIdError,
    ),
    "mixed ids": (
        lambda d, r: d.assign(
            item_id=[int(r) if k == r else f"x{k}" for k in range(len(d))]
        ),
        IdTypeError,
    ),
    "half ids": (lambda d, r: d.assign(item_id=r + 0.5), IdTypeError),
    "boolean ids": (lambda d, r: d.assign(item_id=True), IdTypeError),
    "lost digits": (lambda d, r: d.assign(item_id=2.0**60), IdTypeError),
    "list ids": (lambda d, r: d.assign(item_id=[[1]] * len(d)), IdTypeError),
    "no time": (
        lambda d, r: d.assign(
            timestamp=d.timestamp.astype(str).where(np.arange(len(d)) != r, "soon")
        ),
        TimestampError,
    ),
    "null time": (
        lambda d, r: d.assign(timestamp=d.timestamp.where(np.arange(len(d)) != r)),
        TimestampError,
    ),
    "infinite time": (
        lambda d, r: d.assign(timestamp=np.where(np.arange(len(d)) == r, np.inf, 1e9)),
        TimestampError,
    ),
    "empty": (lambda d, r: d.iloc[:0], EmptyLogError),
    "two columns of one name": (
        lambda d, r: pd.concat([d, d[["item_id"]]], axis=1),
        DataError,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_error(fault):
    broken, kind = FAULTS[fault]
    for seed in range(6):
        df = random_log(seed).interactions
        r = int(np.random.default_rng(seed).integers(len(df)))
        with pytest.raises(kind) as e:
            Dataset(broken(df, r))
        assert type(e.value) is kind and "np." not in str(e.value)


@pytest.mark.parametrize("seed", range(20))
def test_tables(seed):
    ds = random_log(seed, exposures=False)
    r = np.random.default_rng(seed)
    for key in ("user_id", "item_id"):
        which = key[:4] + "s"
        ids = ds.interactions[key].unique()
        table = pd.DataFrame({key: r.permutation(ids)})
        assert (
            list(getattr(Dataset(ds.interactions, **{which: table}), key + "s"))
            == table[key].tolist()
        )
        with pytest.raises(DuplicateRowError):
            Dataset(ds.interactions, **{which: pd.concat([table, table.tail(1)])})
        gone = table[key].iloc[0]
        short = table.iloc[1:]
        if not len(short):
            continue
        with pytest.raises(UnknownIdError, match=str(gone)):
            Dataset(ds.interactions, **{which: short})
        with pytest.warns(UserWarning, match="are dropped"):
            kept = Dataset.from_frame(ds.interactions, **{which: short}, unknown="drop")
        assert rows(kept) == rows(
            ds.replace(ds.interactions[ds.interactions[key] != gone])
        )
        other = table.assign(
            **{key: range(len(table)) if seed % 2 else table[key].astype(str)}
        )
        with pytest.raises(UnknownIdError, match="types|convert"):
            Dataset(ds.interactions, **{which: other})


def test_the_input_is_left_alone():
    df = pd.DataFrame(
        {
            "user_id": [1.0, 2.0],
            "item_id": pd.Categorical(["a", "b"]),
            "timestamp": ["2024-01-01", "2024-01-02"],
        },
        index=[7, 9],
    )
    before = df.copy()
    ds = Dataset(df, items=pd.DataFrame({"item_id": ["a", "b"]}))
    pd.testing.assert_frame_equal(df, before)
    assert ds.interactions.user_id.dtype == "int64" and ds.item_ids.tolist() == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2],
        ["a", "b"],
        pd.array([1, 2], "Int64"),
        pd.array(["a", "b"], "string"),
        pd.Series([1, 2], dtype=object),
        np.array([2**63 + 1, 5], "uint64"),
        [1.0, 2.0],
    ],
)
def test_id_types(ids):
    ds = Dataset(pd.DataFrame({"user_id": ids, "item_id": ids}))
    assert (
        ds.user_ids.tolist()
        == sorted(ds.interactions.user_id.tolist())
        == sorted(int(x) if isinstance(x, float) else x for x in list(ids))
    )


def test_anything_tabular():
    pa = pytest.importorskip("pyarrow")
    assert len(Dataset(pa.table({"user_id": [1], "item_id": [2]}))) == 1


@pytest.mark.parametrize("seed", range(12))
def test_labelled_equals_a_plain_loop(seed):
    ds = random_log(seed, timestamps=seed % 3 > 0)
    df = ds.interactions
    pos = ds.is_positive()
    order = sorted(
        range(len(df)), key=lambda k: (df.timestamp[k] if "timestamp" in df else 0, k)
    )
    open_, first = {}, {}
    for k in order:
        pair = (df.user_id[k], df.item_id[k])
        if pos[k] and pair in open_:
            first[open_[pair]] = 1.0
        else:
            open_[pair] = k
            first[k] = float(pos[k])
    out = ds.labelled()
    assert (
        dict(zip(out.extra, out.label, strict=False)) == first
        and out.extra.is_monotonic_increasing
    )


# --- splits
# ------------------------------------------------------------


def pairs(ds):
    "The positive pairs of user and item, each once."
    return ds.positives().interactions[["user_id", "item_id"]].drop_duplicates()


def check_by_time(ds, train, test, report):
    past, future = train.interactions.timestamp, test.interactions.timestamp
    assert past.max() < future.min()
    assert report["test events before train's last"] == 0
    assert len(test) >= round(0.2 * len(ds)) or past.nunique() == 1


def check_last_out(ds, train, test, report):
    positives = test.positives().interactions
    assert report["test users also in train"] == report["test users"]
    both = pairs(test).merge(pairs(train), how="left", indicator=True)
    asked = both.query("_merge == 'left_only'")
    assert set(asked.user_id) == set(positives.user_id)
    assert asked.merge(train.interactions, on=["user_id", "item_id"]).empty
    if ds.positive is None:
        assert asked.user_id.is_unique
    last = ds.positives().interactions.groupby("user_id").timestamp.max()
    held = positives.groupby("user_id").timestamp.max()
    assert held.eq(last.reindex(held.index)).all()
    # what was seen after the last positive is test
    known = train.interactions.groupby("user_id").timestamp.max()
    assert (known.reindex(held.index) <= held).all()


def check_by_user(ds, train, test, report):
    assert report["test users also in train"] == 0
    asked = set(test.positives().interactions.user_id)
    assert set(test.given.positives().interactions.user_id) == asked
    assert asked == set(test.interactions.user_id)


def check_random(ds, train, test, report):
    assert len(test) == max(1, round(0.2 * len(ds)))


PROMISES = {
    split_by_time: check_by_time,
    split_leave_last_out: check_last_out,
    split_by_user: check_by_user,
    split_random: check_random,
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(24))
def test_splits(split, seed):
    ds = random_log(seed)
    try:
        train, test = split(ds)
    except EmptyLogError:
        pytest.skip("too few events for this split")
    parts = [train, test] + ([test.given] if test.given else [])
    # nothing is lost, nothing is twice
    assert sum((rows(p) for p in parts), Counter()) == rows(ds)
    assert all(len(p) for p in parts[:2])
    for again in (ds, ds.replace(ds.interactions.sample(frac=1, random_state=seed))):
        a, b = split(again)
        assert rows(a) == rows(train) and rows(b) == rows(test)
    PROMISES[split](ds, train, test, check_split(train, test))


def test_a_cut_in_many_ties():
    ds = Dataset(
        pd.DataFrame(
            {
                "user_id": 1,
                "item_id": range(5),
                "timestamp": pd.to_datetime(
                    [0, 0, 0, 0, 1], unit="s", origin="2024-01-01"
                ),
            }
        )
    )
    train, test = split_by_time(ds, test=0.5)
    assert (len(train), len(test)) == (4, 1)


@pytest.mark.parametrize("seed", range(8))
def test_something_is_always_given(seed):
    _, test = split_by_user(random_log(seed), test=0.5, holdout=0.99)
    assert set(test.given.positives().interactions.user_id) == set(
        test.positives().interactions.user_id
    )


@pytest.mark.parametrize("split", [split_by_user, split_random])
def test_seeds_and_logs_without_times(split):
    ds = random_log(4, timestamps=False)
    draws = [split(ds, seed=s)[1] for s in (0, 0, 1)]
    assert rows(draws[0]) == rows(draws[1]) != rows(draws[2])


@pytest.mark.parametrize("split", SPLITS)
def test_splits_refuse(split):
    one = Dataset(
        pd.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1_700_000_000]})
    )
    with pytest.raises(EmptyLogError):
        split(one)
    if split is not split_leave_last_out:
        for bad in (0, 1, -0.1, 20, float("nan")):
            with pytest.raises(ValueError, match="between 0 and 1"):
                split(random_log(0), test=bad)


# --- files
# ------------------------------------------------------------


@pytest.mark.parametrize(
    "text, options",
    [
        ("userId,movieId,rating,timestamp\n1,2,3.5,1700000000\n", {}),
        ("User ID;Item ID;Rating;Date\n1;2;3.5;2023-11-14T22:13:20Z\n", {}),
        (
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            "1\t2\t3.5\t1700000000\n",
            {},
        ),
        (
            "1|2|3.5|1700000000\n",
            {"names": ["user", "item", "value", "ts"], "sep": "|"},
        ),
        (
            "1::2::3.5::1700000000000\n",
            {"names": ["user", "item", "score", "ts"], "sep": "::"},
        ),
        (
            "\ufeffwho,what,stars,at\n1,2,3.5,1700000000000000\n",
            {"user": "who", "item": "what", "timestamp": "at"},
        ),
    ],
)
def test_csv_layouts(tmp_path, text, options):
    f = tmp_path / "x.csv"
    f.write_text(text, encoding="utf-8")
    ds = load(f, **options)
    assert (
        ds.interactions[["user_id", "item_id", "value", "timestamp"]].values.tolist()
        == [[1, 2, 3.5, pd.Timestamp("2023-11-14 22:13:20")]]
        and ds.name == "x"
    )


def test_ids_with_leading_zeros_and_many_digits(tmp_path):
    f = tmp_path / "x.csv"
    f.write_text("user,item\n007,9007199254740993\n008,\n")
    with pytest.raises(NullIdError):
        load(f)
    with pytest.warns(UserWarning, match="1 of 2"):
        ds = load(f, unknown="drop")
    assert ds.interactions.iloc[0].tolist() == ["007", 9007199254740993]


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"", EmptyLogError),
        (b"user,item\n", EmptyLogError),
        (b"user,item\n1,2\n3,4,5,6\n", DataError),
        (b"user,item\n\xe9,1\n", DataError),
        (b"a,b\n1,2\n", MissingColumnError),
    ],
)
def test_bad_csv(tmp_path, content, kind):
    f = tmp_path / "x.csv"
    f.write_bytes(content)
    with pytest.raises(kind):
        read_log(f)


@pytest.mark.parametrize("seed", range(6))
def test_user_lists(tmp_path, seed):
    """Lines as written come back as written: blanks, tabs, Windows' line ends, users
    without items, ids that are only in one file."""
    r = np.random.default_rng(seed)
    logs = {}
    for part in ("train", "test"):
        lists = {
            int(u): r.choice(
                10**9, r.integers(part == "train" and u == 0, 9), replace=False
            ).tolist()
            for u in r.permutation(40)[:30]
        } | {99: [7]}
        sep, end = r.choice([" ", "  ", "\t"]), r.choice(["\n", "\r\n", " \n\n"])
        (tmp_path / f"{part}.txt").write_bytes(
            end.join(
                sep.join(map(str, [u, *items])) for u, items in lists.items()
            ).encode()
        )
        logs[part] = lists
    with (
        pytest.warns(UserWarning, match="nothing is known")
        if any(logs["test"][u] and not logs["train"].get(u) for u in logs["test"])
        else warnings.catch_warnings()
    ):
        train, test = load(tmp_path, format="user-lists", name="lists")
    for ds, lists in [(train, logs["train"]), (test, logs["test"])]:
        assert list(
            zip(ds.interactions.user_id, ds.interactions.item_id, strict=False)
        ) == [(u, i) for u, items in lists.items() for i in items]
        assert list(ds.user_ids) == sorted({*logs["train"], *logs["test"]}) and list(
            ds.item_ids
        ) == sorted({i for ll in logs.values() for items in ll.values() for i in items})
        assert ds.split["kind"] == "given" and ds.name == "lists"
    shutil.make_archive(tmp_path / "zipped", "zip", tmp_path, "train.txt")
    shutil.make_archive(tmp_path / "both", "zip", tmp_path)
    assert rows(load(tmp_path / "train.txt", format="user-lists")) == rows(train)


@pytest.mark.parametrize(
    "content, kind, message",
    [
        ("1 2\n3 x\n", DataError, "line 2: 'x'"),
        ("1 -2\n", DataError, "'-2'"),
        ("1 2.5\n", DataError, "'2.5'"),
        ("1 2\n\n1 3\n", DuplicateRowError, "line 3: user 1"),
        ("5 1\n4 2 3 2\n", DuplicateRowError, "line 2: user 4 has item 2 twice"),
        ("", EmptyLogError, "no interactions"),
        ("7\n", EmptyLogError, "no interactions"),
        ("1 \u0662\n", DataError, "not an id"),
    ],
)
def test_bad_user_lists(tmp_path, content, kind, message):
    f = tmp_path / "train.txt"
    f.write_text(content, encoding="utf-8")
    with pytest.raises(kind, match=message) as e:
        load(f, format="user-lists")
    assert type(e.value) is kind
    with pytest.raises(
        FileNotFoundError
        if kind is EmptyLogError or not content
        else (kind, FileNotFoundError)
    ):
        load(tmp_path, format="user-lists")
    with pytest.raises(ValueError, match="user-lists"):
        load(f, format="lists")


def test_user_lists_with_ids_of_any_length(tmp_path):
    f = tmp_path / "train.txt"
    f.write_text("1 99999999999999999999 5\n")
    assert load(f, format="user-lists").interactions.item_id.tolist() == [
        "99999999999999999999",
        "5",
    ]


def test_bad_parquet_and_zip(tmp_path):
    for name in ("x.parquet", "x.zip"):
        (tmp_path / name).write_bytes(b"PK nothing")
        with pytest.raises(DataError):
            load(tmp_path / name)


def test_kaggle_retailrocket(tmp_path):
    f = tmp_path / "events.csv"
    f.write_text(
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n"
        "1433224214164,992329,transaction,248676,4000\n"
    )
    ds = load(f, positive="transaction")
    assert (
        ds.user_ids.tolist() == [257597, 992329]
        and ds.interactions.timestamp.dt.year.eq(2015).all()
        and len(ds.positives()) == 1
        and "transactionid" in ds.interactions
    )


def test_parquet_folder_and_tables(tmp_path):
    df = random_log(1).interactions
    parts = tmp_path / "log"
    parts.mkdir()
    df.iloc[:9].to_parquet(parts / "part-0.parquet")
    df.iloc[9:].to_parquet(parts / "part-1.parquet")
    assert rows(load(parts)) == rows(Dataset(df))
    own = tmp_path / "own"
    own.mkdir()
    df.to_csv(own / "interactions.csv", index=False)
    pd.DataFrame({"id": df.user_id.unique(), "age": 1}).to_csv(
        own / "users.csv", index=False
    )
    assert (
        load(own).users.columns.tolist() == ["user_id", "age"]
        and load(own).name == "own"
    )


def write_100k(folder):
    folder.mkdir(parents=True)
    (folder / "u.data").write_text("196\t242\t3\t881250949\n196\t1\t5\t881250950\n")

    def flags(*on):
        return "|".join("1" if k in on else "0" for k in range(19))

    (folder / "u.item").write_text(
        f"1|Toy Story (1995)|01-Jan-1995||http://x|{flags(3, 4, 5)}\n242|Kol\xe9a "
        f"(1996)|24-Jan-1997||http://x|{flags(5)}\n",
        encoding="latin-1",
    )
    (folder / "u.user").write_text("196|49|M|writer|55105\n")


def write_1m(folder):
    folder.mkdir(parents=True)
    (folder / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    (folder / "movies.dat").write_text(
        "661::James: and the Giant Peach (1996)::Animation|Children's\n1193::Caf\xe9 "
        "(1975)::Drama\n",
        encoding="latin-1",
    )
    (folder / "users.dat").write_text("1::F::1::10::48067\n")


@pytest.mark.parametrize("zipped", [False, True])
def test_movielens_layouts(tmp_path, monkeypatch, zipped):
    monkeypatch.setenv("RECSYS_NB_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for write, folder in ((write_100k, "ml-100k"), (write_1m, "ml-1m")):
        write(tmp_path / folder)
        if not zipped:
            continue
        with zipfile.ZipFile(tmp_path / f"{folder}.zip", "w") as z:
            for f in (tmp_path / folder).iterdir():
                z.write(f, f"{folder}/{f.name}")
        (tmp_path / folder).rename(tmp_path / f"away-{folder}")
    ds = load("movielens-100k", positive=4.0)
    assert ds.items.values.tolist() == [
        [1, "Toy Story (1995)", "Animation|Children's|Comedy", 1995],
        [242, "Kol\xe9a (1996)", "Comedy", 1996],
    ]
    assert (
        ds.users.values.tolist() == [[196, 49, "M", "writer", 55105]]
        and ds.is_positive().tolist() == [False, True]
        and ds.name == "movielens-100k"
    )
    ds = load("movielens-1m")
    assert ds.items.title.tolist() == [
        "James: and the Giant Peach (1996)",
        "Caf\xe9 (1975)",
    ] and ds.items.year.tolist() == [1996, 1975]
    assert ds.users.iloc[0].tolist() == [
        1,
        "F",
        1,
        "K-12 student",
        48067,
    ] and ds.interactions.value.tolist() == [5, 3]
    if not zipped:
        assert (
            load(tmp_path / "ml-1m" / "ratings.dat").items is not None
            and load(tmp_path / "ml-1m" / "ratings.dat").name == "ml-1m"
        )


# --- downloads
# ------------------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    files = {}

    def do_GET(self):
        body, length = self.files.get(self.path, (None, 0))
        if body is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RECSYS_NB_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write_100k(tmp_path / "made" / "ml-100k")
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as z:
        for f in (tmp_path / "made" / "ml-100k").iterdir():
            z.write(f, f"ml-100k/{f.name}")
    body = (tmp_path / "made.zip").read_bytes()
    md5 = hashlib.md5(body).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/ml-100k.zip"

    def serve(md5_known=md5, published=None, send=body, length=None):
        Site.files = {"/ml-100k.zip": (send, length or len(send))} | (
            {"/ml-100k.zip.md5": (published.encode(), len(published))}
            if published
            else {}
        )
        monkeypatch.setitem(
            data.SOURCES, "movielens-100k", data.Source("ml-100k", url, md5_known, url)
        )
        return tmp_path / "cache" / "recsys_nb"

    yield serve, body, md5
    server.shutdown()
    server.server_close()


def test_download(site):
    serve, body, md5 = site
    cache = serve()
    assert len(load("movielens-100k")) == 2 and [f.name for f in cache.iterdir()] == [
        "ml-100k.zip"
    ]
    Site.files = {}  # the second time it is in the cache
    assert len(load("movielens-100k")) == 2


@pytest.mark.parametrize(
    "form", ["{md5}  ml-100k.zip\n", "MD5 (ml-100k.zip) = {md5}\n"]
)
def test_published_checksum(site, form):
    serve, body, md5 = site
    serve(md5_known=None, published=form.format(md5=md5))
    assert len(load("movielens-100k")) == 2


@pytest.mark.parametrize(
    "case",
    [
        "wrong checksum",
        "wrong published checksum",
        "no published checksum",
        "cut short",
        "not there",
    ],
)
def test_failed_downloads_leave_nothing(site, case):
    serve, body, md5 = site
    cache = {
        "wrong checksum": lambda: serve(md5_known="0" * 32),
        "wrong published checksum": lambda: serve(md5_known=None, published="f" * 32),
        "no published checksum": lambda: serve(md5_known=None, published="none"),
        "cut short": lambda: serve(send=body[:50], length=len(body)),
        "not there": lambda: serve(md5_known=None),
    }[case]()
    with pytest.raises(DownloadError, match="place it as") as e:
        load("movielens-100k")
    assert not list(cache.iterdir()) and "ml-100k.zip" in str(e.value)


def test_interrupted_download_leaves_nothing(site, monkeypatch):
    serve, _, _ = site
    cache = serve()

    def half(r, f):
        f.write(r.read(10))
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copyfileobj", half)
    with pytest.raises(KeyboardInterrupt):
        load("movielens-100k")
    assert not list(cache.iterdir())


def test_retailrocket_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RECSYS_NB_DATA", raising=False)
    with pytest.raises(DownloadError, match="kaggle"):
        load("retailrocket")


# --- real data
# ------------------------------------------------------------


@pytest.fixture
def real(monkeypatch):
    root = Path(
        os.environ.get("RECSYS_NB_DATA")
        or Path(__file__).parents[2] / "shared" / "data"
    )
    monkeypatch.setenv("RECSYS_NB_DATA", str(root))

    def get(folder):
        if not (root / folder).exists():
            pytest.skip(f"{folder} is not in RECSYS_NB_DATA or ../shared/data")

    return get


def test_movielens_small(real):
    real("ml-latest-small")
    ds = load("movielens-small", positive=4.0)
    assert (
        len(ds),
        len(ds.user_ids),
        len(ds.item_ids),
        ds.interactions.user_id.nunique(),
    ) == (100_836, 610, 9_742, 610)
    assert ds.items.genres.notna().all() and ds.items.year.notna().mean() > 0.99
    train, test = split_by_time(ds)
    assert train.interactions.timestamp.max() < test.interactions.timestamp.min()


def test_retailrocket(real):
    real("retailrocket")
    ds = load("retailrocket")
    assert (
        ds.interactions.event_type.value_counts().to_dict()
        == {"view": 75_374, "cart": 12_456, "buy": 9_551}
        and ds.user_ids.size == 2_174
    )
    assert (
        str(ds.interactions.timestamp.min().date()) == "2015-05-03"
        and str(ds.interactions.timestamp.max().date()) == "2015-09-18"
    )


def test_movielens_100k(tmp_path):
    got = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-cache-dir",
            "-q",
            "-d",
            str(tmp_path),
            "recbole==1.2.1",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if got.returncode:
        pytest.skip(
            "pip can't fetch recbole, which carries ML-100K: "
            f"{got.stderr.strip().splitlines()[-1:]}"
        )
    with zipfile.ZipFile(next(tmp_path.glob("recbole*.whl"))) as z:
        z.extractall(tmp_path, [n for n in z.namelist() if "/ml-100k/" in n])
    ds = load(tmp_path / "recbole" / "dataset_example" / "ml-100k")
    assert (len(ds), len(ds.user_ids), len(ds.item_ids)) == (100_000, 943, 1_682)
    assert ds.interactions.value.value_counts().sort_index().tolist() == [
        6110,
        11370,
        27145,
        34174,
        21201,
    ]
    assert (
        {"age", "gender", "occupation"} <= set(ds.users)
        and ds.items.title.iloc[0] == "Toy Story (1995)"
        and ds.items.genres.iloc[0] == "Animation|Children's|Comedy"
    )


def test_no_development_packages_are_imported():
    names = ("fastcore", "nbdev", "matplotlib")
    code = f"""
import sys, recsys_nb.data
print([name for name in {names} if name in sys.modules])
"""
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "positive, there", [(("sold",), "'buy', 'view'"), (9.0, "2.5")]
)
def test_what_is_there_is_told_where_nothing_is_positive(positive, there):
    "In a frame and in an engine."
    frame = pd.DataFrame(
        {
            "user_id": [1, 2, 3],
            "item_id": [1, 2, 3],
            "event_type": ["buy", "view", "buy"],
            "value": [1.0, 2.5, 2.0],
        }
    )
    table = ibis.memtable(frame)
    said = f"positive=.* fits none of them; .* {there}"
    with pytest.warns(UserWarning, match=said):
        Dataset(frame, positive=positive)
    con = ibis.duckdb.connect()
    con.create_table("events", table)
    with pytest.warns(UserWarning, match=said):
        load(con, table="events", positive=positive)
