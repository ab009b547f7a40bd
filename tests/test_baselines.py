"Searches that are killed, saved in the wrong place, or of a model that a later chapter defines."
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="the extra [tune] is not installed")

from recsys_nb.baselines import EASE, Range, TuneError, tune
from recsys_nb.recommend import TwoTowerRetriever
from recsys_nb.simulate import simulate

SEARCH = """
import sys, time
from recsys_nb.baselines import EASE, tune
from recsys_nb.simulate import simulate

def slow(l2=100.):
    print("trial", flush=True)
    time.sleep(float(sys.argv[2]))
    return EASE(l2)

tune(slow, simulate(300, 100, 6000, seed=0).positives(), EASE.space, trials=int(sys.argv[3]), file=sys.argv[1], progress=False)
"""


@pytest.fixture(scope="module")
def train(): return simulate(300, 100, 6000, seed=0).positives()


def saved(file, trials):
    "The trials of a search that was saved by SEARCH; the model is not asked for what is there."
    def slow(l2=100.): return EASE(l2)
    log = simulate(300, 100, 6000, seed=0).positives()
    return tune(slow, log, EASE.space, trials=trials, file=file, progress=False).to_frame().drop(columns="seconds")


def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path):
    file = tmp_path/"made"/"on the way.db"
    with subprocess.Popen([sys.executable, "-c", SEARCH, str(file), "0.5", "50"], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}) as p:
        for _ in range(3): assert p.stdout.readline() == "trial\n"
        time.sleep(.1) # in the third trial
        p.send_signal(signal.SIGKILL)
    went_on, whole = saved(file, 8), saved(None, 8)
    assert went_on.equals(whole) and len(whole) == 8


def test_a_trial_that_is_interrupted_does_not_count(train, tmp_path):
    "Neither the defaults of the first trial nor the budget is lost when a trial stops with an error that is no result."
    calls = []
    def breaks(l2=100.):
        calls.append(l2)
        if len(calls) == 1: raise KeyboardInterrupt
        return EASE(l2)
    ask = dict(space=EASE.space, trials=4, file=tmp_path/"a.db", progress=False)
    with pytest.raises(KeyboardInterrupt): tune(breaks, train, **ask)
    assert tune(breaks, train, **ask).to_frame().l2.tolist() == tune(EASE, train, trials=4, progress=False).to_frame().l2.tolist()


def test_a_file_that_is_no_search_stays_as_it_was(train, tmp_path):
    file = tmp_path/"notes.txt"
    file.write_text("milk, bread, " * 100, encoding="utf-8")
    with pytest.raises(TuneError, match="is no saved search"): tune(EASE, train, trials=2, file=file, progress=False)
    assert file.read_text(encoding="utf-8") == "milk, bread, " * 100


def test_the_two_tower_retriever_is_searched_like_a_baseline(train):
    space = {"dim": Range(8, 32, log=True), "temperature": Range(.1, 1., log=True), "hidden_dims": [(), (16,)]}
    found = tune(partial(TwoTowerRetriever, epochs=1), train, space, trials=3, progress=False)
    assert found.name == "TwoTowerRetriever(epochs=1)" and found.score == found.to_frame().score.max() > 0
    assert found.model.settings["temperature"] == found.best["temperature"] and found.model.settings["epochs"] == 1
    assert set(found.to_frame().hidden_dims) <= {(), (16,)}
