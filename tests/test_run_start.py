"`recsys-nb run --start`: a run goes on from another one, and says what has changed."

import json

import pandas as pd
import pytest

from recsys_nb.cli import main
from recsys_nb.recommenders import Recommender

SHOP = "--n-users 300 --n-items 80 --n-interactions 6000 --seed 1".split()
QUICK = "--quick --no-ranker --no-ab --baselines Popularity".split()


def run(out, *words):
    "A run on a small simulated shop; its numbers."
    words = ["--data", "simulated", *SHOP, *QUICK, *words]
    assert main(["run", "--out", str(out), *words]) == 0
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    numbers = [run(home / "first")]
    numbers.append(run(home / "second", "--start", str(home / "first")))
    return home, *numbers


def test_the_second_run_learns_what_the_first_has_not(runs):
    home, first, second = runs
    models = [Recommender.load(home / name / "model") for name in ("first", "second")]
    n_first, n_second = (len(model.log_) for model in models)
    assert n_first == first["protocol"]["train_interactions"]
    assert n_second == second["protocol"]["train_interactions"]
    n_all = n_second + second["protocol"]["test_interactions"]
    assert n_all == 6000 and n_first < n_second
    last = models[0].log_.interactions.timestamp.max()
    newer = models[1].log_.interactions.iloc[n_first:]
    assert (newer.timestamp > last).all()
    lists = pd.read_parquet(home / "second" / "recommendations.parquet")
    assert lists.user_id.nunique() == 300


def test_it_says_what_has_changed_since(runs):
    home, first, second = runs
    assert first["drift"]["start"] is None
    drift = json.loads((home / "second" / "drift.json").read_text())
    start = drift["start"]
    assert start["folder"] == str(home / "first")
    names = {row["column"] for row in start["columns"]}
    assert {"items: category", "log: event_type"} <= names
    assert set(start["shares"]) == set(drift["shares"])
    own = first["metrics"]["Recommender"]["metrics"]["coverage@10"]["value"]
    assert start["metrics"]["coverage@10"] == own
    gain = start["gain"]
    before, after = (second["metrics"][n]["metrics"] for n in ("Before", "Recommender"))
    assert gain["a"] == pytest.approx(before["ndcg@10"]["value"])
    assert gain["b"] == pytest.approx(after["ndcg@10"]["value"])
    assert gain["low"] <= gain["difference"] <= gain["high"]
    assert second["best_baseline"] != "Before"
    page = (home / "second" / "report.html").read_text()
    assert "Since the run that this one goes on from" in page
    assert f"{gain['difference']:+.4f}" in page
    other = (home / "first" / "report.html").read_text()
    assert "Since the run" not in other


def test_what_cannot_go_on_is_refused(runs, tmp_path, capsys):
    home = runs[0]
    words = ["--data", "simulated", *SHOP, *QUICK]
    out = str(tmp_path / "out")
    start = ["--start", str(home / "none")]
    assert main(["run", "--out", out, *words, *start]) != 0
    log = Recommender.load(home / "first" / "model").log_.interactions
    log.to_csv(tmp_path / "old.csv", index=False)
    words = ["--data", str(tmp_path / "old.csv"), "--positive", "click"]
    start = ["--start", str(home / "first")]
    capsys.readouterr()
    assert main(["run", "--out", out, *words, *start]) != 0
    assert "newer events" in capsys.readouterr().err
