"""Files as people have them: every command reads all of them the same way, says what it
can't read in flags, and writes whole files only."""

import ast
import bz2
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_nb.cli import COMMANDS, make_parser
from recsys_nb.data import Dataset
from recsys_nb.flags import FLAGS, in_flags
from recsys_nb.recommenders.baselines import Popularity

root = Path(__file__).resolve().parent.parent / "recsys_nb"

# --- one reader ----------------------------------------------------------------------

ROWS = [("Zoë", "007", 4.5), ("Zoë", "7", 3.0), ("a b", "007", 1.0), ("a b", "x", 2.0)]


def as_text(separator=",", decimal=".", end="\n", header="user,item,score"):
    "The rows as the text of a file."
    lines = [header.replace(",", separator)] if header else []
    for user, item, score in ROWS:
        lines.append(separator.join([user, item, str(score).replace(".", decimal)]))
    return end.join(lines) + end


def quoted():
    "A file with a quoted field that holds a new line and a separator."
    rows = "".join(f'"{u}","{i}",{s},"one\ntwo, three"\n' for u, i, s in ROWS)
    return f"user,item,score,note\n{rows}"


def as_json_lines():
    "The rows as objects, one per line."
    names = ("user", "item", "score")
    records = [dict(zip(names, row, strict=True)) for row in ROWS]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


NO_HEADER = ["--names", "user,item,score"]
FILES = {
    "plain.csv": (as_text().encode(), []),
    "tabs.tsv": (as_text("\t").encode(), []),
    "tabs.txt": (as_text("\t").encode(), []),
    "bars.csv": (as_text("|").encode(), []),
    "semicolons.csv": (as_text(";", ",").encode(), ["--decimal", ","]),
    "windows.csv": (as_text(end="\r\n").encode("utf-8-sig"), []),
    "latin.csv": (as_text().encode("latin-1"), ["--encoding", "latin-1"]),
    "cp1252.csv": (as_text(";").encode("cp1252"), ["--encoding", "cp1252"]),
    "utf16.csv": (as_text().encode("utf-16"), []),
    "quoted.csv": (quoted().encode(), []),
    "bare.csv": (as_text(header="").encode(), NO_HEADER),
    "bare.dat": (as_text("::", header="").encode(), NO_HEADER),
    "renamed.csv": (as_text(header="a,b,c").encode(), [*NO_HEADER, "--header"]),
    "packed.csv.gz": (gzip.compress(as_text().encode()), []),
    "LOUD.CSV.GZ": (gzip.compress(as_text().encode()), []),
    "packed.tsv.bz2": (bz2.compress(as_text("\t").encode()), []),
    "lines.jsonl": (as_json_lines().encode(), []),
    "lines.JSONL.gz": (gzip.compress(as_json_lines().encode()), []),
    "log": (as_text().encode(), ["--format", "csv"]),
    "table.parquet": (None, []),
    "table.feather": (None, []),
}


@pytest.fixture(params=FILES)
def file(request, tmp_path):
    "A file, and the flags that it needs."
    content, flags = FILES[request.param]
    path = tmp_path / request.param
    if content is not None:
        path.write_bytes(content)
        return path, flags
    frame = pd.DataFrame(ROWS, columns=["user", "item", "score"])
    write = frame.to_parquet if path.suffix == ".parquet" else frame.to_feather
    write(path)
    return path, flags


def test_run_reads_it(file, read_run):
    path, flags = file
    log = read_run("--data", path, "--value-col", "score", *flags).data.interactions
    found = log[["user_id", "item_id", "value"]].itertuples(index=False, name=None)
    assert list(found) == ROWS


def test_evaluate_reads_it(file, say, tmp_path):
    path, flags = file
    out = tmp_path / "numbers.csv"
    words = ["--recommendations", path, "--truth", path, "--n-boot", "0", "-k", "2"]
    status, _, said = say("evaluate", *words, *flags, "--out", out)
    assert status == 0, said
    found = pd.read_csv(out).set_index("metric").value
    assert found["recall"] == 1.0 and found["ndcg"] == 1.0


def test_recommend_reads_it(file, say, tmp_path):
    path, flags = file
    frame = pd.DataFrame(ROWS, columns=["user", "item", "score"])
    log = Dataset.from_frame(frame, user="user", item="item")
    Popularity().fit(log).save(tmp_path / "model")
    out = tmp_path / "lists.parquet"
    words = ["--model", tmp_path / "model", "--users", path, "--include-seen"]
    status, _, said = say("recommend", *words, *flags, "--out", out)
    assert status == 0, said
    assert pd.read_parquet(out).user_id.unique().tolist() == ["Zoë", "a b"]
    words = ["--model", tmp_path / "model", "--events", path]
    status, _, said = say("recommend", *words, *flags, "--out", out)
    assert status == 0, said
    lists = pd.read_parquet(out)
    assert lists.values[:, :2].tolist() == [["Zoë", "x"], ["a b", "7"]]
    assert set(lists.source) == {"events"}


@pytest.mark.parametrize("command", ["abtest", "monitor"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "CSV.GZ", "parquet", "jsonl"])
def test_experiments_read_it(tmp_path, say, command, ending):
    n = 1400
    frame = pd.DataFrame({"member": [f"{u:04}" for u in range(n)]})
    frame["variant"] = np.where(np.arange(n) % 2, "new", "old")
    frame["ts"] = 1_700_000_000 + 600 * np.arange(n)
    frame["sales"] = np.random.default_rng(0).poisson(3, n)
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        separator = "\t" if ending == "tsv" else ","
        packed = "gzip" if ending == "CSV.GZ" else None
        frame.to_csv(path, sep=separator, index=False, compression=packed)
    words = [path, "--metric", "sales", "--user", "member", "--control", "old"]
    if command == "monitor":
        words += ["--time-col", "ts", "--every", "2D", "--out", tmp_path / "t.csv"]
    status, said, notes = say(command, *words)
    assert status == 0, notes
    assert "1,400" in said or "1400" in said
    if command == "monitor":
        assert len(pd.read_csv(tmp_path / "t.csv")) == 6


@pytest.mark.parametrize(
    "times",
    [
        [1_700_000_000, 1_700_100_000],
        [1_700_000_000_000, 1_700_100_000_000],
        [1_700_000_000_000_000, 1_700_100_000_000_000],
        ["20231114", "20231116"],
        ["2023-11-14T22:13:20Z", "2023-11-16T02:00:00Z"],
        ["14/11/2023 22:13", "16/11/2023 02:00"],
    ],
)
def test_units_of_times(tmp_path, read_run, times):
    rows = "".join(f"1,{n},{time}\n" for n, time in enumerate(times))
    (tmp_path / "x.csv").write_text(f"user,item,when\n{rows}")
    run = read_run("--data", tmp_path / "x.csv", "--time-col", "when")
    days = run.data.interactions.timestamp.dt.strftime("%Y-%m-%d").tolist()
    assert days == ["2023-11-14", "2023-11-16"]


@pytest.mark.parametrize("name", ["date time", "date,time"])
def test_a_date_and_a_time_of_day_are_joined(tmp_path, read_run, say, name):
    text = "user,item,date,time\n1,2,2018-09-20,8:26\n1,3,2018-09-20,9:00\n"
    (tmp_path / "x.csv").write_text(text)
    words = ["--data", tmp_path / "x.csv"]
    _, _, said = say("run", "--out", tmp_path / "o", *words)
    assert "--time-col 'date time'" in said
    times = read_run(*words, "--time-col", name).data.interactions.timestamp
    assert times.dt.hour.tolist() == [8, 9]


# --- what is refused, in flags -------------------------------------------------------

FALSE_FRIENDS = {
    "-": "standard input",
    "none.csv": "none.csv",
    "folder": "parquet",
    "half.csv.gz": "gzip",
    "lying.csv": "parquet",
    "x.xlsx": "--format",
    "short.csv": "line 3",
    "lines.csv": "--format jsonl",
}


@pytest.mark.parametrize("name", FALSE_FRIENDS)
@pytest.mark.parametrize("command", ["evaluate", "abtest", "monitor", "recommend"])
def test_a_file_that_is_not_what_it_seems(name, command, tmp_path, say):
    frame = pd.DataFrame({"user_id": [1], "item_id": [2]})
    Popularity().fit(Dataset(frame)).save(tmp_path / "model")
    (tmp_path / "folder").mkdir()
    packed = gzip.compress(b"user_id,item_id\n1,2\n" * 99)
    (tmp_path / "half.csv.gz").write_bytes(packed[:-20])
    frame.to_parquet(tmp_path / "lying.csv")
    (tmp_path / "x.xlsx").write_text("user_id,item_id\n1,2\n")
    (tmp_path / "short.csv").write_text("user_id,item_id\n1,2\n3\n")
    (tmp_path / "lines.csv").write_text('{"user_id": 1, "item_id": 2}\n')
    path = name if name == "-" else tmp_path / name
    words = {
        "evaluate": ["--recommendations", path, "--truth", path],
        "abtest": [path, "--metric", "x"],
        "monitor": [path, "--metric", "x"],
        "recommend": ["--model", tmp_path / "model", "--events", path],
    }
    status, _, said = say(command, *words[command])
    assert status == 2 and len(said.splitlines()) == 1, said
    assert FALSE_FRIENDS[name] in said.lower() or name == "folder"


def text_of(node):
    "A string in code, with x for what is filled in."
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(part.value)
        else:
            parts.append("'x'" if part.conversion == ord("r") else "x")
    return "".join(parts)


def list_messages():
    "Every text in the modules that may be an error, a warning or a remedy."
    apart = {"_modidx.py", "flags.py", "cli.py"}
    for path in sorted(root.rglob("*.py")):
        if path.name in apart:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        raised = [n for n in ast.walk(tree) if isinstance(n, ast.Raise | ast.Call)]
        nodes = {id(m): m for n in raised for m in ast.walk(n)}
        for node in list(nodes.values()):
            if isinstance(node, ast.JoinedStr):
                for part in node.values:
                    nodes.pop(id(part), None)
        for node in nodes.values():
            text = text_of(node)
            if text.count(" ") > 2 and not text.lstrip().startswith("<"):
                yield path.name, text


MESSAGES = sorted(set(list_messages()))
# advice for Python: argument=value, .method(, Class(…=…), pd.name, [name, 'name']
ADVICE = re.compile(
    r"(?<![\w/-])(?!title=|control=|treatment=)[a-z_]+=['\"(\[{]|\.[a-z_]+\((?!x\))"
    r"|\b[A-Z][A-Za-z]+\((?:\.\.\.|[a-z_]+=)|\b(?:pd|np|torch)\.[a-z]|from_frame"
)


@pytest.mark.parametrize("command", FLAGS)
def test_no_message_gives_advice_for_python(command):
    found = [
        (name, in_flags(text, command), text)
        for name, text in MESSAGES
        if ADVICE.search(in_flags(text, command))
    ]
    assert not found[:5]
    assert len(MESSAGES) > 300


def test_every_flag_of_a_message_exists():
    parser = make_parser()
    children = parser._subparsers._group_actions[0].choices
    for command, flags in FLAGS.items():
        known = children[command].format_help()
        for flag in flags.values():
            assert re.search(rf"{flag}\b", known), (command, flag)
    assert set(FLAGS) == set(COMMANDS)


# --- what is written -----------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    "The folder of a small model."
    frame = pd.DataFrame({"user_id": [1, 2, 2], "item_id": [2, 3, 4]})
    Popularity().fit(Dataset(frame)).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["l.csv", "l.tsv", "l.CSV.GZ", "l.parquet", "l.jsonl"])
def test_lists_are_written_as_the_suffix_says(model, tmp_path, say, name):
    out = tmp_path / name
    out.write_text("old")
    words = ["recommend", "--model", model, "--user", "1", "--out", out]
    status, _, said = say(*words)
    assert status == 0, said
    truth = ["--recommendations", out, "--truth", out, "-k", "1"]
    assert say("evaluate", *truth)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "model"])


@pytest.mark.parametrize("name", ["no/l.csv", "l.xlsx", "l", "model", "l.csv.zst"])
def test_a_place_that_cannot_be_written_is_told_first(model, tmp_path, say, name):
    out = tmp_path / name
    status, _, said = say("recommend", "--model", model, "--user", "1", "--out", out)
    assert status == 2 and "--out" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_old_file_stays_where_the_new_one_fails(model, tmp_path, say, monkeypatch):
    out = tmp_path / "lists.csv"
    out.write_text("old")

    def fail(frame, path, **options):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    words = ["recommend", "--model", model, "--user", "1", "--out", out]
    status, _, said = say(*words)
    assert status == 2 and "No space left" in said
    assert out.read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_a_run_makes_the_folders_above_its_own(tmp_path, read_run):
    (tmp_path / "x.csv").write_text("user,item\n1,2\n")
    out = tmp_path / "a" / "b" / "out"
    read_run("--data", tmp_path / "x.csv", "--out", out)
    assert out.is_dir()
