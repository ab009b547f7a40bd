"What no chapter can show of several processes: they train what one does, go on from one another's checkpoints, and end together."
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recsys_nb.models import DLRM, DLRMConfig
from recsys_nb.recommenders import DLRMRanker, TwoTowerRetriever
from recsys_nb.simulate import simulate
from recsys_nb.training import train
from recsys_nb.models import TwoTowerConfig, TwoTowerModel, log_draw, sampled_softmax_loss

SETTINGS = dict(lr=.01, batch_size=61, patience=None, device="cpu", precision="fp32", progress=False, seed=3) # 61 rows make unequal parts
ROWS = 600


def draw(*sizes, n=ROWS, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(k, (n,), generator=g) for k in sizes], 1)


class Ranker(torch.nn.Module):
    "A DLRM beside a table with sparse gradients: dense and sparse ones."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.bias = torch.nn.Embedding(40, 1, sparse=True)
        self.dlrm = DLRM(DLRMConfig(sparse_cardinalities=[40, 7], sparse_embedding_dim=8, num_dense_features=3, bottom_mlp_dims=[8], top_mlp_dims=[16, 1]))

    def forward(self, dense, sparse): return self.dlrm(dense, sparse) + self.bias(sparse[:, 0]).squeeze(1)


def examples(n=ROWS, seed=1):
    g = torch.Generator().manual_seed(seed); dense, sparse = torch.randn(n, 3, generator=g), draw(40, 7, n=n, seed=seed)
    return {"dense": dense, "sparse": sparse, "y": (dense.sum(1) + sparse[:, 1] % 2 + torch.randn(n, generator=g) > .5) * 1.}


class Source:
    "Batches of `data` in their order, as an object gives them."
    def __init__(self, data): self.data, self.n_rows = data, len(data["y"])
    def steps(self, batch_size, world=1): return -(-self.n_rows // batch_size)
    def fingerprint(self): return "in order"
    def batches(self, batch_size, seed, epoch, rank=0, world=1):
        for i in range(0, self.n_rows, batch_size): yield {k: t[i:i + batch_size].tensor_split(world)[rank] for k, t in self.data.items()}


def ranker(epochs=4, folder=None, step=lambda: None, data=None, **options):
    data, model, others = examples() if data is None else data, Ranker(), examples(seed=2)
    def loss(model, batch): step(); return bce(model(batch["dense"], batch["sparse"]), batch["y"])
    def valid(model): return {"valid_loss": bce(model(others["dense"], others["sparse"]), others["y"])}
    return model, train(model, loss, data, valid, monitor="valid_loss", epochs=epochs, folder=folder, clip_grad=.1, weight_decay=.01, **SETTINGS | options).epochs


def towers(codes=True, extra=True, epochs=3, folder=None):
    "In float64, to see more than rounding. No two processes draw the same random numbers, so the extra negatives are fixed."
    torch.manual_seed(0); c = draw(30, 200); q = log_draw(torch.bincount(c[:, 1], minlength=200) + 1., SETTINGS["batch_size"], 20)
    model = TwoTowerModel(TwoTowerConfig(8, 8, 8, user_categorical_cardinalities=[30], item_categorical_cardinalities=[200, 3], history=True, learn_temperature=True, sparse=True)).double()
    data = {"user": c[:, :1], "item": torch.stack([c[:, 1], c[:, 1] % 3], 1), "history": draw(200, 200, 200, seed=5)}; more = torch.arange(20) * 9
    def loss(model, batch):
        v, at = model.item(torch.cat([batch["item"], torch.stack([more, more % 3], 1)])), batch["item"][:, 0]; n = len(at)
        others = (v[n:], q[more] if codes else None, more if codes else None) if extra else None
        return sampled_softmax_loss(model.user(batch["user"], history=batch["history"]), v[:n], model.temperature, q[at] if codes else None, at if codes else None, others)
    def valid(model): return {"valid_loss": loss(model, data)} # all rows in each process: nothing is gathered here
    return model, train(model, loss, data, valid, monitor="valid_loss", epochs=epochs, folder=folder, **SETTINGS).epochs


JOBS = {"ranker": ranker, "plateau": lambda: ranker(8, lr=.1, plateau=(.3, 1)), "source": lambda: ranker(data=Source(examples())), "towers": towers,
        "towers without codes": lambda: towers(codes=False), "towers without extra": lambda: towers(extra=False)}


def seeds(n=3):
    "Validation metrics of both models of the recommender, a row a seed."
    ds = simulate(600, 200, 12_000, seed=1); out = []
    for seed in range(n):
        s = dict(seed=seed, epochs=6); r = TwoTowerRetriever(**s).fit(ds.positives()); k = DLRMRanker(**s).fit(ds, r)
        out.append([max(e["ndcg"] for e in r.result.epochs), min(e["valid_loss"] for e in k.result.epochs)])
    return np.array(out)


def all_jobs(folder: Path, rank: int):
    for name, job in JOBS.items():
        model, epochs = job()
        save_file(dict(model.state_dict()), folder/f"{name} {rank}.safetensors"); (folder/f"{name} {rank}.json").write_text(json.dumps(epochs))
    ranker(2, folder/"from two"); model, _ = ranker(4, folder/"from one"); save_file(dict(model.state_dict()), folder/f"from one {rank}.safetensors")
    ranker(2, data=examples(62)) # one row is left for the last batch
    np.save(folder/f"seeds {rank}.npy", seeds())


def errors(folder: Path, rank: int):
    "Each of these ends the group; the next one has a group of its own."
    def stop(times=[]):
        times.append(1)
        if rank and len(times) == 4: raise ZeroDivisionError("what a pity")
    nan = examples(); nan["y"][17] = float("nan")
    cases = {"loss": lambda: ranker(step=stop), "rows": lambda: ranker(data=examples(ROWS - rank)), "nan": lambda: ranker(data=nan), "few": lambda: ranker(batch_size=1),
             "folder": lambda: ranker(folder=folder/"damaged"), "other lr": lambda: ranker(lr=.1 + rank), "exit": lambda: ranker(step=lambda: rank and os.kill(os.getpid(), signal.SIGKILL))}
    for port, (name, case) in zip(os.environ["PORTS"].split(), cases.items()):
        os.environ["MASTER_PORT"] = port
        try: case()
        except Exception as e: (folder/f"{name} {rank}").write_text(f"{type(e).__name__}: {e}")


def killed_while_writing(folder: Path, rank: int):
    "The first, between the writing of epoch 3 and its renaming; the second is then in epoch 4."
    replace = os.replace
    def f(a, b): Path(b).name.startswith("epoch-00003") and os.kill(os.getpid(), signal.SIGKILL); replace(a, b)
    os.replace = f
    ranker(4, folder)


def to_the_end(folder: Path, rank: int):
    steps = []
    model, _ = ranker(4, folder, step=lambda: steps.append(1))
    save_file(dict(model.state_dict()), folder.parent/f"{len(steps)} steps {rank}.safetensors")


def torchrun(*program) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program],
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)


def two(case: str, folder: Path, timeout: float = 300) -> list[int]:
    "Two processes that do `case`; their exit codes."
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(7)]; ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets: s.close()
    env = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "PORTS": " ".join(ports), "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, __file__, case, folder], env=env | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)]
    try: return [p.wait(timeout) for p in processes]
    finally:
        for p in processes: p.kill()


def close(a: dict, b: dict):
    "Equal but for rounding, which Adam makes larger where gradients are small."
    assert a.keys() == b.keys()
    for name in a:
        atol = 1e-9 if a[name].dtype == torch.float64 else 1e-4
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "The folder of two processes that have done all jobs; a run of one process has begun in it."
    folder = tmp_path_factory.mktemp("two")
    ranker(2, folder/"from one")
    assert two("all_jobs", folder) == [0, 0]
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_what_one_does(done, name):
    first, second = (load_file(done/f"{name} {rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[n], second[n]) for n in first) # to the last bit
    model, epochs = JOBS[name](); found = json.loads((done/f"{name} 0.json").read_text())
    close(first, model.state_dict())
    assert found == json.loads((done/f"{name} 1.json").read_text()) and len(found) == len(epochs)
    for a, b in zip(found, epochs): assert a == pytest.approx(b, abs=1e-5)
    start = Ranker() if "towers" not in name else None
    if start: assert max((first[n] - t).abs().max() for n, t in start.state_dict().items()) > .01 # something was learnt
    if name == "plateau": assert found[-1]["lr"] < .1 / 3


def test_checkpoints_cross_over(done):
    expected = ranker(4)[0].state_dict()
    close(load_file(done/"from one 0.safetensors"), expected); close(load_file(done/"from one 1.safetensors"), expected)
    files = sorted(p.name for p in (done/"from two").iterdir()); assert files[-1] == "epoch-00002.safetensors"
    steps = []
    model, epochs = ranker(4, done/"from two", step=lambda: steps.append(1))
    assert len(steps) == 2 * 10 and len(epochs) == 4 # it did not start over
    close(model.state_dict(), expected)


def test_a_killed_run_goes_on_to_the_same_weights(done, tmp_path):
    "Two processes under torchrun, one killed: to the last bit the weights of two that nothing has happened to."
    folder = tmp_path/"run"; r = torchrun(__file__, "killed_while_writing", folder)
    assert r.returncode != 0 and "Signal 9 (SIGKILL)" in r.stderr, r.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["epoch-00001.safetensors", "epoch-00002.safetensors", "epoch-00003.unfinished"]
    r = torchrun(__file__, "to_the_end", folder)
    assert r.returncode == 0, r.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["epoch-00003.safetensors", "epoch-00004.safetensors"]
    for rank in (0, 1):
        weights, whole = load_file(tmp_path/f"20 steps {rank}.safetensors"), load_file(done/f"ranker {rank}.safetensors") # two epochs of ten steps were left
        assert weights.keys() == whole.keys() and all(torch.equal(weights[n], whole[n]) for n in whole)


def test_metrics_are_within_the_spread_of_seeds(done):
    one, both = seeds(), np.load(done/"seeds 0.npy")
    assert np.array_equal(both, np.load(done/"seeds 1.npy"))
    gap, spread = np.abs(one.mean(0) - both.mean(0)), np.ptp(one, axis=0)
    print(f"\nNDCG and log loss: one process {one.mean(0)} ± {spread}, two {both.mean(0)}")
    assert (gap <= spread).all(), (one, both)


def test_an_error_ends_all_processes(tmp_path):
    (tmp_path/"damaged").mkdir(); (tmp_path/"damaged"/"epoch-00001.safetensors").write_bytes(b"no checkpoint")
    assert two("errors", tmp_path)[1] == -signal.SIGKILL
    said = {p.name: p.read_text() for p in tmp_path.iterdir() if p.is_file()}
    assert said["loss 1"] == "ZeroDivisionError: what a pity" and said["loss 0"] == "ProcessError: process 1 of 2 has ended with ZeroDivisionError: what a pity"
    assert said["rows 1"].startswith("ValueError: all processes must be given the same, but rows is 599 in process 1 and 600 in process 0") and "process 1 of 2" in said["rows 0"]
    assert said["other lr 1"].startswith("ValueError: all processes must be given the same, but lr is 1.1 in process 1 and 0.1 in process 0")
    assert all("the loss is nan in epoch 1, step " in said[f"nan {r}"] for r in (0, 1))
    assert all("2 processes need one each at least" in said[f"few {r}"] for r in (0, 1))
    assert said["folder 0"].startswith("CheckpointError") and said["folder 1"].startswith("ProcessError: process 0 of 2 has ended with CheckpointError")
    assert said["exit 0"].startswith("ProcessError: the connection to another process is lost"), said["exit 0"]


def test_command_line(tmp_path):
    words = "run --data simulated --n-users 300 --n-items 120 --n-interactions 5000 --quick --no-ab --epochs 2 --out".split()
    def start(*more): return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "recsys_nb.cli", *words, tmp_path/"out", *more], capture_output=True, text=True, timeout=300)
    r = start()
    assert r.returncode == 0, r.stderr
    assert r.stdout.count("report: ") == 1 and r.stdout.count("trained: retriever 2 epochs, ranker 2 epochs") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and json.loads((tmp_path/"out"/"metrics.json").read_text())["metrics"]["Two-stage"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path/"out").rglob("*")}
    r = start() # the folder is there: only the first process finds that out
    assert r.returncode != 0 and re.search(r"recsys-nb: \S+ exists; choose another --out", r.stderr)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path/"out").rglob("*")} and [p.name for p in tmp_path.iterdir()] == ["out"]


if __name__ == "__main__": globals()[sys.argv[1]](Path(sys.argv[2]), int(os.environ["RANK"]))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are read from /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path):
    "One that does may want Python's lock while Python ends, and abort the process."
    program = tmp_path / "program.py"
    program.write_text("""
import atexit, pathlib
def left(): print([n for p in pathlib.Path("/proc/self/task").glob("*/comm") if "gloo" in (n := p.read_text().strip())])
atexit.register(left) # runs last
import torch
from recsys_nb.training import together, train
with together(): train(torch.nn.Linear(3, 1), lambda m, b: m(b["x"]).square().mean(), {"x": torch.ones(100, 3)}, epochs=1, precision="fp32", device="cpu", progress=False)
""")
    r = torchrun(program)
    assert r.returncode == 0, r.stderr
    assert r.stdout.count("[]") == 2 and "gloo" not in r.stdout # the two may print at once
