"""Situations from public trackers: what a user did with a file, and what is right."""

import gzip
import json
import re
import warnings

import pandas as pd
import pyarrow as pa
import pytest

from recsys_nb.data import (
    AmbiguousColumnError,
    DataError,
    Dataset,
    EmptyLogError,
    IdMismatchError,
    MissingColumnError,
    NullIdError,
    TimestampError,
    as_frame,
    compare_ids,
    load,
    parse_timestamps,
    read_frame,
    split_by_time,
    split_leave_last_out,
    split_random,
)


@pytest.fixture
def write(tmp_path):
    "Write a text file; its path."

    def write_file(name, text, encoding="utf-8"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding))
        return path

    return write_file


# --- ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt", "x.inter", "x.dat"])
def test_padded_ids_stay_two(write, name):
    separator = "\t" if name.endswith(("tsv", "inter")) else ","
    text = "user_id,item_id\na,00123\nb,123\n".replace(",", separator)
    data = load(write(name, text))
    assert data.interactions.item_id.tolist() == ["00123", "123"]


@pytest.mark.parametrize(
    "texts, expected",
    [
        (["7", "12"], [7, 12]),
        (["007", "7"], ["007", "7"]),
        (["+7", "7"], ["+7", "7"]),
        (["-0", "0"], ["-0", "0"]),
        (["1.0", "2.0"], ["1.0", "2.0"]),
        (["1e5", "2"], ["1e5", "2"]),
        (["True", "False"], ["True", "False"]),
        (["1234567890123456001", "5"], [1234567890123456001, 5]),
        ([str(2**63), "5"], [2**63, 5]),
        ([str(2**64 - 1), "5"], [2**64 - 1, 5]),
        ([str(2**64), "5"], [str(2**64), "5"]),
        ([str(2**63), "-5"], [str(2**63), "-5"]),
        (["NA", "N/A"], ["NA", "N/A"]),
        (["2024-01-01", "x"], ["2024-01-01", "x"]),
    ],
)
def test_ids_are_what_is_written(write, texts, expected):
    rows = "".join(f"{text},{place}\n" for place, text in enumerate(texts))
    data = load(write("x.csv", f"user_id,item_id\n{rows}"), timestamp=False)
    assert data.interactions.user_id.tolist() == expected


def test_long_ids_with_a_gap_stay_exact(write):
    rows = f"user_id,item_id\n{2**60 + 1},1\n,2\n{2**60 + 2},3\n"
    with pytest.warns(UserWarning, match="user_id is null"):
        data = load(write("x.csv", rows), unknown="drop")
    assert data.interactions.user_id.tolist() == [2**60 + 1, 2**60 + 2]


def test_null_customers_are_named_and_can_be_dropped(write):
    path = write("x.csv", "customer,item\n17850,a\n,b\nNULL,c\n17851,d\n")
    with pytest.raises(NullIdError, match="unknown='drop'") as error:
        load(path)
    assert error.value.argument == "unknown"
    with pytest.warns(UserWarning, match="2 of 4"):
        data = load(path, unknown="drop")
    assert data.user_ids.tolist() == [17850, 17851]


def test_ids_of_log_and_table_files_of_two_types(write):
    log = write("log.csv", "user,item\n1,7\n2,8\n")
    items = write("items.csv", "item,price\n7,1\n8,1\ngift,2\n")
    assert list(load(log, items=items).item_ids) == ["7", "8", "gift"]


@pytest.mark.parametrize(
    "left, right, shown",
    [
        (pd.Series([7]), pd.Series(["7"]), "'7'"),
        (pd.Series(["007"]), pd.Series(["7"]), "'007'"),
        (pd.Series(["Ada "]), pd.Series(["Ada"]), "'Ada '"),
        (pd.Series(["Control "]), pd.Series(["Control"]), "'Control '"),
        (pd.Series(["ada"]), pd.Series(["Ada"]), "'Ada'"),
        (pd.Series(["7.0"]), pd.Series(["7"]), "'7.0'"),
    ],
)
def test_ids_that_nearly_match(left, right, shown):
    with pytest.raises(IdMismatchError, match="left.*right") as error:
        compare_ids(left, right, "left", "right")
    assert shown in str(error.value)


def test_ids_that_one_table_tells_apart_are_two():
    left, right = pd.Series(["123", "00123", "x"]), pd.Series(["00123", "y"])
    assert compare_ids(left, right, "left", "right").tolist() == [False, True, False]
    with pytest.raises(IdMismatchError, match="'123'.*'00123'"):
        compare_ids(left[[0, 2]], right, "left", "right")


def test_a_few_ids_that_differ_by_capitals_are_others():
    ids = pd.Series([f"item{n}" for n in range(300)])
    other = ids.where(ids != "item7", "Item7")
    assert compare_ids(other, ids, "left", "right").sum() == 299
    with pytest.raises(IdMismatchError, match="'Item0'.*'item0'.*300 ids"):
        compare_ids(ids.str.capitalize(), ids, "left", "right")
    blank = ids.where(ids != "item7", "item7 ")
    with pytest.raises(IdMismatchError, match="'item7 '.*1 ids"):
        compare_ids(blank, ids, "left", "right")


def test_some_items_of_the_log_are_missing_in_the_table(write):
    log = write("log.csv", "user,item\n1,a\n2,b\n3,c\n")
    items = write("items.csv", "item,price\na,1\nb,1\n")
    with pytest.raises(DataError, match="unknown='drop'"):
        load(log, items=items)
    with pytest.warns(UserWarning, match="1 of 3.*'c'"):
        assert len(load(log, items=items, unknown="drop")) == 2


# --- times --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [
        ("t_dat", "2018-09-20"),
        ("InvoiceDate", "12/1/2010 8:26"),
        ("unixReviewTime", "1370304000"),
        ("order_date", "20180920"),
        ("ts", "1370304000123"),
        ("created_at", "2018-09-20T10:00:00+02:00"),
    ],
)
def test_common_names_of_times_are_used(write, name, value):
    second = value.replace("12/1/", "12/13/")
    text = f"customer_id,article_id,{name}\n1,2,{value}\n1,3,{second}\n"
    assert "timestamp" in load(write("x.csv", text)).interactions


def test_an_unknown_name_of_times_asks(write):
    path = write("x.csv", "user,item,bought_when\n1,2,2018-09-20\n1,3,2018-09-21\n")
    with pytest.raises(AmbiguousColumnError, match="timestamp='bought_when'") as error:
        load(path)
    assert error.value.argument == "timestamp"
    assert "timestamp" in load(path, timestamp="bought_when").interactions
    assert "timestamp" not in load(path, timestamp=False).interactions


def test_two_candidates_ask(write):
    text = "user,item,order_date,ship_date\n1,2,2018-09-20,2018-09-22\n"
    with pytest.raises(AmbiguousColumnError, match="order_date.*ship_date"):
        load(write("x.csv", text))


def test_date_and_time_are_joined_when_both_are_named(write):
    path = write("x.csv", "user,item,date,time\n1,2,2018-09-20,8:26\n")
    with pytest.raises(AmbiguousColumnError, match=r"\('date', 'time'\)"):
        load(path)
    times = load(path, timestamp=("date", "time")).interactions.timestamp
    assert times.tolist() == [pd.Timestamp("2018-09-20 08:26")]


@pytest.mark.parametrize(
    "column",
    [
        ["0000-00-00", "2024-01-01", "2024-01-02"],
        ["2024-01-01", "9999-12-31", "2024-01-02"],
        ["2024-01-01", "2024-01-02", "null"],
        ["2024-01-01", "2024-01-02", None],
        [1_700_000_000, 1_700_000_000_000, 1_700_000_001],
        [1_700_000_000, 0, 1_700_000_001],
        [20240101, 20240102, 99991231],
        [pd.Timestamp("2024-01-01"), pd.Timestamp("1970-01-01"), pd.NaT],
        ["2024-01-01", "2611-01-01", "2024-01-02"],
        ["20240101", "1700000000", "20240102"],
    ],
)
def test_what_is_no_time_is_named_and_can_be_dropped(column):
    values = pd.Series(column)
    with pytest.raises(TimestampError, match=r"row \d.*such row"):
        parse_timestamps(values)
    times = parse_timestamps(values, unknown="drop")
    assert 1 <= times.isna().sum() <= 2
    assert times.dropna().dt.year.between(1990, 2100).all()


def test_a_date_that_is_ambiguous_asks_how_it_is_written():
    with pytest.raises(TimestampError, match="time_format='%d/%m/%Y") as error:
        parse_timestamps(pd.Series(["01/02/2024", "02/03/2024"]))
    assert error.value.argument == "time_format"


@pytest.mark.parametrize("digits", ["202401311200", "20240131120000", 202401311200])
def test_dates_of_12_and_14_digits(digits):
    found = parse_timestamps(pd.Series([digits]))
    assert found.tolist() == [pd.Timestamp("2024-01-31 12:00")]


def test_faulty_times_are_dropped_with_a_count(write):
    path = write("x.csv", "user,item,ts\n1,2,2024-01-01\n1,3,0000-00-00\n2,2,\n")
    with pytest.raises(TimestampError, match="0000-00-00"):
        load(path)
    with pytest.warns(UserWarning, match="2 of 3"):
        assert len(load(path, unknown="drop")) == 1


# --- files --------------------------------------------------------------------------


def test_json_lines(write):
    lines = [json.dumps({"user_id": place, "item_id": 1}) for place in range(3)]
    data = load(write("log.jsonl", "\n".join(lines)))
    assert data.item_ids.tolist() == [1] and len(data) == 3
    with pytest.raises(DataError, match="jsonl"):
        load(write("log.csv", "\n".join(lines)))


def test_the_file_named_is_the_file_read(write):
    head = "user_id:token\titem_id:token\n"
    for part, item in (("train", "1"), ("valid", "2"), ("test", "3")):
        path = write(f"ds/ds.{part}.inter", f"{head}u\t{item}\n")
    for part, item in (("train", 1), ("valid", 2), ("test", 3)):
        data = load(path.with_name(f"ds.{part}.inter"))
        assert data.interactions.item_id.tolist() == [item]
    with pytest.raises(DataError, match="train="):
        load(path.parent)


def test_event_types_as_integer_codes(write):
    path = write("x.csv", "user,item,action_type\n1,2,0\n1,3,2\n2,3,3\n")
    data = load(path, event="action_type", positive=("2", "3"))
    assert data.is_positive().tolist() == [False, True, True]
    data = load(path, event="action_type", positive=(2, 3))
    assert data.is_positive().tolist() == [False, True, True]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "utf-16-le"])
def test_encodings(write, encoding):
    path = write("x.csv", "user,item\nZoë,1\n", encoding)
    if encoding in ("latin-1", "utf-16-le"):
        with pytest.raises(DataError, match="encoding=") as error:
            load(path)
        assert error.value.argument == "encoding"
    assert load(path, encoding=encoding).user_ids.tolist() == ["Zoë"]


def test_decimal_commas(write):
    path = write("x.csv", "user;item;rating\n1;2;4,5\n2;2;3,0\n")
    with pytest.raises(DataError, match="decimal=','") as error:
        load(path)
    assert error.value.argument == "decimal"
    assert load(path, decimal=",").interactions.value.tolist() == [4.5, 3.0]


def test_a_file_without_a_header(write):
    path = write("x.csv", "196,242,3,881250949\n186,302,3,891717742\n")
    with pytest.raises(DataError, match="line 1") as error:
        load(path)
    assert error.value.argument == "header"
    data = load(path, names="user,item,rating,timestamp")
    assert len(data) == 2 and data.interactions.timestamp.dt.year.tolist() == [
        1997,
        1998,
    ]
    words = write("y.csv", "Ada,tea\nBen,mug\n")
    with pytest.raises(MissingColumnError, match="names='user_id,item_id"):
        load(words)


@pytest.mark.parametrize(
    "text, line",
    [
        ("user,item\n1,2\n3\n", 3),
        ("user,item\n1,2\n\n3,4,5\n", 4),
        ('user,item\n1,2\n3,"x\n4,5\n', 3),
        ('user,item\n1,2\n3,"x"y\n', 3),
        ("user;item\n1;2\n1;2;3;4\n", 3),
    ],
)
def test_a_line_that_cannot_be_read_is_named(write, text, line):
    with pytest.raises(DataError, match=f"line {line}"):
        load(write("x.csv", text))


def test_a_lone_quote_in_a_file_of_tabs(write):
    text = 'user\titem\ttitle\n1\t2\t"Heat\n2\t3\tX\n'
    frame = read_frame(write("x.tsv", text))
    assert frame.title.tolist() == ['"Heat', "X"]


@pytest.mark.parametrize("end", [",", ""])
def test_a_trailing_separator(write, end):
    data = load(write("x.csv", f"user,item{end}\n1,2,\n3,4,\n"))
    assert data.interactions.columns.tolist() == ["user_id", "item_id"]
    assert data.interactions.values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("name", ["x.xlsx", "x", "x.pdf"])
def test_unknown_suffixes_are_refused(write, name):
    with pytest.raises(DataError, match="format="):
        load(write(name, "user,item\n1,2\n"))
    assert len(load(write(name, "user,item\n1,2\n"), format="csv")) == 1


def test_a_parquet_file_called_csv(tmp_path):
    path = tmp_path / "x.csv"
    pd.DataFrame({"user_id": [1], "item_id": [2]}).to_parquet(path)
    with pytest.raises(DataError, match="parquet"):
        load(path)


def test_a_damaged_gzip(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n1,2\n" * 99)[:-20])
    with pytest.raises(DataError, match="gzip"):
        load(path)


def test_libfm_rows(write):
    data = write(
        "frappe.train.libfm", "1 451:1 4149:1 5041:1\n-1 451:1 5000:1 5041:1\n"
    )
    log = load(data, user="field_1", item="field_2", value="label", positive=1)
    assert log.interactions.user_id.tolist() == [451, 451]
    assert log.is_positive().tolist() == [True, False]


def test_sequences_keep_their_order(write):
    data = load(write("s.txt", "1 5 3 5 9\n2 9 3\n"), format="sequences")
    train, test = split_leave_last_out(data)
    assert test.interactions.item_id.tolist() == [9, 3]


def test_parts_of_a_split_share_a_catalogue(write):
    write("d/train.csv", "user,item\n1,7\n2,8\n")
    write("d/valid.csv", "user,item\n1,8\n")
    folder = write("d/test.csv", "user,item\n1,gift\n").parent
    names = {part: f"{part}.csv" for part in ("train", "valid", "test")}
    parts = load(folder, **names)
    assert [list(part.item_ids) for part in parts] == [["7", "8", "gift"]] * 3
    assert parts[0].split == {"kind": "given", "files": ", ".join(names.values())}


# --- frames of other libraries ------------------------------------------------------


def frames():
    "The same log in the types of other libraries."
    log = {"user_id": [2**60 + 1, 3], "item_id": ["a", "b"], "value": [1.5, None]}
    table = pa.table(log)
    yield table
    yield table.to_batches()[0]
    yield table.to_pandas(types_mapper=pd.ArrowDtype)
    yield pd.DataFrame(log).convert_dtypes()
    yield pd.DataFrame(log).convert_dtypes(dtype_backend="pyarrow")


@pytest.mark.parametrize("frame", list(frames()))
def test_frames_of_other_libraries(frame):
    data = Dataset(frame)
    assert data.interactions.user_id.tolist() == [2**60 + 1, 3]
    kinds = data.interactions.dtypes.map(str).tolist()
    assert kinds == ["int64", "str", "float64"]
    assert len(split_random(data, 0.5)[0]) == 1


def test_polars_frames():
    polars = pytest.importorskip("polars")
    log = polars.DataFrame({"user_id": [2**60 + 1, None], "item_id": ["a", "b"]})
    for frame in (log, log.lazy()):
        assert as_frame(frame).user_id[0] == 2**60 + 1
        with pytest.warns(UserWarning, match="1 of 2"):
            assert len(Dataset.from_frame(frame, unknown="drop")) == 1


# --- exports of other programs -------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("sep", [";", "\t", ","])
def test_the_line_that_excel_writes_on_top(write, sep, end):
    lines = [f"sep={sep}", f"user_id{sep}item_id", f"a{sep}b", f"c{sep}d"]
    log = load(write("x.csv", end.join(lines) + end))
    assert log.interactions.values.tolist() == [["a", "b"], ["c", "d"]]
    broken = [*lines, "e"]
    with pytest.raises(DataError, match="line 5"):
        load(write("x.csv", end.join(broken) + end))


def test_a_header_among_the_rows_is_named(write):
    text = "user_id,item_id\na,b\nuser_id,item_id\nc,d\n"
    with pytest.raises(DataError, match="row 2 repeats the first line"):
        load(write("x.csv", text))
    log = load(write("x.csv", text), header=False, names="user_id,item_id")
    assert len(log.interactions) == 4
    log = load(write("x.csv", "user_id,item_id\nuser_id,b\n"))
    assert log.interactions.user_id.tolist() == ["user_id"]


@pytest.mark.parametrize(
    "written",
    [
        "2024-03-31 02:30:00.25 UTC",
        "2024-03-31 02:30:00.25 +0000 UTC",
        "2024/03/31 02:30:00.25 GMT",
        "2024-03-31T02:30:00.25utc",
    ],
)
def test_times_that_name_utc(write, written):
    log = load(write("x.csv", f"user_id,item_id,ts\na,b,{written}\n"))
    assert log.interactions.timestamp[0] == pd.Timestamp("2024-03-31 02:30:00.25")


@pytest.mark.parametrize(
    "written",
    [
        "1 Mar 2024 8:26",
        "01-Mar-2024 08:26",
        "1. March 2024 8:26 AM",
        "Mar 1, 2024, 8:26 am",
        "March 1st 2024 08:26:00",
        "Fri, 01 Mar 2024 08:26:00 GMT",
        "Fri, 1 Mar 2024 09:26:00 +0100",
    ],
)
def test_months_in_letters(write, written):
    path = write("x.tsv", f"user_id\titem_id\tdate\na\tb\t{written}\n")
    assert load(path).interactions.timestamp[0] == pd.Timestamp("2024-03-01 08:26")
    path = write("x.tsv", f"user_id\titem_id\tadded\na\tb\t{written}\n")
    with pytest.raises(AmbiguousColumnError, match="timestamp='added'"):
        load(path)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_unix_times_with_decimals_are_rounded_to_microseconds(unit):
    scale = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    numbers = pd.Series([1700000000.123, 1700000000.5, 1700000000.999999]) * scale
    found = parse_timestamps(numbers)
    near = pd.Timestamp("2023-11-14 22:13:20") + pd.to_timedelta(
        [123000, 500000, 999999], unit="us"
    )
    assert found.tolist() == near.tolist()


@pytest.mark.parametrize(
    "written, form",
    [
        ("Fri Aug 25 13:55:02 -0700 2017", "%a %b %d %H:%M:%S %z %Y"),
        ("01-DEC-10 08.26.00 AM", "%d-%b-%y %I.%M.%S %p"),
        ("12/1/10 8:26", "%m/%d/%y %H:%M"),
        ("2020-12-31 11:05 pm", "%Y-%m-%d %I:%M %p"),
    ],
)
def test_times_in_an_unknown_form_ask(write, written, form):
    path = write("x.tsv", f"user_id\titem_id\tadded\na\tb\t{written}\nc\td\t\n")
    with pytest.raises(AmbiguousColumnError, match="time_format"):
        load(path)
    assert "timestamp" not in load(path, timestamp=False).interactions
    log = load(path, timestamp="added", time_format=form, unknown="drop")
    assert log.interactions.timestamp.notna().tolist() == [True]


@pytest.mark.parametrize(
    "times",
    [
        [1704067200, 1704067200000],
        ["1704067200", "2024-01-02"],
        ["2024-01-01", "1/2/2024"],
        [45352.4, 45353.2],
        ["2024-W01-1", "2024-W01-2"],
        ["10:30", "11:30"],
    ],
)
@pytest.mark.parametrize("name", ["when_bought", "date_of_order", "bought_at"])
def test_times_that_cannot_be_read_ask(write, name, times):
    rows = "".join(f"u{n},i{n},{time}\n" for n, time in enumerate(times))
    path = write("x.csv", f"user_id,item_id,{name}\n{rows}")
    with pytest.raises(AmbiguousColumnError, match=name):
        load(path)
    assert "timestamp" not in load(path, timestamp=False).interactions


@pytest.mark.parametrize("name", ["playtime", "updates", "watch_time", "lifetime"])
def test_amounts_of_time_ask_nothing(write, name):
    rows = "".join(f"u{n},i{n},{40_000 + n}\n" for n in range(3))
    log = load(write("x.csv", f"user_id,item_id,{name}\n{rows}"))
    assert log.interactions[name].tolist() == [40_000, 40_001, 40_002]


@pytest.mark.parametrize(
    "text", ["Toy Story (1995)", "10.12.2", "192.168.1.1", "May be", "12-34-5678"]
)
def test_text_without_a_date_asks_nothing(write, text):
    log = load(write("x.csv", f"user_id,item_id,note\na,b,{text}\n"))
    assert log.interactions.note.tolist() == [text]


# --- values ---------------------------------------------------------------------------


def write_values(write, values, column="rating", sep=","):
    "A log of text with some values in turn."
    rows = [
        f"u{n % 4}{sep}i{n % 5}{sep}{values[n % len(values)]}{sep}2024-01-{n + 1:02}"
        for n in range(12)
    ]
    head = sep.join(["user_id", "item_id", column, "timestamp"])
    return write("values.csv", "\n".join([head, *rows]) + "\n")


@pytest.mark.parametrize(
    "values, told",
    [
        (["5 stars", "4 stars"], "'5 stars' in row 0"),
        (["5", "4", "good"], "'good' in row 2"),
        (["50%", "80%"], "'50%' in row 0"),
        (["€12.50", "€3"], "'€12.50' in row 0"),
        (["3", "1.234,50"], "'1.234,50' in row 1"),
        (["12", "1 234"], "'1 234' in row 1"),
        (["4,5", "3", "2.5"], "'4,5' in row 0 and '2.5' in row 2"),
    ],
)
@pytest.mark.parametrize("decimal", [None, ","])
def test_a_rating_that_is_no_number_is_named(write, values, told, decimal):
    file = write_values(write, values, sep=";")
    with pytest.raises(DataError, match=re.escape(told)):
        load(file, positive=4, decimal=decimal)
    assert "value" not in load(file, value=False, timestamp="timestamp").interactions


def test_ratings_in_words_are_left_out(write):
    assert "value" not in load(write_values(write, ["good", "bad"])).interactions


@pytest.mark.parametrize("column", ["Quantity", "qty", "value"])
def test_returns_are_pointed_out(write, column):
    file = write_values(write, ["2", "-1", "1"], column)
    with pytest.warns(UserWarning, match=r"is negative in 4 of 12 .*positive=1"):
        data = load(file)
    assert data.is_positive().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(file, value=column, positive=1)
    assert data.is_positive().sum() == 8


@pytest.mark.parametrize(
    "positive, told",
    [
        (True, "neither event types nor the least value"),
        (float("nan"), "neither event types nor the least value"),
        ([], "positive is empty"),
        ("4", "pass a number"),
        (["4"], "pass a number"),
    ],
)
def test_what_cannot_be_positive_is_told(positive, told):
    frame = pd.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "value": [5, 3]})
    with pytest.raises(DataError, match=told):
        Dataset(frame, positive=positive)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1 + 2j, "5"])
def test_values_that_have_no_order_are_refused(value):
    frame = pd.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "value": [value] * 2})
    with pytest.raises(DataError, match="value is"):
        Dataset(frame, positive=4)


# --- ids that nobody sees -------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u3000", "\u200b"])
@pytest.mark.parametrize("key", ["user_id", "item_id"])
def test_blank_ids_are_no_ids(blank, key):
    frame = pd.DataFrame({"user_id": ["a", "b", "c"], "item_id": ["x", "y", "z"]})
    frame[key] = frame[key].where(frame.index != 1, blank)
    with pytest.raises(NullIdError, match=f"{key} is blank .* the first is row 1"):
        Dataset(frame)
    with pytest.warns(UserWarning, match=f"1 of 3 interactions .* {key} is null"):
        data = Dataset.from_frame(frame, unknown="drop")
    assert len(data) == 2


def test_blank_ids_of_a_file(write):
    file = write("log.csv", "user_id,item_id\nu1,a\n ,b\nu2,a\n")
    with pytest.raises(NullIdError, match="the first is row 1"):
        load(file)
    with pytest.warns(UserWarning, match="1 of 3 interactions"):
        assert len(load(file, unknown="drop")) == 2


@pytest.mark.parametrize("twin", ["u1 ", "\xa0u1", "u1\u200b", "\ufeffu1"])
def test_ids_that_differ_by_blanks_only_are_pointed_out(write, twin):
    file = write("log.csv", f"user_id,item_id\nu1,a\n{twin},b\nu2,a\n")
    told = re.escape(f"{twin!r} and 'u1' count as two ids (1 such")
    with pytest.warns(UserWarning, match=told):
        assert sorted(load(file).user_ids) == sorted(["u1", twin, "u2"])


def test_ids_with_blanks_around_them_are_pointed_out(write):
    file = write("log.csv", "user_id,item_id\nu1,a\nu3 ,b\nu4, b\n")
    with pytest.warns(UserWarning) as said:
        assert load(file).user_ids.tolist() == ["u1", "u3 ", "u4"]
    messages = [str(warning.message) for warning in said]
    assert "user_id 'u3 ' in row 1 has blanks around it (1 such rows)" in messages[0]
    assert "item_id ' b' and 'b' count as two ids" in messages[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(write("log.csv", "user_id,item_id\nu1,a\nx y,b\nu3,a\n"))


COMMENTS = ["# exported 2024-03-01", "# by Ann, for 'Bob', \"today", "% 3 rows\n#\n\n"]


@pytest.mark.parametrize("comment", COMMENTS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_comments_above_a_table_are_none_of_it(write, comment, end):
    text = f"{comment}\nuser_id,item_id\nu1,007\nu2,7\n".replace("\n", end)
    assert load(write("x.csv", text)).item_ids.tolist() == ["007", "7"]
    line = text.count("\n") + 1
    with pytest.raises(DataError, match=f"line {line}: 1 fields"):
        load(write("x.csv", f"{text}u3{end}"))
    text = text.replace("user_id,item_id" + end, "")
    log = load(write("x.csv", text), names="user_id,item_id")
    assert log.user_ids.tolist() == ["u1", "u2"]
    text = text.replace(",", " ")
    assert load(write("x.txt", text), format="sequences").user_ids.tolist() == [
        "u1",
        "u2",
    ]


LAYOUTS = [", ", " ,", " | ", "\t ", ";  "]


@pytest.mark.parametrize(
    "sep, names",
    [(sep, None) for sep in LAYOUTS]
    + [(sep, "user,item,rating") for sep in LAYOUTS if sep != " ,"],
)
def test_blanks_of_the_layout_are_no_part_of_ids(write, sep, names):
    rows = [["user", "item", "rating"], ["u1", "12", "4.5"], ["u2", "7", "3"]]
    text = "".join(sep.join(row) + "\n" for row in rows[bool(names) :])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = load(write("x.csv", text), names=names).interactions
    assert log.values.tolist() == [["u1", 12, 4.5], ["u2", 7, 3.0]]


def test_events_of_one_moment_cannot_be_split_by_time():
    frame = pd.DataFrame({"user_id": [1, 2, 3], "item_id": [1, 2, 3]})
    data = Dataset(frame.assign(timestamp="2024-01-01"))
    with pytest.raises(EmptyLogError, match="one timestamp, .* split by user"):
        split_by_time(data)
