"Long jobs: whatever ends a process, and whatever the disk does to a checkpoint, the same command goes on to the same weights."
import errno
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_training import EPOCHS, run

import recsys_nb.cli
import recsys_nb.recommenders.storage
import recsys_nb.training.checkpoints
import recsys_nb.training.loop
from recsys_nb.training import CheckpointError

processes = multiprocessing.get_context("forkserver") # fresh processes that don't have to import everything
processes.set_forkserver_preload(["pytest", "torch._dynamo", "recsys_nb.cli"])


@pytest.fixture(scope="module")
def whole(): return run(None)


def goes_on(folder, whole):
    "The run in `folder` ends as the uninterrupted one, and leaves two checkpoints and nothing else."
    weights, epochs = run(folder)
    assert epochs == whole[1] and all(torch.equal(weights[name], w) for name, w in whole[0].items())
    assert sorted(p.name for p in folder.iterdir()) == [f"epoch-{e:05d}.safetensors" for e in (EPOCHS - 1, EPOCHS)]


# Killed

def watched(event, patch):
    "Call `event` with a name before and after each thing that the writing of a checkpoint does, and in the middle of the file."
    def around(owner, name):
        real = getattr(owner, name)
        def f(*args, **kwargs):
            event(f"before {name}")
            out = real(*args, **kwargs)
            if name == "save_file":
                content = Path(args[1]).read_bytes(); os.truncate(args[1], len(content) // 2); event("half of the file"); Path(args[1]).write_bytes(content)
            event(f"after {name}")
            return out
        patch(owner, name, f)
    for owner, name in [(recsys_nb.training.checkpoints, "save_file"), (os, "fsync"), (os, "replace"), (Path, "unlink"), (shutil, "rmtree")]: around(owner, name)


def killed_at(folder, at):
    "In a process of its own: the run, killed by itself at its event number `at`."
    count = 0
    def event(name):
        nonlocal count
        count += 1
        if count == at: os.kill(os.getpid(), signal.SIGKILL)
    watched(event, setattr)
    run(folder, lambda: event("step"))


def start(f, *args):
    p = processes.Process(target=f, args=args); p.start()
    return p


def ended(p):
    p.join(60)
    assert p.exitcode is not None
    return p.exitcode


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    "The names of all events of the run, in order."
    seen, folder = [], tmp_path_factory.mktemp("events")
    with pytest.MonkeyPatch.context() as m: watched(seen.append, m.setattr); run(folder, lambda: seen.append("step"))
    return seen


def test_killed_at_every_moment_of_a_write(tmp_path, events, whole):
    first = [i for i, name in enumerate(events) if name == "before save_file"][2]
    last = first + events[first:].index("step")
    assert {"half of the file", "before fsync", "after replace", "before unlink"} <= set(events[first:last])
    for i in range(first, last):
        folder = tmp_path / str(i)
        assert ended(start(killed_at, folder, i + 1)) == -signal.SIGKILL, events[i]
        goes_on(folder, whole)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again(tmp_path, events, whole, seed):
    "At seeded events, until a process comes through."
    draw, kills = random.Random(seed), 0
    while code := ended(start(killed_at, tmp_path, draw.randint(1, len(events) // 2))):
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 2
    goes_on(tmp_path, whole)


def slow(folder, begun):
    def step(): begun.set(); time.sleep(.01)
    run(folder, step)


def test_killed_from_outside(tmp_path, whole):
    "After seeded times, wherever the process is then."
    draw, kills = random.Random(2), 0
    while True:
        begun = processes.Event(); p = start(slow, tmp_path, begun)
        while p.is_alive() and not begun.wait(.05): pass # it may have nothing left to do
        p.join(draw.uniform(0, .2 + .1 * kills)); p.kill()
        if ended(p) == 0: break
        assert p.exitcode == -signal.SIGKILL; kills += 1
    assert kills >= 2 # the steps alone take longer than the first two draws may
    goes_on(tmp_path, whole)


# No memory

def hungry(folder, at):
    "The run, whose process may not have more memory and asks for it in step `at`."
    count = 0
    def step():
        nonlocal count
        count += 1
        if count < at: return
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
        torch.ones(2**28)
    run(folder, step)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc says how much memory a process has")
def test_no_memory_in_a_step(tmp_path, whole):
    assert ended(start(hungry, tmp_path, 2 * 20 + 7)) == 1
    assert (tmp_path / "epoch-00002.safetensors").exists()
    goes_on(tmp_path, whole)


def test_no_memory_for_a_checkpoint(tmp_path, monkeypatch, whole):
    def none(*args): raise MemoryError
    run(tmp_path, epochs=2)
    for name in "pack_state", "save_file":
        with monkeypatch.context() as m:
            m.setattr(recsys_nb.training.checkpoints, name, none)
            with pytest.raises(MemoryError): run(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-00001.safetensors", "epoch-00002.safetensors"]
    goes_on(tmp_path, whole)


# No room

@pytest.fixture
def disk(tmp_path):
    "A disk of one megabyte."
    if os.name != "posix" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode: pytest.skip("a small disk can only be mounted by root")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True) # files that were read stay mapped for a while


def test_full_disk(disk, whole):
    folder = disk / "run"; run(folder, epochs=2)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    size = max(map(len, before.values()))
    room = shutil.disk_usage(disk).free - size // 2
    (disk / "others").write_bytes(bytes(room)) # half a checkpoint is left
    with pytest.raises(CheckpointError, match=f"the disk of the folder {folder} is full. It needs [0-9,]+ bytes and") as e: run(folder)
    need = int(str(e.value).split("needs ")[1].split(" ")[0].replace(",", ""))
    assert .5 * size < need <= 2 * size
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    (disk / "others").unlink()
    goes_on(folder, whole)


def limited(folder, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with pytest.raises(CheckpointError, match="File too large"): run(folder)


def test_file_too_large(tmp_path, whole):
    run(tmp_path, epochs=1)
    assert ended(start(limited, tmp_path, 10_000)) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-00001.safetensors"]
    goes_on(tmp_path, whole)


# Spoilt by the disk

def cut(content, draw): return content[:draw.randrange(len(content))]
def flip(content, draw): spoilt = bytearray(content); spoilt[draw.randrange(len(content))] ^= 1 << draw.randrange(8); return bytes(spoilt)
def zeros(content, draw): start = draw.randrange(len(content) - 512); return content[:start] + bytes(512) + content[start + 512:]


@pytest.mark.parametrize("spoil", [cut, flip, zeros])
def test_damaged(tmp_path, whole, spoil):
    "A spoilt file is named and the one before is used; where all are spoilt, all are named."
    draw = random.Random(3)
    run(tmp_path, epochs=3)
    latest, before = tmp_path / "epoch-00003.safetensors", tmp_path / "epoch-00002.safetensors"
    good = {p: p.read_bytes() for p in (before, latest)}
    for _ in range(5):
        for p in tmp_path.iterdir(): p.unlink()
        before.write_bytes(good[before]); latest.write_bytes(spoil(good[latest], draw))
        with pytest.warns(UserWarning, match="epoch-00003.* goes on from the one before, epoch-00002.safetensors"): goes_on(tmp_path, whole)
        for p in tmp_path.iterdir(): p.unlink()
        for p in good: p.write_bytes(spoil(good[p], draw))
        with pytest.raises(CheckpointError, match="no checkpoint that is whole: .*epoch-00003.*epoch-00002.*resume=False"): run(tmp_path)
        for p in good: p.write_bytes(good[p])
    goes_on(tmp_path, whole)


# The whole command

SMALL = ["run", "--data", "simulated", "--n-users", "200", "--n-items", "80", "--n-interactions", "3000", "--quick", "--no-ab"]
KILLS = [("epoch", 3), ("_rank", 1), ("_save", 1), ("rename", 2)] # what, and when it comes so often


def watch_command(event, patch):
    "Call `event` with the names of stages, epochs and checkpoints before they begin, and of checkpoints when they are there."
    def before(owner, name, called, after=None):
        real = getattr(owner, name)
        def f(*args, **kwargs):
            event(called)
            out = real(*args, **kwargs)
            if after: event(after)
            return out
        patch(owner, name, f)
    for stage in "_rank", "_save": before(recsys_nb.cli, stage, stage)
    before(recsys_nb.training.loop, "open_epoch", "epoch"); before(recsys_nb.training.checkpoints.Checkpoints, "save", "save", "saved"); before(Path, "rename", "rename")


def command(words, kill, times, epochs):
    "The command line, killed by itself when `kill` comes for the `times`-th time; `epochs` counts those of all processes."
    seen = []
    def event(name):
        seen.append(name)
        if name == kill and seen.count(name) == times: os.kill(os.getpid(), signal.SIGKILL)
        if name == "epoch":
            with epochs.get_lock(): epochs.value += 1
    watch_command(event, setattr)
    sys.exit(recsys_nb.cli.main(words))


def content(out):
    "What a run has made, but for its log."
    metrics, lists = (out / "metrics.json").read_text(), pd.read_parquet(out / "recommendations.parquet")
    return metrics, lists.to_csv(), {p.name: p.read_bytes() for p in (out / "model").iterdir()}


def test_command_killed_at_every_stage(tmp_path):
    assert recsys_nb.cli.main([*SMALL, "--out", str(tmp_path / "whole")]) == 0
    epochs, folder = processes.Value("i", 0), tmp_path / "killed"; folder.mkdir()
    for kill, times in KILLS:
        assert ended(start(command, [*SMALL, "--out", str(folder / "out")], kill, times, epochs)) == -signal.SIGKILL, kill
        assert [p.name[:12] for p in folder.iterdir()] == ["out.partial-"]
        if kill == "_rank": trained = epochs.value
        if kill == "_save": assert epochs.value == trained # what was trained is kept
    assert ended(start(command, [*SMALL, "--out", str(folder / "out")], None, 0, epochs)) == 0
    assert content(folder / "out") == content(tmp_path / "whole")
    assert [p.name for p in folder.iterdir()] == ["out"] and not (folder / "out" / "kept").exists()


def test_command_with_a_full_disk(tmp_path, monkeypatch, capsys):
    "One line that says what is full, and the same command works when there is room."
    def full(*args): raise OSError(errno.ENOSPC, "No space left on device")
    words = [*SMALL, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as m:
        m.setattr(recsys_nb.recommenders.storage, "save_file", full)
        assert recsys_nb.cli.main(words) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert recsys_nb.cli.main(words) == 0 and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_command_with_other_options_does_not_go_on(tmp_path, monkeypatch):
    words, out = [*SMALL, "--no-ranker", "--out", str(tmp_path / "out")], tmp_path / "out"
    def none(run): raise MemoryError
    with monkeypatch.context() as m:
        m.setattr(recsys_nb.cli, "_save", none)
        with pytest.raises(MemoryError): recsys_nb.cli.main(words)
    kept = [p.name for p in next(tmp_path.iterdir()).joinpath("kept").iterdir()]
    assert recsys_nb.cli.main([*words, "--seed", "7"]) == 0
    assert len(kept) == 1 and "kept" not in (out / "run.log").read_text() and [p.name for p in tmp_path.iterdir()] == ["out"]
