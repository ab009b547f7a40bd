"What no reader wants in the chapter: a training process killed in the middle of an epoch goes on to the same weights."
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from recsys_nb.dlrm import DLRM, DLRMConfig
from recsys_nb.train import CheckpointError, RowAdam, _read, train
from recsys_nb.two_tower import TwoTowerConfig, TwoTowerModel, sampled_softmax_loss

EPOCHS = 4


class Ranker(torch.nn.Module):
    "A DLRM with dropout beside a table with sparse gradients: both optimizers, and random numbers in the forward pass."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.bias = torch.nn.Embedding(40, 1, sparse=True)
        self.dlrm = DLRM(DLRMConfig(sparse_cardinalities=[40, 7], sparse_embedding_dim=8, num_dense_features=3, bottom_mlp_dims=[8], top_mlp_dims=[16, 1], dropout=.3))

    def forward(self, dense, sparse): return self.dlrm(dense, sparse) + self.bias(sparse[:, 0]).squeeze(1)


def examples():
    g = torch.Generator().manual_seed(1)
    dense, sparse = torch.randn(600, 3, generator=g), torch.stack([torch.randint(n, (600,), generator=g) for n in (40, 7)], 1)
    return {"dense": dense, "sparse": sparse, "y": ((sparse.sum(1) % 2) * 1.)}


def run(folder, step=lambda: None, precision="fp32", epochs=EPOCHS):
    "The run that all tests here are about; `step` is called in each of its 19 steps an epoch."
    data, model = examples(), Ranker()
    def loss(model, batch): step(); return bce(model(batch["dense"], batch["sparse"]), batch["y"])
    def valid(model): return {"valid_loss": loss(model, data)}
    result = train(model, loss, data, valid, monitor="valid_loss", epochs=epochs, batch_size=32, patience=None, lr=.01, device="cpu", precision=precision, folder=folder, progress=False)
    return model.state_dict(), result.epochs


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_in_an_epoch(tmp_path, precision):
    code = textwrap.dedent(f"""
        import sys, time; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_train import run
        def step(): print("step", flush=True); time.sleep(.02)
        run({str(tmp_path)!r}, step, {precision!r})""")
    torch_threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | torch_threads)
    steps = 0
    for _ in process.stdout: # 2 epochs of 19 steps and one of validation, and then some of the third
        steps += 1
        if steps == 2 * 20 + 7: process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert (tmp_path / "epoch-00002.safetensors").exists() and not (tmp_path / "epoch-00003.safetensors").exists()
    seen = []
    weights, epochs = run(tmp_path, lambda: seen.append(1), precision)
    assert len(seen) == (EPOCHS - 2) * 20 # it did go on, and did not start over
    expected, whole = run(None, precision=precision)
    assert epochs == whole
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_changed_byte_is_seen(tmp_path):
    "Wherever it is: in the weights, the names, the settings, the losses or the checksum itself."
    run(tmp_path)
    path = max(tmp_path.iterdir())
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    g = torch.Generator().manual_seed(0)
    places = [*range(8), *torch.randint(8, header, (400,), generator=g).tolist(), *torch.randint(header, len(content), (100,), generator=g).tolist()]
    for i in places:
        spoilt = bytearray(content); spoilt[i] ^= 1
        path.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match=path.name): _read(path)
    path.write_bytes(content)
    _read(path)


def test_progress_is_shown_only_if_asked_for(tmp_path, capsys):
    model, data = torch.nn.Linear(3, 1), {"x": torch.randn(50, 3)}
    def loss(model, batch): return (model(batch["x"]) - 1).pow(2).mean()
    train(model, loss, data, epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
    train(model, loss, data, epochs=2, progress=True)
    assert "2/2" in capsys.readouterr().err


def test_rows_left_out_are_made_up_for():
    "RowAdam on sparse gradients that come from two places against the same formula for all rows in every step, on dense ones."
    def steps(sparse):
        torch.manual_seed(0)
        model = TwoTowerModel(TwoTowerConfig(8, 8, 8, user_categorical_cardinalities=[30], item_categorical_cardinalities=[200, 3], history=True, sparse=sparse))
        g = torch.Generator().manual_seed(1)
        tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        optimizer, second = RowAdam(tables, lr=.01, beta=.99), [torch.zeros(len(w)) for w in tables]
        for t in range(1, 61):
            user, item, history = (torch.randint(low, n, shape, generator=g) for low, n, shape in ((0, 30, (16, 1)), (0, 200, (16, 1)), (-1, 200, (16, 5))))
            model.zero_grad()
            sampled_softmax_loss(model.user(user, history=history), model.item(torch.cat([item, item % 3], 1))).backward()
            if sparse: optimizer.step(); continue
            for w, v in zip(tables, second):
                v.mul_(.99).add_(w.grad.square().mean(1), alpha=.01)
                w.data -= .01 * w.grad / ((v / (1 - .99 ** t)).sqrt() + 1e-8)[:, None]
        return tables
    for a, b in zip(steps(sparse=True), steps(sparse=False)): torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's malloc")
def test_freed_memory_is_kept_for_the_next_step():
    code = """
        import resource, torch
        from recsys_nb.train import _keep_freed_memory
        _keep_freed_memory()
        faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        def step(): [torch.ones(2 ** 18) for _ in range(20)] # 20 MB, freed together
        step(); before = faults()
        for _ in range(20): step()
        print(faults() - before)"""
    faults = int(subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True).stdout)
    assert faults < 20 * 5_120 / 10 # of the pages that these steps write to


LINUX = tuple(map(int, re.findall(r"\d+", platform.release())[:2])) if platform.system() == "Linux" and Path("/sys/kernel/mm/transparent_hugepage").exists() else (0, 0)


@pytest.mark.skipif(LINUX < (6, 1), reason="Linux has it from 6.1 on")
def test_a_large_table_lies_in_large_pages_and_keeps_its_numbers():
    torch.manual_seed(0); table = torch.nn.Embedding(2 ** 19, 16, sparse=True); numbers = table.weight.detach().clone()
    RowAdam(table.parameters())
    found = re.search(r"AnonHugePages:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    assert int(found[1]) >= 30 * 1024 # KB, of 32 MB
    assert torch.equal(table.weight, numbers)
