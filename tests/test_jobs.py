"Long jobs: whatever ends a process, the same command goes on to the same weights."

import errno
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import processes
from test_training import EPOCHS, STEPS, assert_equal, list_events, run

import recsys_nb.cli
import recsys_nb.recommenders.storage
import recsys_nb.training.checkpoints
import recsys_nb.training.loop
from recsys_nb.pipeline import STAGES
from recsys_nb.training import CheckpointError


@pytest.fixture(scope="module")
def whole():
    return run()


def assert_goes_on(folder, whole):
    "The run in a folder ends as the quiet one, and leaves two checkpoints alone."
    weights, epochs = run(folder)
    assert epochs == whole[1]
    assert_equal(weights, whole[0])
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"epoch-{e:05d}.safetensors" for e in (EPOCHS - 1, EPOCHS)]


def start(function, *args):
    process = processes.Process(target=function, args=args)
    process.start()
    return process


def wait_for(process):
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


# Killed

WRITES = [
    (os, "fsync"),
    (os, "replace"),
    (Path, "unlink"),
    (shutil, "rmtree"),
]


def watch_writes(event, patch):
    "Call `event` around each thing that a write does, and in the middle of the file."
    owner = recsys_nb.training.checkpoints
    real = owner.save_file

    def save_in_halves(tensors, path, header):
        event("before save_file")
        real(tensors, path, header)
        content = Path(path).read_bytes()
        os.truncate(path, len(content) // 2)
        event("half of the file")
        Path(path).write_bytes(content)
        event("after save_file")

    patch(owner, "save_file", save_in_halves)
    list_events(WRITES, event, patch)


def kill_at(folder, moment):
    "The run, in a process that kills itself at an event of this number."
    seen = []

    def event(name):
        seen.append(name)
        if len(seen) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    watch_writes(event, setattr)
    run(folder, lambda: event("step"))


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    "The names of all events of the run, in order."
    seen, folder = [], tmp_path_factory.mktemp("events")
    with pytest.MonkeyPatch.context() as patch:
        watch_writes(seen.append, patch.setattr)
        run(folder, lambda: seen.append("step"))
    return seen


def test_killed_at_every_moment_of_a_write(tmp_path, events, whole):
    first = [i for i, name in enumerate(events) if name == "before save_file"][2]
    last = first + events[first:].index("step")
    expected = {"half of the file", "before fsync", "after replace", "before unlink"}
    assert expected <= set(events[first:last])
    for i in range(first, last):
        folder = tmp_path / str(i)
        process = start(kill_at, folder, i + 1)
        assert wait_for(process) == -signal.SIGKILL, events[i]
        assert_goes_on(folder, whole)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again(tmp_path, events, whole, seed):
    "At seeded events, until a process comes through."
    draw, kills, latest = random.Random(seed), 0, len(events) // 2
    while code := wait_for(start(kill_at, tmp_path, draw.randint(1, latest))):
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 2
    assert_goes_on(tmp_path, whole)


def run_slowly(folder, begun):
    def on_step():
        begun.set()
        time.sleep(0.01)

    run(folder, on_step)


def test_killed_from_outside(tmp_path, whole):
    "After seeded times, wherever the process is then."
    draw, kills = random.Random(2), 0
    while True:
        begun = processes.Event()
        process = start(run_slowly, tmp_path, begun)
        while process.is_alive() and not begun.wait(0.05):
            pass  # it may have nothing left to do
        process.join(draw.uniform(0, 0.2 + 0.1 * kills))
        process.kill()
        if wait_for(process) == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 2  # the steps alone take longer than the first two draws may
    assert_goes_on(tmp_path, whole)


# Limits of the system


def ask_for_too_much(folder, moment):
    "The run, in a process that may have no more memory and asks for it."
    count = 0

    def on_step():
        nonlocal count
        count += 1
        if count < moment:
            return
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**26
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        torch.ones(2**28)

    run(folder, on_step)


HAS_STATM = Path("/proc/self/statm").exists()


@pytest.mark.skipif(not HAS_STATM, reason="/proc says how much memory there is")
def test_no_memory_in_a_step(tmp_path, whole):
    process = start(ask_for_too_much, tmp_path, 2 * (STEPS + 1) + 7)
    assert wait_for(process) == 1
    assert (tmp_path / "epoch-00002.safetensors").exists()
    assert_goes_on(tmp_path, whole)


def run_with_small_files(folder, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with pytest.raises(CheckpointError, match="File too large"):
        run(folder)


def test_file_too_large(tmp_path, whole):
    run(tmp_path, epochs=1)
    size = next(tmp_path.iterdir()).stat().st_size
    assert wait_for(start(run_with_small_files, tmp_path, size // 2)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.safetensors"]
    assert_goes_on(tmp_path, whole)


# The whole command

SMALL = (
    "run --data simulated --n-users 200 --n-items 80 --n-interactions 3000 "
    "--quick --no-ab --baselines Popularity"
).split()
# what ends the command, and when it comes so often
KILLS = [("epoch", 3), ("rank", 1), ("save", 1), ("rename", 2)]


def watch_command(event, patch):
    "Call `event` with the names of stages, epochs and renamings before they begin."
    watched = {
        "epoch": (recsys_nb.training.loop, "open_epoch"),
        "rename": (Path, "rename"),
    }
    for called, (owner, name) in watched.items():
        patch(owner, name, announce(event, called, getattr(owner, name)))
    for name in ("rank", "save"):
        STAGES[name] = announce(event, name, STAGES[name])


def announce(event, called, real):
    "The function, which calls `event` with a name before it begins."

    def announced(*args, **options):
        event(called)
        return real(*args, **options)

    return announced


def command(words, kill, times, epochs):
    "The command line, killed by itself; `epochs` counts those of all processes."
    seen = []

    def event(name):
        seen.append(name)
        if name == kill and seen.count(name) == times:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "epoch":
            with epochs.get_lock():
                epochs.value += 1

    watch_command(event, setattr)
    sys.exit(recsys_nb.cli.main(words))


def content(out):
    "What a run has made, but for its log."
    lists = pd.read_parquet(out / "recommendations.parquet").to_csv()
    model = {path.name: path.read_bytes() for path in (out / "model").iterdir()}
    return (out / "metrics.json").read_text(), lists, model


def test_command_killed_at_every_stage(tmp_path):
    assert recsys_nb.cli.main([*SMALL, "--out", str(tmp_path / "whole")]) == 0
    epochs, folder = processes.Value("i", 0), tmp_path / "killed"
    folder.mkdir()
    words = [*SMALL, "--out", str(folder / "out")]
    trained = {}
    for kill, times in KILLS:
        process = start(command, words, kill, times, epochs)
        assert wait_for(process) == -signal.SIGKILL, kill
        assert [path.name[:12] for path in folder.iterdir()] == ["out.partial-"]
        trained[kill] = epochs.value
    assert trained["epoch"] < trained["rank"]
    assert trained["rank"] == trained["save"]  # what was trained is kept
    assert wait_for(start(command, words, None, 0, epochs)) == 0
    assert content(folder / "out") == content(tmp_path / "whole")
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert not (folder / "out" / "kept").exists()


def test_command_with_a_full_disk(tmp_path, monkeypatch, capsys):
    "One line that says so, and the same command works when there is room."

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    words = [*SMALL, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(recsys_nb.recommenders.storage, "save_file", fail)
        assert recsys_nb.cli.main(words) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert recsys_nb.cli.main(words) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_command_with_other_options_does_not_go_on(tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = [*SMALL, "--no-ranker", "--out", str(out)]

    def fail(run):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setitem(STAGES, "save", fail)
        with pytest.raises(MemoryError):
            recsys_nb.cli.main(words)
    unfinished = next(tmp_path.iterdir())
    assert len(list((unfinished / "kept").iterdir())) == 1
    assert recsys_nb.cli.main([*words, "--seed", "7"]) == 0
    assert "kept" not in (out / "run.log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
