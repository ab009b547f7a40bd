"What no chapter can show of the command line: killed and interrupted runs, other people's files, fresh processes."
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from recsys_nb.cli import _interruptible, main
from recsys_nb.criteo import criteo_to_parquet
from recsys_nb.simulate import simulate

SMALL = ["--data", "simulated", "--n-users", "300", "--n-items", "120", "--n-interactions", "5000", "--quick", "--no-ab"]


START = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from recsys_nb.cli import main; sys.exit(main())"


def command(*words):
    "A process of its own, as the shell starts `recsys-nb`."
    return subprocess.Popen([sys.executable, "-c", START, *map(str, words)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(process, text):
    "Read lines until one has `text`."
    for line in process.stdout:
        if text in line: return
    pytest.fail(f"the process ended without {text!r}: {process.stderr.read()}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    "The folder of a small run."
    out = tmp_path_factory.mktemp("runs") / "shop"
    assert main(["run", *SMALL, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("sign, left", [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_interrupted_run_leaves_nothing_and_a_terminated_one_what_it_can_go_on_from(tmp_path, sign, left):
    p = command("run", *SMALL, "--n-users", 3000, "--n-interactions", 60000, "--epochs", 50, "--out", tmp_path / "out")
    wait_for(p, "training")
    for _ in range(2400): # until there is something to go on from
        if list(tmp_path.glob("out.partial-*/kept/*/recommender/gate.json")): break
        time.sleep(.1)
    p.send_signal(sign)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and "interrupted" in err and "Traceback" not in err and ("kept in" in err) == left
    assert [f.name for f in tmp_path.iterdir()] == [f"out.partial-{p.pid}"] * left


def test_an_interrupt_that_falls_into_a_destructor_comes_again():
    class Dying:
        def __del__(self): signal.raise_signal(signal.SIGTERM); time.sleep(0)

    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), _interruptible():
        d = Dying(); del d
        for _ in range(200): time.sleep(.05) # it comes between two of them
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


def test_killed_run_leaves_no_folder_and_the_next_tidies_up(tmp_path):
    p = command("run", *SMALL, "--n-users", 3000, "--n-interactions", 60000, "--epochs", 50, "--out", tmp_path / "out")
    wait_for(p, "training"); p.kill(); p.communicate()
    assert [f.name for f in tmp_path.iterdir()] == [f"out.partial-{p.pid}"]
    (tmp_path / "out.partial-notes").mkdir() # not ours
    assert main(["run", *SMALL, "--out", str(tmp_path / "out")]) == 0
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "out.partial-notes"]


def test_killed_while_replacing_brings_the_old_run_back(tmp_path, shop):
    p = subprocess.Popen([sys.executable, "-c", ""]); p.wait() # a process that is gone
    old = tmp_path / f"out.replaced-{p.pid}"; old.mkdir(); (old / "report.html").write_text("old")
    assert main(["run", *SMALL, "--out", str(tmp_path / "out")]) == 2 # it exists again
    assert (tmp_path / "out" / "report.html").read_text() == "old" and not old.exists()


def test_the_folder_is_complete(shop):
    assert sorted(p.name for p in shop.iterdir()) == ["config.json", "metrics.json", "model", "recommendations.parquet", "report.html", "run.log"]
    numbers, config = json.loads((shop / "metrics.json").read_text()), json.loads((shop / "config.json").read_text())
    assert config["options"]["seed"] == 42 and re.fullmatch("[0-9a-f]{64}", config["data"]["checksum"]) and "torch" in config["versions"]
    assert numbers["protocol"]["users_evaluated"] == numbers["metrics"]["Recommender"]["counts"]["users"]
    assert numbers["headline"] in (shop / "run.log").read_text()
    html = (shop / "report.html").read_text()
    assert "NDCG@10" in html and len(html) < 3e6 and not re.search(r'(?:src|href)="(?!data:)', html)


def test_same_seed_same_numbers(tmp_path, shop):
    assert main(["run", *SMALL, "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "metrics.json").read_text() == (shop / "metrics.json").read_text()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again" / "recommendations.parquet"), pd.read_parquet(shop / "recommendations.parquet"))


def test_overwrite_protection(tmp_path, shop, capsys):
    before = (shop / "report.html").read_text()
    assert main(["run", *SMALL, "--out", str(shop)]) == 2 and "--overwrite" in capsys.readouterr().err
    assert main(["run", "--data", str(tmp_path / "none.csv"), "--out", str(shop), "--overwrite"]) == 2 # fails: the old one stays
    assert (shop / "report.html").read_text() == before
    (tmp_path / "mine").mkdir(); (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main(["run", *SMALL, "--out", str(tmp_path / "mine"), "--overwrite"]) == 2 and (tmp_path / "mine" / "thesis.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"] and [p.name for p in shop.parent.iterdir()] == ["shop"]


def test_overwrite_replaces(tmp_path):
    out = tmp_path / "out"
    for seed in "1", "2": assert main(["run", *SMALL, "--seed", seed, "--out", str(out), "--overwrite"]) == 0
    assert json.loads((out / "config.json").read_text())["seed"] == 2 and [p.name for p in tmp_path.iterdir()] == ["out"]


def own_log(numbers=False):
    log = simulate(200, 80, 4000).interactions.rename(columns={"user_id": "customer", "item_id": "article", "timestamp": "when", "event_type": "what"}).drop(columns="position")
    if numbers:
        for c in "customer", "article": log[c] = log[c].str.extract(r"(\d+)")[0].astype(int)
    return log


def test_own_csv_with_own_names(tmp_path, capsys):
    own_log(numbers=True).to_csv(tmp_path / "mine.csv", sep=";", index=False, date_format="%d/%m/%Y %H:%M:%S")
    names = ["--user-col", "customer", "--item-col", "article", "--time-col", "when", "--event-col", "what", "--sep", ";", "--positive", "click", "add_cart", "purchase"]
    run = ["run", "--data", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out"), "--quick", *names]
    assert main([*run, "--time-format", "%d/%m/%Y"]) == 2 and "in row 0" in capsys.readouterr().err
    assert main([*run, "--time-format", "%d/%m/%Y %H:%M:%S"]) == 0
    lists = pd.read_parquet(tmp_path / "out" / "recommendations.parquet")
    assert lists.user_id.dtype == np.int64 and lists.item_id.between(0, 79).all()
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "A/B test" in numbers["skipped"] and "Embedding map" in numbers["skipped"] and ("Ranker metrics" in numbers["skipped"] or "Ranker" in numbers["ranker"])
    capsys.readouterr(); user = int(lists.user_id.iloc[0])
    assert main(["recommend", "--model", str(tmp_path / "out"), "--user", str(user), "--json"]) == 0 # the id is text here, a number there
    got = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert got.item_id.tolist() == lists[lists.user_id == user].item_id.tolist()


def test_own_parquet_with_tables(tmp_path):
    world = simulate(200, 80, 4000)
    own_log().to_parquet(tmp_path / "mine.parquet"); world.items.to_csv(tmp_path / "items.csv", index=False)
    words = ["--user-col", "customer", "--item-col", "article", "--time-col", "when", "--event-col", "what", "--items", str(tmp_path / "items.csv"), "--positive", "click", "--split", "last"]
    assert main(["run", "--data", str(tmp_path / "mine.parquet"), "--out", str(tmp_path / "out"), "--quick", *words]) == 0
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["protocol"]["split"] == "last"
    if "map" in numbers: assert numbers["map"]["label"] == "category"
    else: assert "without vectors" in numbers["skipped"]["Embedding map"] # the gate chose an answer without a Two-Tower


@pytest.mark.parametrize("split", ["time", "last", "user", "random"])
def test_every_split(tmp_path, split):
    assert main(["run", *SMALL, "--split", split, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"]["split"] == split


@pytest.mark.parametrize("text, words, says", [
    ("who,what\n1,2\n", ["--user-col", "whom", "--item-col", "what"], "'whom'"),
    ("who,what\n1,2\n", [], "user"),
    ("user,item,ts\n1,2,soon\n", [], "soon"),
    ("", [], "empty"),
    ("user,item\n", [], "no interactions"),
    ("user,item\n1,2\n3,4\n", [], "nothing to test on"),
    ("user,item,event\n1,2,view\n", ["--positive", "buy"], "positive"),
])
@pytest.mark.filterwarnings("error") # a warning would be another line
def test_bad_data_is_one_line_and_exit_2(tmp_path, capfd, text, words, says):
    (tmp_path / "bad.csv").write_text(text)
    assert main(["run", "--data", str(tmp_path / "bad.csv"), "--out", str(tmp_path / "out"), *words]) == 2
    err = capfd.readouterr().err
    assert says in err and "Traceback" not in err and len(err.strip().splitlines()) == 1, err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["bad.csv"]


def test_bad_data_in_a_fresh_process(tmp_path):
    (tmp_path / "bad.csv").write_text("user,item\n")
    p = command("run", "--data", tmp_path / "bad.csv", "--out", tmp_path / "out"); _, err = p.communicate(timeout=60)
    assert p.returncode == 2 and len(err.strip().splitlines()) == 1, err


def test_recommend_in_a_fresh_process_and_in_this_one(shop, capsys):
    want = pd.read_parquet(shop / "recommendations.parquet"); want = want[want.user_id == "user_3"].head(5)
    words = ["--user", "user_3", "-k", "5", "--json"]
    p = command("recommend", "--model", shop, *words); out, _ = p.communicate(timeout=60)
    assert p.returncode == 0 and main(["recommend", "--model", str(shop / "model"), *words]) == 0
    for told in out, capsys.readouterr().out:
        got = pd.DataFrame(json.loads(told))
        assert got.item_id.tolist() == want.item_id.tolist() and np.allclose(got.score, want.score, atol=1e-5)
    assert main(["recommend", "--model", str(shop), "--user", "nobody", "--user", "user_3", "-k", "2"]) == 0
    out, err = capsys.readouterr()
    assert "popular" in out and "'nobody'" in err and "user_3" in out


def test_recommend_for_a_new_user_with_events(tmp_path, shop, capsys):
    (tmp_path / "events.csv").write_text("user_id,item_id\nnewcomer,item_1\nnewcomer,item_2\n")
    assert main(["recommend", "--model", str(shop), "--user", "newcomer", "--events", str(tmp_path / "events.csv"), "--json"]) == 0
    got = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert set(got.source) == {"events"} and not got.item_id.isin(["item_1", "item_2"]).any()


def test_evaluate_and_abtest(tmp_path, capsys):
    pd.DataFrame({"user_id": [1, 1, 2], "item_id": [5, 6, 5]}).to_csv(tmp_path / "lists.csv", index=False)
    pd.DataFrame({"user_id": [1, 2], "item_id": [6, 9]}).to_parquet(tmp_path / "truth.parquet")
    assert main(["evaluate", "--recommendations", str(tmp_path / "lists.csv"), "--truth", str(tmp_path / "truth.parquet"), "-k", "2"]) == 0
    assert re.search(r"hit rate\s+0\.500", capsys.readouterr().out)
    rng = np.random.default_rng(0); n = 400
    frame = pd.DataFrame({"member": range(n), "arm": np.where(np.arange(n) % 2, "new", "old"), "impressions": 10, "clicks": rng.binomial(10, .2 + .1 * (np.arange(n) % 2))})
    frame.to_csv(tmp_path / "ab.csv", index=False)
    words = ["abtest", str(tmp_path / "ab.csv"), "--variant", "arm", "--user", "member", "--metric", "clicks/impressions"]
    assert main([*words, "--control", "old"]) == 0 and "yes" in capsys.readouterr().out
    assert main(words) == 2 and "control" in capsys.readouterr().err
    assert main(["abtest", str(tmp_path / "none.csv"), "--metric", "x"]) == 2 and "none.csv" in capsys.readouterr().err


def test_usage(capsys):
    for words in [[], ["run"], ["run", "--data", "simulated", "--out", "x", "-k", "0"], ["dance"]]:
        with pytest.raises(SystemExit) as e: main(words)
        assert e.value.code == 2
    with pytest.raises(SystemExit) as e: main(["--help"])
    text = capsys.readouterr().out
    assert e.value.code == 0 and all(c in text for c in ("run", "recommend", "evaluate", "abtest", "serve", "export"))


def test_export(tmp_path, shop):
    pytest.importorskip("onnxruntime")
    assert main(["export", "--model", str(shop), "--out", str(tmp_path / "onnx")]) == 0
    assert any(f.suffix == ".onnx" for f in (tmp_path / "onnx").rglob("*")) and os.listdir(tmp_path) == ["onnx"]


def criteo_lines(n, seed):
    "Lines in Criteo's format whose first number says how likely a click is."
    rng = np.random.default_rng(seed); x = rng.integers(0, 100, (n, 13)); c = rng.integers(0, 5, (n, 26))
    y = rng.random(n) < 1 / (1 + np.exp(2 - np.log1p(x[:, 0]) * (c[:, 0] == 0) * 2))
    return "".join("\t".join([str(int(y[i])), *map(str, x[i]), *(f"{v:08x}" for v in c[i])]) + "\n" for i in range(n))


@pytest.mark.parametrize("days, judged", [(2, 600), (1, 400)])
def test_criteo_trains_and_judges(tmp_path, capsys, days, judged):
    raw, out = tmp_path / "raw", tmp_path / "out"; raw.mkdir()
    for d in range(days): (raw / f"day_{d}").write_text(criteo_lines(2_000 if d == 0 else 600, d))
    criteo_to_parquet(raw, out / "parquet", group_rows=400) # else so small a file is one row group, which cannot be cut
    words = ["criteo", "--data", raw, "--out", out, "--min-count", "1", "--dim", "4", "--epochs", "4", "--batch-size", "64"]
    assert main([*map(str, words)]) == 0
    said = capsys.readouterr().out; found = json.loads((out / "metrics.json").read_text())
    assert f"AUC {found['auc']:.4f}" in said and f"on {judged} rows of the test (the last file, or the last fifth of a single one)" in said and found["rows"] == judged and found["auc"] > .6
    assert {p.name for p in out.iterdir()} >= {"model.safetensors", "model.json", "metrics.json", "encoder.json"}


def test_two_processes_of_torchrun(tmp_path):
    words = "run --data simulated --n-users 300 --n-items 120 --n-interactions 5000 --quick --no-ab --epochs 2 --out".split()
    def start(*more): return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "recsys_nb.cli", *words, tmp_path/"out", *more], capture_output=True, text=True, timeout=300)
    r = start()
    assert r.returncode == 0, r.stderr
    assert r.stdout.count("report: ") == 1 and r.stdout.count("the gate, ") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and json.loads((tmp_path/"out"/"metrics.json").read_text())["metrics"]["Recommender"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path/"out").rglob("*")}
    r = start() # the folder is there: only the first process finds that out
    assert r.returncode != 0 and re.search(r"recsys-nb: \S+ exists; choose another --out", r.stderr)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path/"out").rglob("*")} and [p.name for p in tmp_path.iterdir()] == ["out"]
