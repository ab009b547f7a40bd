"""Several processes: they train what one does, resume, and end together."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from conftest import processes
from safetensors.torch import load_file, save_file
from two_processes import (
    OPTIONS,
    ROWS,
    InOrder,
    Ranker,
    make_examples,
    train_ranker,
)

from recsys_nb.models.sampled_softmax import log_draw, sampled_softmax_loss
from recsys_nb.models.two_tower import TwoTowerConfig, TwoTowerModel
from recsys_nb.training.loop import train


def train_towers(with_codes=True, with_extra=True):
    "In float64; the extra negatives are fixed, since each process draws its own."
    torch.manual_seed(0)
    config = TwoTowerConfig(
        8,
        8,
        8,
        user_categorical_cardinalities=[30],
        item_categorical_cardinalities=[200, 3],
        history=True,
        learn_temperature=True,
        sparse=True,
    )
    model = TwoTowerModel(config).double()
    g = torch.Generator().manual_seed(1)
    items = torch.randint(200, (ROWS,), generator=g)
    counts = torch.bincount(items, minlength=200) + 1.0
    log_q = log_draw(counts, OPTIONS["batch_size"], 20)
    data = {
        "user": torch.randint(30, (ROWS, 1), generator=g),
        "item": torch.stack([items, items % 3], 1),
        "history": torch.randint(200, (ROWS, 3), generator=g),
    }
    more = torch.arange(20) * 9
    more_codes = torch.stack([more, more % 3], 1)

    def loss(model, batch):
        v = model.item(torch.cat([batch["item"], more_codes]))
        positives = batch["item"][:, 0]
        n = len(positives)
        q, codes, extra = None, None, None
        if with_extra:
            extra = (v[n:], None, None)
        if with_codes:
            q, codes = log_q[positives], positives
            extra = (v[n:], log_q[more], more) if with_extra else None
        u = model.user(batch["user"], history=batch["history"])
        return sampled_softmax_loss(u, v[:n], model.temperature, q, codes, extra)

    def valid(model):
        return {"valid_loss": loss(model, data)}

    return model, train(model, loss, data, valid, epochs=3, **OPTIONS).epochs


JOBS = {
    "ranker": train_ranker,
    "plateau": lambda: train_ranker(8, lr=0.1, plateau=(0.3, 1)),
    "cosine and average": lambda: train_ranker(schedule="cosine", warmup=0.1, ema=0.9),
    "source": lambda: train_ranker(data=InOrder(make_examples())),
    "towers": train_towers,
    "towers without codes": lambda: train_towers(with_codes=False),
    "towers without extra": lambda: train_towers(with_extra=False),
}


# What the processes do


def do_jobs(folder, rank):
    for name, job in JOBS.items():
        model, epochs = job()
        save_file(dict(model.state_dict()), folder / f"{name} {rank}.safetensors")
        (folder / f"{name} {rank}.json").write_text(json.dumps(epochs))
    train_ranker(2, folder=folder / "from two")
    model, _ = train_ranker(4, folder=folder / "from one")
    save_file(dict(model.state_dict()), folder / f"from one {rank}.safetensors")
    train_ranker(2, data=make_examples(62))  # one row is left for the last batch
    stopped = train_ranker(9, on_epoch=lambda row: row["epoch"] == 3)[1]
    limited = train_ranker(9, budget_seconds=1e-9)[1]
    (folder / f"ends {rank}").write_text(f"{len(stopped)} {len(limited)}")


def do_errors(folder, rank):
    "Each of these ends the group; the next one has a group of its own."
    steps = []

    def stop():
        steps.append(1)
        if rank and len(steps) == 4:
            raise ZeroDivisionError("what a pity")

    nan = make_examples()
    nan["label"][17] = float("nan")
    cases = {
        "loss": {"on_step": stop},
        "rows": {"data": make_examples(ROWS - rank)},
        "nan": {"data": nan},
        "few": {"batch_size": 1},
        "folder": {"folder": folder / "damaged"},
        "other lr": {"lr": 0.1 + rank},
        "exit": {"on_step": lambda: rank and os.kill(os.getpid(), signal.SIGKILL)},
    }
    ports = os.environ["PORTS"].split()
    for port, (name, changes) in zip(ports, cases.items(), strict=True):
        os.environ["MASTER_PORT"] = port
        try:
            train_ranker(**changes)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            (folder / f"{name} {rank}").write_text(text)


def do_the_rest(folder, rank):
    steps = []
    model, _ = train_ranker(4, folder=folder, on_step=lambda: steps.append(1))
    path = folder.parent / f"{len(steps)} steps {rank}.safetensors"
    save_file(dict(model.state_dict()), path)


# How they are started


def do_case(case, folder, rank, env):
    os.environ.update(env, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    case(folder, rank)


def list_addresses():
    "What two processes are told in their environment, but for their numbers."
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(7)]
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": ports[0],
        "PORTS": " ".join(ports),
    }


def start_two(case, folder, timeout=300):
    "Two processes that call `case(folder, rank)`; their exit codes."
    env = list_addresses()
    both = [
        processes.Process(target=do_case, args=(case, folder, rank, env))
        for rank in range(2)
    ]
    for process in both:
        process.start()
    try:
        for process in both:
            process.join(timeout)
        return [process.exitcode for process in both]
    finally:
        for process in both:
            process.kill()


def run_torchrun(*program):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", "2", *program],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )


def run_two(program):
    "What two processes print that run a program from its start to its end."
    env = os.environ | list_addresses() | {"OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = []
    for rank in ("0", "1"):
        own = env | {"RANK": rank, "LOCAL_RANK": rank}
        process = subprocess.Popen([sys.executable, program], env=own, **options)
        both.append(process)
    try:
        said = [process.communicate(timeout=200) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    return [out for out, _ in said]


def assert_close(weights, others):
    "Equal but for rounding, which Adam makes larger where gradients are small."
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        atol = 1e-9 if tensor.dtype == torch.float64 else 1e-4
        torch.testing.assert_close(tensor, others[name], rtol=0, atol=atol)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "The folder of two processes that have done all jobs."
    folder = tmp_path_factory.mktemp("two")
    train_ranker(2, folder=folder / "from one")
    assert start_two(do_jobs, folder) == [0, 0]
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_what_one_does(done, name):
    first, second = (load_file(done / f"{name} {r}.safetensors") for r in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)  # to the last bit
    model, epochs = JOBS[name]()
    found = json.loads((done / f"{name} 0.json").read_text())
    assert_close(first, model.state_dict())
    assert found == json.loads((done / f"{name} 1.json").read_text())
    assert len(found) == len(epochs)
    for row, expected in zip(found, epochs, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    if "towers" not in name:
        start = Ranker().state_dict()
        assert max((first[key] - start[key]).abs().max() for key in start) > 0.01
    if name == "plateau":
        assert found[-1]["lr"] < 0.1 / 3


def test_they_end_together(done):
    assert [(done / f"ends {rank}").read_text() for rank in (0, 1)] == ["3 2"] * 2


def test_checkpoints_cross_over(done):
    expected = train_ranker(4)[0].state_dict()
    for rank in (0, 1):
        assert_close(load_file(done / f"from one {rank}.safetensors"), expected)
    files = sorted(path.name for path in (done / "from two").iterdir())
    assert files[-1] == "epoch-00002.safetensors"
    steps = []
    model, epochs = train_ranker(
        4, folder=done / "from two", on_step=lambda: steps.append(1)
    )
    assert len(steps) == 2 * 10 and len(epochs) == 4  # it did not start over
    assert_close(model.state_dict(), expected)


def test_a_killed_run_goes_on_to_the_same_weights(done, tmp_path):
    "Two processes under torchrun, one killed: the weights of an undisturbed run."
    folder = tmp_path / "run"
    result = run_torchrun(two_processes.__file__, folder)
    assert result.returncode != 0 and "Signal 9 (SIGKILL)" in result.stderr
    names = sorted(path.name for path in folder.iterdir())
    assert names[-1] == "epoch-00003.unfinished" and len(names) == 3
    assert start_two(do_the_rest, folder) == [0, 0]
    for rank in (0, 1):  # two epochs of ten steps were left
        weights = load_file(tmp_path / f"20 steps {rank}.safetensors")
        whole = load_file(done / f"ranker {rank}.safetensors")
        assert all(torch.equal(weights[key], whole[key]) for key in whole)


def test_an_error_ends_all_processes(tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "epoch-00001.safetensors").write_bytes(b"no checkpoint")
    assert start_two(do_errors, tmp_path)[1] == -signal.SIGKILL
    said = {p.name: p.read_text() for p in tmp_path.iterdir() if p.is_file()}
    ended = "ProcessError: process {} of 2 has ended with "
    same = "ValueError: all processes must be given the same, but "
    assert said["loss 1"] == "ZeroDivisionError: what a pity"
    assert said["loss 0"] == ended.format(1) + said["loss 1"]
    rows = "rows is 599 in process 1 and 600 in process 0"
    assert said["rows 1"].startswith(same + rows) and "process 1" in said["rows 0"]
    rates = "lr is 1.1 in process 1 and 0.1 in process 0"
    assert said["other lr 1"].startswith(same + rates)
    for rank in (0, 1):
        assert "the loss is nan in epoch 1, step " in said[f"nan {rank}"]
        assert "2 processes need one each at least" in said[f"few {rank}"]
    assert said["folder 0"].startswith("CheckpointError")
    assert said["folder 1"].startswith(ended.format(0) + "CheckpointError")
    lost = "ProcessError: the connection to another process is lost"
    assert said["exit 0"].startswith(lost), said["exit 0"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path):
    "One that does may want Python's lock while Python ends, and abort the process."
    program = tmp_path / "program.py"
    program.write_text("""
import atexit, pathlib
def print_threads():
    tasks = pathlib.Path("/proc/self/task").glob("*/comm")
    names = [path.read_text().strip() for path in tasks]
    print([name for name in names if "gloo" in name])
atexit.register(print_threads)  # runs last
import torch
from recsys_nb.training.loop import together, train
def loss(model, batch):
    return model(batch["x"]).square().mean()
with together():
    train(torch.nn.Linear(3, 1), loss, {"x": torch.ones(100, 3)}, epochs=1,
          precision="fp32", device="cpu", progress=False)
""")
    said = run_two(program)
    assert [out.count("[]") for out in said] == [1, 1]
    assert not any("gloo" in out for out in said)
