"""Training a two-tower model: samples a second and peak memory, against torch-rechub's own trainer; by table size; beside the roofline; and whether the faster ways are as good.

    python benchmarks/training.py [--parts compare sweep quality] [--rows 10000] [--history 20] [--steps 30] [--repeats 3] [--seeds 3] [--peers FOLDER]

Every run is a process of its own on one thread, all contenders in turn, `--repeats` times; times are CPU seconds of the steps after the first five, medians over the repetitions, so that a busy
machine distorts little. Memory is the peak resident set beyond imports and data. All contenders read the same file: users and items (half of `--rows` each), five small features, a history.
All have embeddings of 64, layers 128-64 in both towers, batches of 2,048 and all items of the batch as negatives: `recsys_nb.training.loop.train` with `sampled_softmax_loss` in fp32 and in bf16;
torch-rechub's DSSM by its MatchTrainer with in_batch_neg=True, which draws a permutation of the batch's other items for each row, in a venv that is made for it in `--peers`.
(Its towers concatenate the features' embeddings, ours add them; it divides by no temperature.) FLOPs are those of the products in towers and softmax, forward and backward.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch

from _common import PEERS, median, memory, peer_python, roofline, run

B, D, HIDDEN, SMALL_USER, SMALL_ITEM, WARM = 2048, 64, 128, (6, 3, 5), (5, 20), 5
PEER = ("torch==2.13.0", "torch-rechub==0.9.0")


def make(path: Path, rows: int, history: int, steps: int, draw: str, seed: int = 0) -> None:
    "Codes of `steps` batches, in a file; items are drawn with a long tail (weights 1/rank) or, the worst case for a cache, uniformly."
    rng, n, half = np.random.default_rng(seed), B * steps, rows // 2
    place = rng.permutation(half) # so that the bestsellers don't lie side by side
    def items(size): return place[np.minimum(np.exp(rng.random(size) * np.log(half + 1)).astype(np.int64) - 1, half - 1)] if draw == "long tail" else rng.integers(half, size=size)
    np.savez(path, user=np.column_stack([rng.integers(c, size=n) for c in (half, *SMALL_USER)]), history=items((n, history)),
        item=np.column_stack([items(n), *(rng.integers(c, size=n) for c in SMALL_ITEM)]))


def flops(model: torch.nn.Module) -> int:
    "Of the products a sample: each weight of a linear layer, and each of B * D of the scores, is used once forward and twice backward."
    return 6 * (sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) + B * D)


def ours(data: dict[str, np.ndarray], rows: int, precision: str, table: str) -> dict:
    from recsys_nb.models.sampled_softmax import sampled_softmax_loss
    from recsys_nb.models.two_tower import TwoTowerConfig, TwoTowerModel
    from recsys_nb.training.loop import train
    data = {k: torch.from_numpy(v) for k, v in data.items()}; read = data["history"].shape[1] > 0
    before, marks = memory("VmRSS"), []
    torch.manual_seed(0)
    model = TwoTowerModel(TwoTowerConfig(D, D, D, user_categorical_cardinalities=[rows // 2, *SMALL_USER], item_categorical_cardinalities=[rows // 2, *SMALL_ITEM],
        user_hidden_dims=[HIDDEN], item_hidden_dims=[HIDDEN], history=read, sparse=table == "sparse"))
    def loss(model, batch):
        marks.append(time.process_time())
        return sampled_softmax_loss(*model.both(batch["user"], batch["item"], history=batch["history"] if read else None), model.temperature)
    train(model, loss, data, epochs=1, batch_size=B, device="cpu", precision=precision, progress=False)
    return {"marks": marks, "before": before, "flops": flops(model)}


def rechub(data: dict[str, np.ndarray], rows: int) -> dict:
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.matching import DSSM
    from torch_rechub.trainers import MatchTrainer
    from torch_rechub.utils.data import MatchDataGenerator
    x = {f"user{i}": c for i, c in enumerate(data["user"].T.copy())} | {f"item{i}": c for i, c in enumerate(data["item"].T.copy())}
    user = [SparseFeature(f"user{i}", c, D) for i, c in enumerate((rows // 2, *SMALL_USER))]
    item = [SparseFeature(f"item{i}", c, D) for i, c in enumerate((rows // 2, *SMALL_ITEM))]
    if data["history"].shape[1]: x["history"] = data["history"]; user.append(SequenceFeature("history", rows // 2, D, pooling="mean", shared_with="item0", padding_idx=-1))
    before, marks = memory("VmRSS"), []
    torch.manual_seed(0)
    model = DSSM(user, item, {"dims": [HIDDEN, D]}, {"dims": [HIDDEN, D]})
    some = {k: v[:1] for k, v in x.items()}
    loader = MatchDataGenerator(x, np.zeros(len(data["user"]))).generate_dataloader(some, some, batch_size=B, num_workers=0)[0]
    with tempfile.TemporaryDirectory() as folder:
        trainer = MatchTrainer(model, mode=2, in_batch_neg=True, n_epoch=1, device="cpu", model_path=folder); criterion = trainer.criterion
        def marked(logits, target):
            assert logits.shape == (B, B), f"torch-rechub takes {logits.shape[1] - 1} negatives"
            marks.append(time.process_time()); return criterion(logits, target)
        trainer.criterion = marked; trainer.fit(loader)
    return {"marks": marks, "before": before, "flops": flops(model)}


def worker(role: str, path: str, rows: int, precision: str, table: str) -> None:
    "One run in this process; the last line of its output is JSON."
    torch.set_num_threads(1)
    if role == "roofline": return print(json.dumps(roofline()))
    data = dict(np.load(path))
    out = ours(data, rows, precision, table) if role == "ours" else rechub(data, rows)
    steps = out["marks"][WARM:]
    print(json.dumps({"rate": B * (len(steps) - 1) / (steps[-1] - steps[0]), "memory": memory("VmHWM") - out["before"], "flops": out["flops"]}))


def compare(args, path: Path) -> None:
    make(path, args.rows, args.history, args.steps, "long tail")
    peer, peer_path = peer_python(args.peers, "torch-rechub", "torch_rechub", PEER), path.with_name("short.npz")
    make(peer_path, args.rows, args.history, WARM + 6, "long tail") # it is slow
    contenders = {"ours fp32": (sys.executable, "ours", path, args.rows, "fp32", "dense"), "ours bf16": (sys.executable, "ours", path, args.rows, "bf16", "dense"),
        "ours fp32, sparse": (sys.executable, "ours", path, args.rows, "fp32", "sparse"), "ours bf16, sparse": (sys.executable, "ours", path, args.rows, "bf16", "sparse")}
    if isinstance(peer, Path): contenders["torch-rechub"] = (peer, "rechub", peer_path, args.rows, "fp32", "dense")
    runs, roofs = {name: [] for name in contenders}, []
    for _ in range(args.repeats):
        roofs.append(run(__file__, sys.executable, "roofline", path, 0, "fp32", "dense"))
        for name, command in contenders.items(): runs[name].append(run(__file__, *command))
    roof = {k: median(roofs, k) for k in roofs[0]}
    print(f"\nOne core: {roof['fp32']:.0f} GFLOP/s in fp32, {roof['bf16']:.0f} in bf16 (1024 x 1024 products); copy {roof['copy']:.1f} GB/s")
    print(f"\n{args.rows:,} table rows, histories of {args.history}, batch {B:,}, median (least-most) of {args.repeats}\n{'':20}{'samples/s':>24}{'MB':>7}{'MFLOP a sample':>16}{'GFLOP/s':>9}{'of roofline':>13}{'ratio':>7}")
    base = median(runs["torch-rechub"], "rate") if "torch-rechub" in runs else None
    for name, r in runs.items():
        rate, f = median(r, "rate"), r[0]["flops"]; reached = rate * f / 1e9
        spread = f"({min(x['rate'] for x in r):,.0f}-{max(x['rate'] for x in r):,.0f})"
        print(f"{name:20}{rate:>9,.0f} {spread:>15}{median(r, 'memory'):>6,.0f}{f / 1e6:>16.2f}{reached:>9.1f}{reached / roof['bf16' if 'bf16' in name else 'fp32']:>13.1%}" + (f"{rate / base:>7.2f}" if base else ""))
    if base is None: print(f"torch-rechub: not installable: {peer}")


def sweep(args, path: Path) -> None:
    sizes = (10_000, 100_000, 1_000_000, 5_000_000)
    for draw in ("long tail", "uniform"):
        runs = {(p, n): [] for p in ("fp32", "bf16") for n in sizes}
        for _ in range(args.repeats):
            for n in sizes:
                make(path, n, args.history, args.steps, draw)
                for p in ("fp32", "bf16"): runs[p, n].append(run(__file__, sys.executable, "ours", path, n, p, "sparse"))
        print(f"\nSparse tables by rows, items drawn {'with a long tail' if draw == 'long tail' else 'uniformly (each lookup misses the cache)'}, histories of {args.history}")
        print(f"{'rows':>10}" + "".join(f"{p + ' samples/s':>17}{'to 10,000':>11}{'MB':>8}" for p in ("fp32", "bf16")))
        for n in sizes: print(f"{n:>10,}" + "".join(f"{median(runs[p, n], 'rate'):>17,.0f}{median(runs[p, n], 'rate') / median(runs[p, sizes[0]], 'rate'):>11.2f}{median(runs[p, n], 'memory'):>8,.0f}" for p in ("fp32", "bf16")))


def retriever_ndcg(train, test, seed: int, precision: str, sparse: bool) -> float:
    "NDCG@10 of a TwoTowerRetriever whose tables are updated by RowAdam or by dense Adam."
    from recsys_nb.evaluation import evaluate
    from recsys_nb.recommenders import TwoTowerRetriever, towers
    with patch.object(towers, "SPARSE_TABLE", -1 if sparse else float("inf")): # one profile for all, so that the ways alone differ
        model = TwoTowerRetriever(seed=seed, device="cpu", precision=precision, epochs=15, profile="sparse").fit(train)
    assert all(tower.table.sparse == sparse for tower in (model.model_.user_tower, model.model_.item_tower))
    return evaluate(model.recommend(k=10), test, k=10, metrics=["ndcg"], n_boot=0).values["ndcg@10"]


def dlrm_examples(ds) -> tuple[dict, dict, list[int]]:
    "Will a view become a click? The views as tensors, the last fifth apart."
    import pandas as pd
    events = ds.interactions; views = events[events.event_type == "view"].drop_duplicates(["user_id", "item_id"])
    clicks = pd.MultiIndex.from_frame(events.loc[events.event_type == "click", ["user_id", "item_id"]])
    label = pd.MultiIndex.from_frame(views[["user_id", "item_id"]]).isin(clicks)
    f = views.merge(ds.users, on="user_id", how="left").merge(ds.items, on="item_id", how="left")
    codes = [f[c].factorize()[0] for c in ("user_id", "item_id", "country", "category")]
    data = {"sparse": torch.tensor(np.stack(codes, 1)), "dense": torch.tensor(np.stack([np.log(f.price), f.age / 50], 1), dtype=torch.float32), "y": torch.tensor(label, dtype=torch.float32)}
    n = len(f) * 4 // 5
    return {k: v[:n] for k, v in data.items()}, {k: v[n:] for k, v in data.items()}, [int(c.max()) + 1 for c in codes]


def dlrm_loss(train, valid, cards, seed: int, precision: str, sparse: bool) -> float:
    "The best validation log loss of a DLRM."
    from recsys_nb.models.dlrm import DLRM, DLRMConfig
    from recsys_nb.training.loop import train as fit
    torch.manual_seed(seed)
    model = DLRM(DLRMConfig(sparse_cardinalities=cards, sparse_embedding_dim=16, num_dense_features=2, bottom_mlp_dims=[32, 16], top_mlp_dims=[64, 32, 1]))
    for m in model.modules():
        if isinstance(m, (torch.nn.Embedding, torch.nn.EmbeddingBag)): m.sparse = sparse
    bce = lambda model, b: torch.nn.functional.binary_cross_entropy_with_logits(model(b["dense"], b["sparse"]), b["y"])
    result = fit(model, bce, train, lambda model: {"valid_loss": bce(model, valid)}, monitor="valid_loss", epochs=8, batch_size=512, seed=seed, device="cpu", precision=precision, progress=False)
    return result.epochs[result.best_epoch - 1]["valid_loss"]


def quality(args) -> None:
    from recsys_nb.data import split_leave_last_out
    from recsys_nb.data import simulate
    torch.set_num_threads(1)
    ds = simulate(n_users=3000, n_items=2000, n_interactions=60_000); split, examples = split_leave_last_out(ds), dlrm_examples(ds)
    ways = {"dense Adam, fp32": ("fp32", False), "dense Adam, bf16": ("bf16", False), "RowAdam, fp32": ("fp32", True), "RowAdam, bf16": ("bf16", True)}
    for what, f in (("two-tower retriever, NDCG@10 on users' last items (more is better)", lambda *a: retriever_ndcg(*split, *a)), ("DLRM, log loss on the last fifth of views (less is better)", lambda *a: dlrm_loss(*examples, *a))):
        x = {name: np.array([f(seed, *way) for seed in range(args.seeds)]) for name, way in ways.items()}
        print(f"\nSimulated shop, {args.seeds} seeds: {what}\n{'':18}{'mean':>9}{'sd':>9}{'minus dense fp32':>18}{'its standard error':>20}   by seed")
        for name, v in x.items():
            d = v - x["dense Adam, fp32"]
            print(f"{name:18}{v.mean():>9.4f}{v.std(ddof=1):>9.4f}{d.mean():>+18.4f}{d.std(ddof=1) / len(d) ** .5:>20.4f}   {' '.join(f'{s:.4f}' for s in v)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("compare", "sweep", "quality"), default=("compare", "sweep", "quality"))
    for name, default in (("rows", 10_000), ("history", 20), ("steps", 30), ("repeats", 3), ("seeds", 3)): parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peers", type=Path, default=PEERS, help="where the peer's venv is made, and found again")
    args = parser.parse_args()
    if args.steps < WARM + 5: parser.error(f"--steps must be at least {WARM + 5}, got {args.steps}")
    if args.seeds < 2: parser.error(f"--seeds must be at least 2, got {args.seeds}")
    print(f"torch {torch.__version__}, 1 thread, CPU time")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts: quality(args) if part == "quality" else globals()[part](args, Path(folder) / "data.npz")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]: role, path, rows, precision, table = sys.argv[2:]; worker(role, path, int(rows), precision, table)
    else: main()
