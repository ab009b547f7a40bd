"""Training a two-tower model: samples a second and peak memory, against torch-rechub's
own trainer; by table size; and whether the faster ways are as good.

    python benchmarks/training.py [--parts compare sweep quality] [--rows 10000]
        [--history 20] [--steps 30] [--repeats 3] [--seeds 3] [--peers FOLDER]

Every run is a process of its own on one thread, all contenders in turn, `--repeats`
times; times are CPU seconds of the steps after the first five, medians over the
repetitions, so that a busy machine distorts little. Memory is the peak resident set
beyond imports and data. All contenders read the same file: users and items (half of
`--rows` each), five small features, a history. All have embeddings of 64, layers 128-64
in both towers, batches of 2,048 and all items of the batch as negatives:
`recsys_nb.training.loop.train` with `sampled_softmax_loss` in fp32 and in bf16;
torch-rechub's DSSM by its MatchTrainer with in_batch_neg=True, which draws a
permutation of the batch's other items for each row, in a venv that is made for it in
`--peers`. (Its towers concatenate the features' embeddings, ours add them; it divides
by no temperature.) FLOPs are those of the products in towers and softmax, forward and
backward, and stand beside those that this core reaches with large matrices (roofline).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _common import PEERS, median, memory, peer_python, roofline, run

BATCH_SIZE = 2048
DIM = 64
HIDDEN = 128
SMALL_USER = (6, 3, 5)  # codes of the small features of users
SMALL_ITEM = (5, 20)  # codes of the small features of items
WARM_UP = 5  # steps that are not counted
PEER_STEPS = WARM_UP + 6  # it is slow
PEER = ("torch==2.13.0", "torch-rechub==0.9.0")
LONG_TAIL = "long tail"
SIZES = (10_000, 100_000, 1_000_000, 5_000_000)  # table rows of the sweep


# --- data -----------------------------------------------------------------------------


def make(
    path: Path,  # of the file
    rows: int,  # of both large tables together
    history: int,  # items in each history
    steps: int,  # batches
    draw: str,  # LONG_TAIL: weights 1/rank; else uniformly, the worst for a cache
    seed: int = 0,  # of all codes
) -> None:
    "Write the codes of some batches."
    rng = np.random.default_rng(seed)
    n, half = BATCH_SIZE * steps, rows // 2
    place = rng.permutation(half)  # so that the bestsellers don't lie side by side

    def draw_items(size) -> np.ndarray:
        if draw != LONG_TAIL:
            return rng.integers(half, size=size)
        ranks = np.exp(rng.random(size) * np.log(half + 1)).astype(np.int64) - 1
        return place[np.minimum(ranks, half - 1)]

    user = [rng.integers(size, size=n) for size in (half, *SMALL_USER)]
    histories = draw_items((n, history))
    item = [draw_items(n), *(rng.integers(size, size=n) for size in SMALL_ITEM)]
    np.savez(
        path,
        user=np.column_stack(user),
        history=histories,
        item=np.column_stack(item),
    )


# --- contenders -----------------------------------------------------------------------


def count_flops(model: torch.nn.Module) -> int:
    """Of the products per sample: each weight of a linear layer, and each of
    BATCH_SIZE * DIM of the scores, is used once forward and twice backward."""
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    weights = sum(layer.weight.numel() for layer in linear)
    return 6 * (weights + BATCH_SIZE * DIM)


def train_ours(
    data: dict[str, np.ndarray], rows: int, precision: str, table: str
) -> dict:
    "One epoch; the CPU time at the start of each step."
    from recsys_nb.models.sampled_softmax import sampled_softmax_loss
    from recsys_nb.models.two_tower import TwoTowerConfig, TwoTowerModel
    from recsys_nb.training.loop import train

    tensors = {name: torch.from_numpy(array) for name, array in data.items()}
    has_history = tensors["history"].shape[1] > 0
    before, marks = memory("VmRSS"), []
    torch.manual_seed(0)
    config = TwoTowerConfig(
        DIM,
        DIM,
        DIM,
        user_categorical_cardinalities=[rows // 2, *SMALL_USER],
        item_categorical_cardinalities=[rows // 2, *SMALL_ITEM],
        user_hidden_dims=[HIDDEN],
        item_hidden_dims=[HIDDEN],
        history=has_history,
        sparse=table == "sparse",
    )
    model = TwoTowerModel(config)

    def loss(model, batch):
        marks.append(time.process_time())
        history = batch["history"] if has_history else None
        vectors = model.both(batch["user"], batch["item"], history=history)
        return sampled_softmax_loss(*vectors, model.temperature)

    settings = {"epochs": 1, "batch_size": BATCH_SIZE, "device": "cpu"}
    train(model, loss, tensors, precision=precision, progress=False, **settings)
    return {"marks": marks, "before": before, "flops": count_flops(model)}


def train_rechub(
    data: dict[str, np.ndarray], rows: int, precision: str, table: str
) -> dict:
    "The same by torch-rechub, which knows one precision and one kind of table."
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.matching import DSSM
    from torch_rechub.trainers import MatchTrainer
    from torch_rechub.utils.data import MatchDataGenerator

    columns, features = {}, {}
    for side, small in (("user", SMALL_USER), ("item", SMALL_ITEM)):
        codes = data[side].T.copy()
        columns |= {f"{side}{place}": column for place, column in enumerate(codes)}
        features[side] = [
            SparseFeature(f"{side}{place}", size, DIM)
            for place, size in enumerate((rows // 2, *small))
        ]
    if data["history"].shape[1]:
        columns["history"] = data["history"]
        shared = {"pooling": "mean", "shared_with": "item0", "padding_idx": -1}
        features["user"].append(SequenceFeature("history", rows // 2, DIM, **shared))
    before, marks = memory("VmRSS"), []
    torch.manual_seed(0)
    tower = {"dims": [HIDDEN, DIM]}
    model = DSSM(features["user"], features["item"], dict(tower), dict(tower))
    first_row = {name: column[:1] for name, column in columns.items()}
    generator = MatchDataGenerator(columns, np.zeros(len(data["user"])))
    loaders = generator.generate_dataloader(
        first_row, first_row, batch_size=BATCH_SIZE, num_workers=0
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = {"n_epoch": 1, "device": "cpu", "model_path": folder}
        trainer = MatchTrainer(model, mode=2, in_batch_neg=True, **settings)
        criterion = trainer.criterion

        def mark(logits, target):
            negatives = logits.shape[1] - 1
            expected = (BATCH_SIZE, BATCH_SIZE)
            assert logits.shape == expected, f"it takes {negatives} negatives"
            marks.append(time.process_time())
            return criterion(logits, target)

        trainer.criterion = mark
        trainer.fit(loaders[0])
    return {"marks": marks, "before": before, "flops": count_flops(model)}


TRAINERS = {"ours": train_ours, "rechub": train_rechub}


def worker(role: str, path: str, rows: str, precision: str, table: str) -> None:
    "One run in this process; the last line of its output is JSON."
    torch.set_num_threads(1)
    if role == "roofline":
        print(json.dumps(roofline()))
        return
    found = TRAINERS[role](dict(np.load(path)), int(rows), precision, table)
    steps = found["marks"][WARM_UP:]
    samples = BATCH_SIZE * (len(steps) - 1)
    result = {
        "rate": samples / (steps[-1] - steps[0]),
        "memory": memory("VmHWM") - found["before"],
        "flops": found["flops"],
    }
    print(json.dumps(result))


# --- the parts ------------------------------------------------------------------------


def list_contenders(args: argparse.Namespace, path: Path) -> dict[str, tuple]:
    "The words that start each contender, by name."
    ours = {
        f"ours {precision}{', sparse' * (table == 'sparse')}": (precision, table)
        for table in ("dense", "sparse")
        for precision in ("fp32", "bf16")
    }
    found = {
        name: (sys.executable, "ours", path, args.rows, *words)
        for name, words in ours.items()
    }
    peer = peer_python(args.peers, "torch-rechub", "torch_rechub", PEER)
    if isinstance(peer, Path):
        short = path.with_name("short.npz")
        make(short, args.rows, args.history, PEER_STEPS, LONG_TAIL)
        found["torch-rechub"] = (peer, "rechub", short, args.rows, "fp32", "dense")
    else:
        print(f"torch-rechub: not installable: {peer}")
    return found


def show_comparison(runs: dict[str, list[dict]], roof: dict[str, float]) -> None:
    "A line per contender."
    print(
        f"{'':20}{'samples/s':>24}{'MB':>7}{'MFLOP a sample':>16}{'GFLOP/s':>9}"
        f"{'of roofline':>13}{'ratio':>7}"
    )
    peer = runs.get("torch-rechub")
    for name, found in runs.items():
        rate, flops = median(found, "rate"), found[0]["flops"]
        reached = rate * flops / 1e9
        most = roof["bf16" if "bf16" in name else "fp32"]
        rates = [one["rate"] for one in found]
        spread = f"({min(rates):,.0f}-{max(rates):,.0f})"
        ratio = f"{rate / median(peer, 'rate'):>7.2f}" if peer else ""
        print(
            f"{name:20}{rate:>9,.0f} {spread:>15}{median(found, 'memory'):>6,.0f}"
            f"{flops / 1e6:>16.2f}{reached:>9.1f}{reached / most:>13.1%}{ratio}"
        )


def compare(args: argparse.Namespace, path: Path) -> None:
    "Ours in two precisions and with two kinds of table, and the peer."
    make(path, args.rows, args.history, args.steps, LONG_TAIL)
    contenders = list_contenders(args, path)
    runs: dict[str, list[dict]] = {name: [] for name in contenders}
    roofs = []
    for _ in range(args.repeats):
        words = sys.executable, "roofline", path, 0, "fp32", "dense"
        roofs.append(run(__file__, *words))
        for name, command in contenders.items():
            runs[name].append(run(__file__, *command))
    roof = {name: median(roofs, name) for name in roofs[0]}
    print(
        f"\nOne core: {roof['fp32']:.0f} GFLOP/s in fp32, {roof['bf16']:.0f} in bf16 "
        f"(1024 x 1024 products); copy {roof['copy']:.1f} GB/s"
    )
    print(
        f"\n{args.rows:,} table rows, histories of {args.history}, batch "
        f"{BATCH_SIZE:,}, median (least-most) of {args.repeats}"
    )
    show_comparison(runs, roof)


def sweep(args: argparse.Namespace, path: Path) -> None:
    "Larger and larger tables."
    how = {
        LONG_TAIL: "with a long tail",
        "uniform": "uniformly (each lookup misses the cache)",
    }
    for draw, words in how.items():
        runs: dict = {(p, rows): [] for p in ("fp32", "bf16") for rows in SIZES}
        for _ in range(args.repeats):
            for rows in SIZES:
                make(path, rows, args.history, args.steps, draw)
                for precision in ("fp32", "bf16"):
                    command = sys.executable, "ours", path, rows, precision, "sparse"
                    runs[precision, rows].append(run(__file__, *command))
        print(
            f"\nSparse tables by rows, items drawn {words}, histories of {args.history}"
        )
        show_sweep(runs)


def show_sweep(runs: dict[tuple[str, int], list[dict]]) -> None:
    "A line per size, both precisions side by side."
    head = [
        f"{p + ' samples/s':>17}{'to 10,000':>11}{'MB':>8}" for p in ("fp32", "bf16")
    ]
    print(f"{'rows':>10}{''.join(head)}")
    for rows in SIZES:
        cells = [f"{rows:>10,}"]
        for precision in ("fp32", "bf16"):
            found = runs[precision, rows]
            rate, first = (
                median(found, "rate"),
                median(runs[precision, SIZES[0]], "rate"),
            )
            megabytes = median(found, "memory")
            cells.append(f"{rate:>17,.0f}{rate / first:>11.2f}{megabytes:>8,.0f}")
        print("".join(cells))


# --- are the faster ways as good? -----------------------------------------------------


def retriever_ndcg(train, test, seed: int, precision: str, is_sparse: bool) -> float:
    "NDCG@10 of a TwoTowerRetriever whose tables RowAdam or dense Adam updates."
    from recsys_nb.evaluation import evaluate
    from recsys_nb.recommenders import TwoTowerRetriever, towers

    limit = -1 if is_sparse else float("inf")
    # one profile for all, so that the ways alone differ
    settings = {"seed": seed, "device": "cpu", "precision": precision}
    settings |= {"epochs": 15, "profile": "sparse"}
    with patch.object(towers, "SPARSE_TABLE", limit):
        model = TwoTowerRetriever(**settings).fit(train)
    both = model.model_.user_tower, model.model_.item_tower
    assert all(tower.table.sparse == is_sparse for tower in both)
    report = evaluate(model.recommend(k=10), test, k=10, metrics=["ndcg"], n_boot=0)
    return report.values["ndcg@10"]


def dlrm_examples(log) -> tuple[dict, dict, list[int]]:
    "Will a view become a click? The views as tensors, the last fifth apart."
    import pandas as pd

    events, pair = log.interactions, ["user_id", "item_id"]
    views = events[events.event_type == "view"].drop_duplicates(pair)
    clicks = events.loc[events.event_type == "click", pair]
    in_clicks = pd.MultiIndex.from_frame(views[pair]).isin
    label = in_clicks(pd.MultiIndex.from_frame(clicks))
    frame = views.merge(log.users, on="user_id", how="left")
    frame = frame.merge(log.items, on="item_id", how="left")
    names = ("user_id", "item_id", "country", "category")
    codes = [frame[name].factorize()[0] for name in names]
    numbers = np.stack([np.log(frame.price), frame.age / 50], 1)
    data = {
        "sparse": torch.tensor(np.stack(codes, 1)),
        "dense": torch.tensor(numbers, dtype=torch.float32),
        "label": torch.tensor(label, dtype=torch.float32),
    }
    cut = len(frame) * 4 // 5
    first = {name: tensor[:cut] for name, tensor in data.items()}
    last = {name: tensor[cut:] for name, tensor in data.items()}
    return first, last, [int(column.max()) + 1 for column in codes]


def dlrm_loss(
    train, valid, sizes: list[int], seed: int, precision: str, is_sparse: bool
) -> float:
    "The best validation log loss of a DLRM."
    from recsys_nb.models.dlrm import DLRM, DLRMConfig, log_loss
    from recsys_nb.training.loop import train as fit

    torch.manual_seed(seed)
    config = DLRMConfig(
        sparse_cardinalities=sizes,
        sparse_embedding_dim=16,
        num_dense_features=2,
        bottom_mlp_dims=[32, 16],
        top_mlp_dims=[64, 32, 1],
    )
    model = DLRM(config)
    for module in model.modules():
        if isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            module.sparse = is_sparse
    settings = {"monitor": "valid_loss", "epochs": 8, "batch_size": 512, "seed": seed}
    settings |= {"device": "cpu", "precision": precision, "progress": False}
    result = fit(
        model,
        log_loss,
        train,
        lambda model: {"valid_loss": log_loss(model, valid)},
        **settings,
    )
    return result.epochs[result.best_epoch - 1]["valid_loss"]


WAYS = {
    "dense Adam, fp32": ("fp32", False),
    "dense Adam, bf16": ("bf16", False),
    "RowAdam, fp32": ("fp32", True),
    "RowAdam, bf16": ("bf16", True),
}


def show_quality(what: str, score: Callable[..., float], seeds: int) -> None:
    "A line per way: its mean, and the difference to dense Adam in fp32."
    values = {
        name: np.array([score(seed, *way) for seed in range(seeds)])
        for name, way in WAYS.items()
    }
    print(f"\nSimulated shop, {seeds} seeds: {what}")
    print(
        f"{'':18}{'mean':>9}{'sd':>9}{'minus dense fp32':>18}"
        f"{'its standard error':>20}   by seed"
    )
    for name, found in values.items():
        apart = found - values["dense Adam, fp32"]
        error = apart.std(ddof=1) / len(apart) ** 0.5
        by_seed = " ".join(f"{value:.4f}" for value in found)
        print(
            f"{name:18}{found.mean():>9.4f}{found.std(ddof=1):>9.4f}"
            f"{apart.mean():>+18.4f}{error:>20.4f}   {by_seed}"
        )


def quality(args: argparse.Namespace, path: Path) -> None:
    "Both optimizers of tables in both precisions."
    from recsys_nb.data import simulate, split_leave_last_out

    torch.set_num_threads(1)
    log = simulate(n_users=3000, n_items=2000, n_interactions=60_000)
    split, examples = split_leave_last_out(log), dlrm_examples(log)
    show_quality(
        "two-tower retriever, NDCG@10 on users' last items (more is better)",
        lambda *way: retriever_ndcg(*split, *way),
        args.seeds,
    )
    show_quality(
        "DLRM, log loss on the last fifth of views (less is better)",
        lambda *way: dlrm_loss(*examples, *way),
        args.seeds,
    )


PARTS = {"compare": compare, "sweep": sweep, "quality": quality}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    add("--rows", type=int, default=10_000, help="of both large tables together")
    add("--history", type=int, default=20, help="items in each history")
    add("--steps", type=int, default=30, help="batches")
    add("--repeats", type=int, default=3, help="runs of each contender")
    add("--seeds", type=int, default=3, help="runs of each way that is judged")
    add("--peers", type=Path, default=PEERS, help="of the peer's venv, kept")
    args = parser.parse_args()
    if args.steps < WARM_UP + 5:
        parser.error(f"--steps must be at least {WARM_UP + 5}, got {args.steps}")
    if args.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {args.seeds}")
    print(f"torch {torch.__version__}, 1 thread, CPU time")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts:
            PARTS[part](args, Path(folder) / "data.npz")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
