"""Tables in parts on two processes: the same outputs and the same tables as the model
in one piece."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys_nb.models import DLRM, DLRMConfig
from recsys_nb.training.shards import shard_tables

SIZES = [50, 7, 30]
LR = 0.1
STEPS = 6
BATCH_SIZE = 16


def make_whole():
    "The model in one piece."
    torch.manual_seed(0)
    config = DLRMConfig(
        sparse_cardinalities=SIZES,
        sparse_embedding_dim=8,
        num_dense_features=3,
        bottom_mlp_dims=[8],
        top_mlp_dims=[16, 1],
    )
    return DLRM(config)


def draw_batch(step):
    "Numbers, codes and labels."
    generator = torch.Generator().manual_seed(step)
    dense = torch.randn(BATCH_SIZE, 3, generator=generator)
    columns = [torch.randint(n, (BATCH_SIZE,), generator=generator) for n in SIZES]
    label = (torch.rand(BATCH_SIZE, generator=generator) > 0.5).float()
    return dense, torch.stack(columns, 1), label


def update_by_adagrad(table, state):
    "Row-wise Adagrad (Duchi et al. 2011): one number per row; in place."
    state += table.grad.square().mean(1)
    table.data -= LR * table.grad / (state.sqrt() + 1e-8)[:, None]


def train_side_by_side(one, many, mine, optimizer):
    "Some steps of both models; `mine` are the rows of this process."
    state = torch.zeros(sum(SIZES))
    layers = torch.nn.ModuleList([one.bottom, one.top])
    dense = [torch.optim.SGD(m.parameters(), lr=LR) for m in (many, layers)]
    for step in range(STEPS):
        x, codes, label = draw_batch(step)
        for model in (one, many):
            model.zero_grad()
        logits, my_logits = one(x, codes), many(x[mine], codes[mine])
        torch.testing.assert_close(logits[mine], my_logits, rtol=0, atol=1e-6)
        binary_cross_entropy_with_logits(logits, label).backward()
        binary_cross_entropy_with_logits(my_logits, label[mine]).backward()
        for each in dense:
            each.step()
        if optimizer == "sgd":
            one.table.weight.data -= LR * one.table.weight.grad
        else:
            update_by_adagrad(one.table.weight, state)


def list_parts(model):
    "The number of the table and the part, for each part that lies here."
    for name, table in model.state_dict().items():
        if ".bags." in name:
            number = int(name.split("feature_")[1].split(".")[0])
            for part in table.local_shards():
                yield number, part


def process(how, optimizer, folder):
    "What each process runs: both models side by side."
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mine = slice(rank * BATCH_SIZE // 2, (rank + 1) * BATCH_SIZE // 2)
    of_tables = torch.optim.SGD if optimizer == "sgd" else None
    one, many = make_whole(), shard_tables(make_whole(), how, LR, of_tables)
    train_side_by_side(one, many, mine, optimizer)
    held, tables = 0, one.table.weight.detach().split(SIZES)
    for number, part in list_parts(many):
        start, n = part.metadata.shard_offsets[0], part.metadata.shard_sizes[0]
        rows = tables[number][start : start + n]
        torch.testing.assert_close(part.tensor, rows, rtol=0, atol=1e-6)
        held += n
    (Path(folder) / str(rank)).write_text(str(held))
    fresh = shard_tables(one.config, how)  # whose rows are drawn where they lie
    drawn = torch.cat([part.tensor for _, part in list_parts(fresh)])
    assert drawn.shape == (held, 8) and 0.007 < drawn.std() < 0.013
    x, codes, _ = draw_batch(STEPS - 1)
    assert fresh(x[mine], codes[mine]).isfinite().all()
    dist.destroy_process_group()


@pytest.mark.parametrize("how", ["table_wise", "row_wise"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_same_as_in_one_piece(tmp_path, how, optimizer):
    reason = "needs the extra: pip install 'recsys_nb[torchrec]'"
    pytest.importorskip("torchrec", reason=reason)
    launch = "-W ignore -m torch.distributed.run --standalone --nproc-per-node 2"
    words = [*launch.split(), __file__, how, optimizer, str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    held = [int((tmp_path / str(rank)).read_text()) for rank in (0, 1)]
    parts = {"table_wise": [50, 37], "row_wise": [25 + 4 + 15, 25 + 3 + 15]}
    assert sum(held) == sum(SIZES) and held == parts[how]


def test_without_torchrec_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(ImportError, match=r"recsys_nb\[torchrec\]"):
        shard_tables(make_whole())


if __name__ == "__main__":
    process(*sys.argv[1:])
