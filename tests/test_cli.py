"What no chapter can show of the command line: killed runs and fresh processes."

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import processes
from test_training_processes import start_two

from recsys_nb import pipeline
from recsys_nb.cli import main
from recsys_nb.data import Dataset, simulate
from recsys_nb.folders import interruptible
from recsys_nb.recommenders import EASE
from recsys_nb.run_data import read_data, split_data
from recsys_nb.runs import Run, RunSettings
from recsys_nb.serving import Exported
from recsys_nb.training.criteo_files import criteo_to_parquet

SMALL = (
    "--data simulated --n-users 200 --n-items 80 --n-interactions 3000 --quick --no-ab"
).split()
FEW = ["--baselines", "Popularity"]  # where the others do not matter
FILES = [
    "config.json",
    "drift.json",
    "metrics.json",
    "model",
    "recommendations.parquet",
    "report.html",
    "run.log",
]


def run_command(words, wait_in, out):
    "The command line in a process of its own; it may wait in a stage."

    def wait(run):
        run.say("waiting")
        time.sleep(600)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout = sys.stderr = open(out, "w", buffering=1)  # noqa: SIM115
    if wait_in:
        pipeline.STAGES[wait_in] = wait
    sys.exit(main([str(word) for word in words]))


@pytest.fixture
def start(tmp_path_factory):
    "Start a command; the process, and a function that gives what it said so far."
    started = []

    def run(*words, wait_in=None):
        said = tmp_path_factory.mktemp("said") / "out"
        said.touch()
        process = processes.Process(target=run_command, args=(words, wait_in, said))
        process.start()
        started.append(process)
        return process, said.read_text

    yield run
    for process in started:
        process.kill()


def wait_for(process, read, text):
    "Wait until a process has said `text`."
    for _ in range(1200):
        if text in read():
            return
        if not process.is_alive():
            break
        time.sleep(0.05)
    pytest.fail(f"the process ended without {text!r}: {read()}")


def end(process, number):
    "Send a signal, and wait for the end; the exit status."
    os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "The folder of a small run."
    out = tmp_path_factory.mktemp("runs") / "shop"
    assert main(["run", *SMALL, "--out", str(out)]) == 0
    return out


@pytest.fixture
def numbers_of():
    "metrics.json of a folder."
    return lambda out: json.loads((out / "metrics.json").read_text())


# --- what an ended run leaves --------------------------------------------------------


@pytest.mark.parametrize(
    "number, stage, left",
    [
        (signal.SIGINT, "rank", 0),
        (signal.SIGTERM, "rank", 1),
        (signal.SIGTERM, "split", 0),
    ],
)
def test_an_interrupted_run_leaves_nothing_or_what_it_can_go_on_from(
    tmp_path, start, number, stage, left
):
    process, read = start("run", *SMALL, "--out", tmp_path / "out", wait_in=stage)
    wait_for(process, read, "waiting")
    assert end(process, number) == 130
    assert "interrupted" in read() and "Traceback" not in read()
    assert ("kept in" in read()) == left
    names = [path.name for path in tmp_path.iterdir()]
    assert names == [f"out.partial-{process.pid}"] * left


def test_a_run_ends_soon_in_the_middle_of_training(tmp_path, start):
    words = [*SMALL, "--n-users", 3000, "--n-interactions", 60000, "--epochs", 50]
    process, read = start("run", *words, "--out", tmp_path / "out")
    wait_for(process, read, "training")
    time.sleep(2)
    assert end(process, signal.SIGTERM) == 130 and "Traceback" not in read()
    assert not list(tmp_path.iterdir())


def test_an_interrupt_that_falls_into_a_destructor_comes_again():
    class Dying:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0)

    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), interruptible():
        dying = Dying()
        del dying
        for _ in range(200):
            time.sleep(0.05)  # it comes between two of them
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


def test_a_folder_that_was_being_replaced_comes_back(tmp_path, say):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = tmp_path / f"out.replaced-{gone.pid}"
    old.mkdir()
    (old / "report.html").write_text("old")
    status, _, said = say("run", *SMALL, "--out", tmp_path / "out")
    assert status == 2 and "--overwrite" in said
    assert (tmp_path / "out" / "report.html").read_text() == "old"
    assert not old.exists()


def test_the_folder_is_complete(shop, numbers_of):
    assert sorted(path.name for path in shop.iterdir()) == FILES
    numbers = numbers_of(shop)
    config = json.loads((shop / "config.json").read_text())
    assert config["options"]["seed"] == 42 and "torch" in config["versions"]
    assert re.fullmatch("[0-9a-f]{64}", config["data"]["checksum"])
    users = numbers["metrics"]["Recommender"]["counts"]["users"]
    assert numbers["protocol"]["users_evaluated"] == users
    assert numbers["headline"] in (shop / "run.log").read_text()
    page = (shop / "report.html").read_text()
    assert "NDCG@10" in page and len(page) < 3e6
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_the_same_seed_replaces_a_run_by_the_same_numbers(tmp_path, shop):
    out = tmp_path / "out"
    shutil.copytree(shop, out)
    (out / "old.txt").write_text("old")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f"out.partial-{gone.pid}").mkdir()  # of a killed run
    (tmp_path / "out.partial-notes").mkdir()  # not ours
    assert main(["run", *SMALL, "--out", str(out), "--overwrite"]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["out", "out.partial-notes"]
    assert not (out / "old.txt").exists()
    for name in ("metrics.json",):
        assert (out / name).read_text() == (shop / name).read_text()
    lists = [pd.read_parquet(f / "recommendations.parquet") for f in (out, shop)]
    pd.testing.assert_frame_equal(*lists)


def test_a_folder_in_the_way_stays(tmp_path, shop, say):
    before = (shop / "report.html").read_text()
    status, _, said = say("run", *SMALL, "--out", shop)
    assert status == 2 and "--overwrite" in said
    words = ["run", "--data", tmp_path / "none.csv", "--out", shop, "--overwrite"]
    assert say(*words)[0] == 2  # fails: the old one stays
    assert (shop / "report.html").read_text() == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert say("run", *SMALL, "--out", mine, "--overwrite")[0] == 2
    assert (mine / "thesis.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in shop.parent.iterdir()] == ["shop"]


# --- own columns ---------------------------------------------------------------------

OWN = {"user_id": "kunde", "item_id": "artikel", "timestamp": "wann"}
OWN |= {"event_type": "was"}


def own_log():
    "A log with column names of its own, ids as numbers, and a table of its items."
    data = simulate(200, 80, 4000)
    log = data.interactions.rename(columns=OWN).drop(columns="position")
    items = data.items.rename(columns={"item_id": "artikel"})
    for frame in (log, items):
        for name in {"kunde", "artikel"} & set(frame):
            frame[name] = frame[name].str.extract(r"(\d+)")[0].astype(int)
    return log, items.assign(note=[f"no {n}" for n in range(len(items))])


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    "The folder of a run on columns of one's own."
    folder = tmp_path_factory.mktemp("own")
    log, items = own_log()
    log.to_csv(
        folder / "log.csv", sep=";", index=False, date_format="%d/%m/%Y %H:%M:%S"
    )
    items.to_csv(folder / "items.csv", index=False)
    words = (
        "--user-col kunde --item-col artikel --time-col wann --event-col was --quick"
    )
    words += " --positive click add_cart purchase --roles note=ignore --split last"
    run = ["run", *words.split(), "--time-format", "%d/%m/%Y %H:%M:%S"]
    run += ["--data", str(folder / "log.csv"), "--items", str(folder / "items.csv")]
    assert main([*run, "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_own_columns(own, numbers_of, say):
    lists = pd.read_parquet(own / "recommendations.parquet")
    assert lists.user_id.dtype == np.int64 and lists.item_id.between(0, 79).all()
    numbers = numbers_of(own)
    assert "A/B test" in numbers["skipped"] and numbers["protocol"]["split"] == "last"
    log = (own / "run.log").read_text()
    assert "users kunde, items artikel, times wann, event types was" in log
    assert "note=ignore" in log and "category=category" in log
    if "map" in numbers:
        assert numbers["map"]["label"] == "category"
    user = int(lists.user_id.iloc[0])
    status, said, _ = say("recommend", "--model", own, "--user", user, "--json")
    got = pd.DataFrame(json.loads(said))
    want = lists[lists.user_id == user].item_id.tolist()
    assert status == 0 and got.item_id.tolist() == want


def test_the_model_keeps_the_columns(tmp_path, own, say):
    rows = "kunde;artikel;wann;was\n9999;1;31/01/2024 10:00:00;click\n"
    rows += "9999;2;31/01/2024 10:01:00;click\n9999;3;31/01/2024 11:00:00;view\n"
    (tmp_path / "e.csv").write_text(rows)
    words = ["recommend", "--model", own, "--events", tmp_path / "e.csv"]
    status, _, said = say(*words, "--out", tmp_path / "lists.csv")
    lists = pd.read_csv(tmp_path / "lists.csv")
    assert status == 0, said
    assert set(lists.user_id) == {9999} and set(lists.source) == {"events"}
    assert not lists.item_id.isin([1, 2]).any()


def test_held_out_users(tmp_path, numbers_of):
    out = tmp_path / "out"
    assert main(["run", *SMALL, *FEW, "--split", "user", "--out", str(out)]) == 0
    assert numbers_of(out)["protocol"]["split"] == "user"
    lists = pd.read_parquet(out / "recommendations.parquet")
    assert not lists.duplicated(["user_id", "rank"]).any()


@pytest.mark.parametrize("split", ["time", "last", "user", "random"])
def test_every_split(split):
    size = {"n_users": 200, "n_items": 80, "n_interactions": 3000}
    run = Run(RunSettings(out="o", data="simulated", split=split, **size), None)
    read_data(run)
    split_data(run)
    assert run.numbers["protocol"]["split"] == split and len(run.truth)


def test_files_split_elsewhere(tmp_path, numbers_of):
    log = own_log()[0].sort_values("wann").drop(columns=["was"])
    cuts = {"train": log[:3000], "valid": log[3000:3300], "test": log[3300:]}
    words = "run --user-col kunde --item-col artikel --time-col wann --quick".split()
    for part, rows in cuts.items():
        rows.to_parquet(tmp_path / f"ds.{part}.parquet")
        words += [f"--{part}", str(tmp_path / f"ds.{part}.parquet")]
    assert main([*words, "--no-ranker", "--out", str(tmp_path / "out")]) == 0
    protocol = numbers_of(tmp_path / "out")["protocol"]
    assert (
        protocol["split"] == "given" and "ds.test.parquet" in protocol["split_reason"]
    )
    assert (protocol["train_interactions"], protocol["test_interactions"]) == (
        3300,
        700,
    )


# --- bad data ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, words, says",
    [
        ("who,what\n1,2\n", ["--user-col", "whom", "--item-col", "what"], "'whom'"),
        ("who,what\n1,2\n", [], "--user-col"),
        ("user,item,ts\n1,2,soon\n", [], "soon"),
        ("", [], "empty"),
        ("user,item\n", [], "no interactions"),
        ("user,item\n1,2\n3,4\n", [], "nothing to test on"),
        ("user,item,event\n1,2,view\n", ["--positive", "buy"], "positive"),
    ],
)
@pytest.mark.filterwarnings("error")  # a warning would be another line
def test_bad_data_is_one_line_and_exit_2(tmp_path, say, text, words, says):
    (tmp_path / "bad.csv").write_text(text)
    run = ["run", "--data", tmp_path / "bad.csv", "--out", tmp_path / "out"]
    status, _, said = say(*run, *words)
    assert status == 2 and says in said and "Traceback" not in said
    assert len(said.strip().splitlines()) == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_usage(capsys):
    run = ["run", "--data", "simulated", "--out", "x"]
    for words in [[], ["run"], [*run, "-k", "0"], [*run, "--max-gib", "0"], ["dance"]]:
        with pytest.raises(SystemExit) as error:
            main(words)
        assert error.value.code == 2
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0


def test_help_needs_no_heavy_package():
    code = "import sys; from recsys_nb.cli import make_parser; make_parser()"
    code += "; sys.exit(bool({'torch', 'pandas', 'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- questions to a model ------------------------------------------------------------


def test_recommend_in_another_process_and_in_this_one(shop, say, start):
    want = pd.read_parquet(shop / "recommendations.parquet")
    want = want[want.user_id == "user_3"].head(5)
    words = ["--user", "user_3", "-k", "5", "--json"]
    process, read = start("recommend", "--model", shop, *words)
    process.join(60)
    status, said, _ = say("recommend", "--model", shop / "model", *words)
    assert process.exitcode == 0 and status == 0
    for text in (read(), said):
        got = pd.DataFrame(json.loads(text))
        assert got.item_id.tolist() == want.item_id.tolist()
        assert np.allclose(got.score, want.score, atol=1e-5)


def test_an_unknown_user_is_named(shop, say):
    words = ["--user", "nobody", "--user", "user_3", "-k", "2"]
    status, said, notes = say("recommend", "--model", shop, *words)
    assert status == 0 and "popular" in said and "user_3" in said
    assert "'nobody'" in notes


def test_a_new_user_with_events(tmp_path, shop, say):
    rows = "user_id,item_id,event_type\nnew,item_1,click\nnew,item_2,click\n"
    (tmp_path / "events.csv").write_text(rows)
    words = ["--user", "new", "--events", tmp_path / "events.csv", "--json"]
    status, said, _ = say("recommend", "--model", shop, *words)
    got = pd.DataFrame(json.loads(said))
    assert status == 0 and set(got.source) == {"events"}
    assert not got.item_id.isin(["item_1", "item_2"]).any()


def test_export(tmp_path, shop):
    pytest.importorskip("onnxruntime")
    assert main(["export", "--model", str(shop), "--out", str(tmp_path / "onnx")]) == 0
    assert os.listdir(tmp_path) == ["onnx"]
    people = Exported(tmp_path / "onnx").people
    assert len(people.days) == len(people.taken)  # from the log that the run keeps


def test_an_export_takes_days_from_a_file(tmp_path, say):
    pytest.importorskip("onnxruntime")
    log = simulate(n_users=40, n_items=20, n_interactions=300).positives().interactions
    names = {"user_id": "kunde", "item_id": "ding", "timestamp": "zeit"}
    mine = log[[*names]].rename(columns=names)
    mine.assign(zeit=mine.zeit.dt.strftime("%d.%m.%Y %H:%M:%S")).to_csv(
        tmp_path / "log.csv", index=False, sep=";"
    )
    model = EASE().fit(Dataset(log[[*names]]))
    model.save(tmp_path / "ease")
    columns = ["--user-col", "kunde", "--item-col", "ding", "--time-col", "zeit"]
    words = [*columns, "--time-format", "%d.%m.%Y %H:%M:%S", "--sep", ";"]
    export = ["export", "--model", tmp_path / "ease", "--log", tmp_path / "log.csv"]
    assert say(*export, "--out", tmp_path / "dated", *words)[0] == 0
    people = Exported(tmp_path / "dated").people
    history = people.remember(log.user_id[0], np.array([], np.int32))
    own = log[log.user_id == log.user_id[0]].sort_values("timestamp", kind="stable")
    days = own.timestamp.dt.strftime("%Y-%m-%d").tolist()
    assert [history.date(number) for number in range(len(days))] == days
    mine[1:].to_csv(tmp_path / "log.csv", index=False, sep=";")
    columns += ["--sep", ";"]
    status, _, notes = say(*export, "--out", tmp_path / "other", *columns)
    assert status == 2 and "other histories" in notes
    assert "Traceback" not in notes and not (tmp_path / "other").exists()


# --- Criteo and several processes ----------------------------------------------------


def criteo_lines(n, seed):
    "Lines in Criteo's format whose first number says how likely a click is."
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 100, (n, 13))
    codes = rng.integers(0, 5, (n, 26))
    logit = np.log1p(numbers[:, 0]) * (codes[:, 0] == 0) * 2 - 2
    clicked = rng.random(n) < 1 / (1 + np.exp(-logit))
    lines = []
    for label, row, code in zip(clicked, numbers, codes, strict=True):
        fields = [str(int(label)), *map(str, row), *(f"{c:08x}" for c in code)]
        lines.append("\t".join(fields) + "\n")
    return "".join(lines)


@pytest.mark.parametrize("days, judged", [(2, 600), (1, 400)])
def test_criteo_trains_and_judges(tmp_path, say, days, judged):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    for day in range(days):
        rows = 600 if day else 2_000
        (raw / f"day_{day}").write_text(criteo_lines(rows, day))
    criteo_to_parquet(raw, out / "parquet", group_rows=400)
    words = "--min-count 1 --dim 4 --epochs 4 --batch-size 64".split()
    status, said, _ = say("criteo", "--data", raw, "--out", out, *words)
    found = json.loads((out / "metrics.json").read_text())
    assert status == 0 and f"AUC {found['auc']:.4f}" in said
    assert f"on {judged} rows of the test (the last file, or the last fifth" in said
    assert found["rows"] == judged and found["auc"] > 0.6
    names = {path.name for path in out.iterdir()}
    assert names >= {"model.safetensors", "model.json", "metrics.json", "encoder.json"}


def run_in_two(folder, rank):
    "The run of the next test, as one of two processes; what it says is kept."
    for name in ("stdout", "stderr"):
        file = folder.parent / f"{name} {rank}"
        setattr(sys, name, open(file, "w", buffering=1))  # noqa: SIM115
    words = [*SMALL, *FEW, "--epochs", "2", "--out", str(folder / "out")]
    sys.exit(main(["run", *words]))


def test_two_processes_are_one_run(tmp_path, numbers_of):
    "As torchrun starts them: with their number in the environment."
    folder = tmp_path / "runs"
    folder.mkdir()
    out = folder / "out"
    both = [tmp_path / f"stdout {rank}" for rank in range(2)]
    assert start_two(run_in_two, folder) == [0, 0]
    said = "".join(file.read_text() for file in both)
    assert said.count("report: ") == 1 and said.count("the gate, ") == 1
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert numbers_of(out)["metrics"]["Recommender"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    # the folder is there: only the first finds that out
    assert all(start_two(run_in_two, folder))
    said = (tmp_path / "stderr 0").read_text()
    assert re.search(r"recsys-nb: \S+ exists; choose another --out", said)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_a_run_with_roles_rules_and_actions(tmp_path, own, numbers_of, say):
    words = "--user-col kunde --item-col artikel --time-col wann --event-col was "
    words += "--positive click add_cart purchase --actions click,add_cart,purchase "
    words += "--roles note=ignore --split last --quick --where price<60"
    place = own.parent
    run = ["run", *words.split(), "--time-format", "%d/%m/%Y %H:%M:%S"]
    run += ["--where", "category=Books,Home", "--out", tmp_path / "out"]
    run += ["--data", place / "log.csv", "--items", place / "items.csv"]
    status, said, _ = say(*run)
    assert status == 0 and "all lists have rules: " in said
    numbers = numbers_of(tmp_path / "out")
    assert numbers["protocol"]["where"] == ["price<60", "category=Books,Home"]
    assert set(numbers["actions"]) <= {"click", "add_cart", "purchase"}
    items = pd.read_csv(place / "items.csv").set_index("artikel")
    allowed = items[(items.price < 60) & items.category.isin(["Books", "Home"])].index
    lists = pd.read_parquet(tmp_path / "out" / "recommendations.parquet")
    assert len(lists) and lists.item_id.isin(allowed).all()
    coverage = numbers["metrics"]["Popularity"]["metrics"]["coverage@10"]["value"]
    assert 0 < coverage <= 1
    pairs = numbers["protocol"]["pairs_evaluated"]
    assert 0 < pairs < numbers_of(own)["protocol"]["pairs_evaluated"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "keep the rules price&lt;60 and category=Books,Home" in page
    # the rules are of the lists, the model knows all items
    user = int(lists.user_id.iloc[0])
    model = tmp_path / "out"
    ask = ["recommend", "--model", model, "--user", user, "--json", "-k", 80]
    status, said, _ = say(*ask, "--value", "click=1,purchase=price")
    assert status == 0
    assert not pd.DataFrame(json.loads(said)).item_id.isin(allowed).all()
    for rule, error in (("prize<3", "prize"), ("price>=60", "empty")):
        status, _, wrong = say(*run, "--where", rule, "--overwrite")
        assert status == 2 and error in wrong
