"Tables in parts on two processes: the same outputs and the same tables as the model in one piece."
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SIZES, LR, STEPS, B = [50, 7, 30], .1, 6, 16


def whole():
    from recsys_nb.models import DLRM, DLRMConfig
    torch.manual_seed(0)
    return DLRM(DLRMConfig(sparse_cardinalities=SIZES, sparse_embedding_dim=8, num_dense_features=3, bottom_mlp_dims=[8], top_mlp_dims=[16, 1]))


def batch(step):
    g = torch.Generator().manual_seed(step)
    return torch.randn(B, 3, generator=g), torch.stack([torch.randint(n, (B,), generator=g) for n in SIZES], 1), (torch.rand(B, generator=g) > .5).float()


def row_wise_adagrad(table, state):
    "Duchi et al. 2011, with one number a row; in place."
    state += table.grad.square().mean(1)
    table.data -= LR * table.grad / (state.sqrt() + 1e-8)[:, None]


def process(how, optimizer, folder):
    "What each process runs: both models side by side."
    import torch.distributed as dist

    from recsys_nb.shards import shard_tables
    dist.init_process_group("gloo"); rank = dist.get_rank()
    one, loss = whole(), torch.nn.functional.binary_cross_entropy_with_logits
    many = shard_tables(whole(), how, LR, torch.optim.SGD if optimizer == "sgd" else None)
    mine, state = slice(rank * B // 2, (rank + 1) * B // 2), torch.zeros(sum(SIZES))
    dense = [torch.optim.SGD(m.parameters(), lr=LR) for m in (many, torch.nn.ModuleList([one.bottom, one.top]))]
    for step in range(STEPS):
        x, codes, y = batch(step)
        for m in (one, many): m.zero_grad()
        outputs = one(x, codes), many(x[mine], codes[mine])
        torch.testing.assert_close(outputs[0][mine], outputs[1], rtol=0, atol=1e-6)
        loss(outputs[0], y).backward(); loss(outputs[1], y[mine]).backward()
        for o in dense: o.step()
        if optimizer == "sgd": one.table.weight.data -= LR * one.table.weight.grad
        else: row_wise_adagrad(one.table.weight, state)
    held = 0
    for name, p in many.state_dict().items():
        if ".bags." not in name: continue
        rows = one.table.weight.detach().split(SIZES)[int(name.split("feature_")[1].split(".")[0])]
        for part in p.local_shards():
            start, n = part.metadata.shard_offsets[0], part.metadata.shard_sizes[0]
            torch.testing.assert_close(part.tensor, rows[start:start + n], rtol=0, atol=1e-6); held += n
    (Path(folder) / str(rank)).write_text(str(held))
    fresh = shard_tables(one.config, how) # whose rows are drawn where they lie
    drawn = torch.cat([part.tensor for name, p in fresh.state_dict().items() if ".bags." in name for part in p.local_shards()])
    assert drawn.shape == (held, 8) and .007 < drawn.std() < .013 and fresh(x[mine], codes[mine]).isfinite().all()
    dist.destroy_process_group()


@pytest.mark.parametrize("how", ["table_wise", "row_wise"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_same_as_in_one_piece(tmp_path, how, optimizer):
    pytest.importorskip("torchrec", reason="needs the extra: pip install 'recsys_nb[torchrec]'")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, how, optimizer, str(tmp_path)]
    r = subprocess.run([sys.executable, "-W", "ignore", *words], env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=600)
    assert r.returncode == 0, r.stderr[-3000:]
    held = [int((tmp_path / str(rank)).read_text()) for rank in (0, 1)]
    assert sum(held) == sum(SIZES) and held == ([50, 37] if how == "table_wise" else [25 + 4 + 15, 25 + 3 + 15]) # a part each


def test_without_torchrec_the_error_names_the_extra(monkeypatch):
    from recsys_nb.shards import shard_tables
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(ImportError, match=r"recsys_nb\[torchrec\]"): shard_tables(whole())


if __name__ == "__main__": process(*sys.argv[1:])
