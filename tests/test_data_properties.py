"""Properties of reading and splitting, over random frames, dialects and orders."""

import gzip
import io
import json
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recsys_nb.data import (
    SPLITS,
    Dataset,
    EmptyLogError,
    MissingColumnError,
    TimestampError,
    as_frame,
    histories,
    load,
    parse_timestamps,
    read_frame,
)

LETTERS = "abcXYZ 0123456789_-.,;|'\"äéß#/:"
WORDS = st.text(LETTERS, min_size=1, max_size=6)
GAPS = {"null", "NULL", "nan", "NaN", "None"}
NAMES = WORDS.filter(lambda word: word.strip() == word and word not in GAPS)
IDS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8),
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8),
    st.lists(st.integers(0, 99).map(lambda n: f"{n:04d}"), min_size=1, max_size=8),
    st.lists(NAMES, min_size=1, max_size=8),
    st.lists(st.integers(0, 2**90).map(str), min_size=1, max_size=8),
)


def expected(ids):
    "Ids as they are to be read: numbers where all are written as numbers that fit."
    texts = [str(value) for value in ids]
    canonical = all(str(int(t)) == t for t in texts if t.lstrip("-").isdecimal())
    if not canonical or not all(t.lstrip("-").isdecimal() for t in texts):
        return texts
    numbers = [int(text) for text in texts]
    low, high = min(numbers), max(numbers)
    fits = (low >= -(2**63) and high < 2**63) or (low >= 0 and high < 2**64)
    return numbers if fits else texts


@st.composite
def logs(draw):
    "A frame of users, items and values."
    users, items = draw(IDS), draw(IDS)
    size = draw(st.integers(1, 12))
    places = st.integers(0, 7)
    return pd.DataFrame(
        {
            "user_id": pd.Series(
                [users[draw(places) % len(users)] for _ in range(size)], dtype=object
            ),
            "item_id": pd.Series(
                [items[draw(places) % len(items)] for _ in range(size)], dtype=object
            ),
            "value": [draw(st.integers(-99, 99)) / 4 + 0.125 for _ in range(size)],
        }
    )


DIALECTS = st.fixed_dictionaries(
    {
        "sep": st.sampled_from([",", ";", "\t", "|"]),
        "end": st.sampled_from(["\n", "\r\n"]),
        "quoting": st.sampled_from([0, 1, 2]),
        "encoding": st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
        "packed": st.sampled_from(["", ".gz", ".zst"]),
        "decimal": st.sampled_from([".", ","]),
        "header": st.booleans(),
        "told": st.booleans(),
        "comment": st.sampled_from(
            ["", "# of June", "%\n# by Ann\n", '# "x'] + [""] * 4
        ),
        "blank": st.sampled_from(["", "", "", " "]),
    }
)


def write_dialect(frame, folder, dialect):
    "The frame as a csv file, and the options that its reader needs."
    buffer = io.StringIO(newline="")
    frame.to_csv(
        buffer,
        index=False,
        sep=dialect["sep"],
        lineterminator=dialect["end"],
        quoting=dialect["quoting"],
        decimal=dialect["decimal"],
        header=dialect["header"],
    )
    text = buffer.getvalue()
    if dialect["comment"]:
        text = dialect["comment"] + dialect["end"] + text
    if dialect["blank"]:
        text = text.replace(dialect["sep"], dialect["sep"] + dialect["blank"])
    data = text.encode(dialect["encoding"])
    if dialect["packed"] == ".gz":
        data = gzip.compress(data)
    if dialect["packed"] == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        data = sink.getvalue().to_pybytes()
    path = Path(folder, f"log.csv{dialect['packed']}")
    path.write_bytes(data)
    options = {"sep": dialect["sep"]} if dialect["told"] else {}
    if dialect["encoding"] == "latin-1":
        options["encoding"] = "latin-1"
    if dialect["decimal"] == ",":
        options["decimal"] = ","
    if not dialect["header"]:
        options["names"] = list(frame.columns)
    return path, options


@given(logs(), DIALECTS)
def test_a_frame_comes_back_from_any_dialect(frame, dialect):
    assume(dialect["decimal"] == "." or dialect["sep"] != ",")
    if not dialect["told"]:  # the separator is found where no value holds another
        text = frame.user_id.map(str) + frame.item_id.map(str)
        assume(not text.str.contains(r"[,;|\t]").any())
        assume(dialect["decimal"] == "." and len(frame) > 1)
    if dialect["blank"]:  # it stands behind separators only
        text = frame.user_id.map(str) + frame.item_id.map(str)
        assume(not text.str.contains(rf'["{dialect["sep"]}]').any())
    with tempfile.TemporaryDirectory() as folder:
        path, options = write_dialect(frame, folder, dialect)
        back = load(path, timestamp=False, **options).interactions
    assert back.user_id.tolist() == expected(frame.user_id)
    assert back.item_id.tolist() == expected(frame.item_id)
    assert back["value"].tolist() == frame["value"].tolist()


@given(logs())
def test_a_frame_comes_back_from_json_lines(frame):
    records = frame.to_dict("records")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.jsonl")
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        back = read_frame(path)
    assert back.to_dict("list") == frame.to_dict("list")


@given(logs(), st.sampled_from(["parquet", "feather"]))
def test_a_frame_comes_back_from_arrow_files(frame, kind):
    plain = Dataset(frame).interactions
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"log.{kind}")
        getattr(plain, f"to_{kind}")(path)
        back = load(path, timestamp=False).interactions
    pd.testing.assert_frame_equal(back, plain)


# --- types --------------------------------------------------------------------------

BACKENDS = {
    "numpy": lambda frame: frame,
    "nullable": lambda frame: frame.convert_dtypes(),
    "arrow": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "table": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "category": lambda frame: frame.astype({"user_id": "category"}),
}


@given(logs(), st.sampled_from(sorted(BACKENDS)))
def test_all_frames_are_one(frame, backend):
    plain = Dataset(frame).interactions
    try:
        other = BACKENDS[backend](plain)
    except (OverflowError, ValueError):  # pandas itself cannot hold it
        assume(False)
    pd.testing.assert_frame_equal(Dataset(other).interactions, plain)


# --- comments -----------------------------------------------------------------------


@given(
    st.lists(WORDS.map(lambda word: f"# {word}".rstrip()), min_size=1, max_size=3),
    st.lists(st.lists(NAMES, min_size=2, max_size=2), min_size=1, max_size=4),
    st.booleans(),
)
def test_lines_that_begin_with_a_sign_are_rows_or_comments(comments, rows, header):
    "No row is lost, whatever it begins with: a comment has other columns than a row."
    rows = [[f"#{user}", item] for user, item in rows]
    assume(not any(set(text) & set(',;|"') for row in rows for text in row))
    assume(not any(set(text) & set(',;|"') for text in comments))
    names = [["user_id", "item_id"]] if header else []
    lines = [*comments, *(",".join(row) for row in [*names, *rows])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.csv")
        path.write_text("\n".join(lines), encoding="utf-8")
        back = read_frame(path, sep=",", names=None if header else "user_id,item_id")
    assert back.user_id.tolist() == [user for user, _ in rows]
    assert back.item_id.tolist() == expected([item for _, item in rows])


# --- times --------------------------------------------------------------------------

MOMENTS = st.datetimes(pd.Timestamp("1990-01-02"), pd.Timestamp("2100-12-30"))
WRITINGS = {
    "s": lambda times: times.astype("datetime64[s]").astype("int64"),
    "ms": lambda times: times.astype("datetime64[ms]").astype("int64"),
    "us": lambda times: times.astype("datetime64[us]").astype("int64"),
    "ns": lambda times: times.astype("datetime64[ns]").astype("int64"),
    "text of s": lambda times: (
        times.astype("datetime64[s]").astype("int64").astype(str)
    ),
    "iso": lambda times: times.dt.strftime("%Y-%m-%dT%H:%M:%S"),
    "zone": lambda times: times.dt.strftime("%Y-%m-%d %H:%M:%S+00:00"),
    "month": lambda times: times.dt.strftime("%d %b %Y %H:%M:%S"),
    "month first": lambda times: times.dt.strftime("%B %d, %Y, %I:%M:%S %p"),
    "mail": lambda times: times.dt.strftime("%a, %d %b %Y %H:%M:%S GMT"),
    "14 digits": lambda times: times.dt.strftime("%Y%m%d%H%M%S").astype("int64"),
    "14 signs": lambda times: times.dt.strftime("%Y%m%d%H%M%S"),
    "datetime": lambda times: times,
}
FAULTS = [None, "", "null", "0000-00-00", "9999-12-31", "2611-05-01", "soon", "0", "-1"]


@given(st.lists(MOMENTS, min_size=1, max_size=8), st.sampled_from(sorted(WRITINGS)))
def test_times_of_any_unit(moments, writing):
    times = pd.Series(moments).astype("datetime64[s]").astype("datetime64[us]")
    written = WRITINGS[writing](times)
    assert parse_timestamps(written).tolist() == times.tolist()


@given(
    st.lists(MOMENTS, min_size=1, max_size=8),
    st.sampled_from(["s", "ms", "iso", "14 digits"]),
    st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_faults_are_never_times(moments, writing, faults, random):
    times = pd.Series(moments).astype("datetime64[s]").astype("datetime64[us]")
    rows = list(
        zip(WRITINGS[writing](times).astype(object).map(str), times, strict=True)
    )
    rows += [(fault, pd.NaT) for fault in faults]
    random.shuffle(rows)
    values = pd.Series([value for value, _ in rows], dtype=object)
    with pytest.raises(TimestampError):
        parse_timestamps(values)
    found = parse_timestamps(values, unknown="drop")
    right = pd.Series([time for _, time in rows]).astype("datetime64[us]")
    pd.testing.assert_series_equal(found, right)


# --- the order of rows --------------------------------------------------------------


@st.composite
def events(draw):
    "A log full of ties, with or without times and event types."
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    size = draw(st.integers(20, 80))
    log = {"user_id": rng.integers(0, 9, size), "item_id": rng.integers(0, 7, size)}
    if draw(st.booleans()):
        log["timestamp"] = 1_700_000_000 + rng.integers(0, 20, size)
    if draw(st.booleans()):
        log["event_type"] = rng.choice(["view", "buy"], size)
    return pd.DataFrame(log)


def dataset(frame):
    "The log with buys as positives, where it has events."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Dataset(frame, positive="buy" if "event_type" in frame else None)


def rows(part):
    return Counter(part.interactions.itertuples(index=False, name=None))


@given(events(), st.sampled_from(sorted(SPLITS)), st.integers(0, 99))
def test_splits_do_not_depend_on_the_order_of_rows(frame, kind, seed):
    try:
        parts = SPLITS[kind](dataset(frame))
    except (EmptyLogError, MissingColumnError):  # it needs times, or more events
        assume(False)
    shuffled = dataset(frame.sample(frac=1, random_state=seed))
    again = SPLITS[kind](shuffled)
    assert [rows(part) for part in parts] == [rows(part) for part in again]


@given(events(), st.integers(0, 99))
def test_histories_do_not_depend_on_the_order_of_rows(frame, seed):
    frame = frame.drop(columns="timestamp", errors="ignore")
    data = dataset(frame)
    ids = (data.user_ids, data.item_ids, np.arange(len(data.user_ids)))
    first = histories(frame, *ids)
    again = histories(frame.sample(frac=1, random_state=seed), *ids)
    assert first.items.tolist() == again.items.tolist()
    assert first.offsets.tolist() == again.offsets.tolist()


@given(events(), st.integers(0, 99))
def test_a_shuffled_file_gives_the_same_splits(frame, seed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.csv")
        frame.drop(columns="timestamp", errors="ignore").to_csv(path, index=False)
        parts = SPLITS["random"](load(path))
        shuffled = frame.sample(frac=1, random_state=seed)
        shuffled.drop(columns="timestamp", errors="ignore").to_csv(path, index=False)
        again = SPLITS["random"](load(path))
    assert [rows(part) for part in parts] == [rows(part) for part in again]


@given(logs())
def test_as_frame_leaves_its_input_alone(frame):
    before = frame.copy()
    as_frame(frame)
    Dataset(frame)
    pd.testing.assert_frame_equal(frame, before)
