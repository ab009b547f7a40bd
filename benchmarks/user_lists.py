"""Data sets of the size of the LightGCN papers' splits: quality, time and memory of the
Two-Tower as it comes, beside ALS, ItemKNN and popularity as they come.

    python benchmarks/user_lists.py [--data FOLDER] [--models Popularity ItemKNN ALS
    TwoTowerRetriever] [--threads 2] [--seed 0]

FOLDER holds `train.txt` and `test.txt` with a line a user: the user, then the items.
Published on the split of Gowalla, Recall@20 / NDCG@20 over the whole catalogue:
YouTubeNet .1754 / .1473,
LightGCN .1830 / .1554, SimpleX .1872 / .1557. Without FOLDER the files are drawn with
Gowalla's size: 30,000 users of towns, whose 27 items on average for training, and a
quarter as many to be
found, come from their town, or in a fifth of the cases from anywhere, by popularity.
What the best order would reach there is not known: the other models are the measure.
Each model is a process of its own; times are of fitting and answering, memory is the
peak of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import memory, run

MODELS = ("Popularity", "ItemKNN", "ALS", "TwoTowerRetriever")


def draw(
    folder: Path,
    seed: int,
    n_users: int = 30_000,
    n_items: int = 41_000,
    n_towns: int = 300,
) -> None:
    "Write train.txt and test.txt."
    rng = np.random.default_rng(seed)
    towns = np.sort(rng.choice(n_towns, n_items, p=_zipf(n_towns, 0.7)))
    weight = rng.pareto(1.2, n_items) + 0.1
    start = np.searchsorted(towns, np.arange(n_towns + 1))
    everywhere = weight.cumsum()
    home = rng.choice(n_towns, n_users, p=_zipf(n_towns, 0.7))
    size = np.clip(rng.lognormal(3.1, 0.8, n_users), 10, 800).astype(int)
    with (
        open(folder / "train.txt", "w") as train,
        open(folder / "test.txt", "w") as test,
    ):
        for u in range(n_users):
            a, b = start[home[u]], start[home[u] + 1]
            n = size[u] * 2
            here = everywhere[b - 1] - (everywhere[a - 1] if a else 0)
            at = (
                np.where(
                    rng.random(n) < 0.8,
                    everywhere[b - 1] - rng.random(n) * here,
                    rng.random(n) * everywhere[-1],
                )
                if b > a
                else rng.random(n) * everywhere[-1]
            )
            items = list(
                dict.fromkeys(
                    np.searchsorted(everywhere, at).clip(max=n_items - 1).tolist()
                )
            )[: size[u] * 5 // 4]
            rng.shuffle(items)
            cut = max(1, len(items) // 5)
            print(u, *items[cut:], file=train)
            print(u, *items[:cut], file=test)


def _zipf(n: int, a: float) -> np.ndarray:
    p = np.arange(1.0, n + 1) ** -a
    return p / p.sum()


def worker(name: str, folder: str, threads: int, seed: int) -> dict:
    import torch

    from recsys_nb.data import load
    from recsys_nb.evaluation import evaluate
    from recsys_nb.recommenders import BASELINES, TwoTowerRetriever

    torch.set_num_threads(threads)
    train, test = load(folder, format="user-lists")
    model = (
        TwoTowerRetriever(seed=seed)
        if name == "TwoTowerRetriever"
        else BASELINES[name]()
    )
    wall, cpu = time.perf_counter(), time.process_time()
    lists = model.fit(train).recommend(test.interactions.user_id.unique(), k=20)
    cost = {
        "minutes": (time.perf_counter() - wall) / 60,
        "CPU minutes": (time.process_time() - cpu) / 60,
        "MB": memory("VmHWM"),
    }
    report = evaluate(lists, test, k=20, metrics=["recall", "ndcg"], n_boot=0)
    epochs = {"epochs": len(model.result_.epochs)} if hasattr(model, "result_") else {}
    return (
        {
            "users": len(train.user_ids),
            "items": len(train.item_ids),
            "pairs": len(train),
            "Recall@20": report["recall@20"],
            "NDCG@20": report["ndcg@20"],
        }
        | cost
        | epochs
    )


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--data")
    p.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker:
        print(
            json.dumps(
                worker(a.worker[0], a.worker[1], int(a.worker[2]), int(a.worker[3]))
            )
        )
        return
    import pandas as pd

    with tempfile.TemporaryDirectory() as tmp:
        if not a.data:
            draw(Path(tmp), a.seed)
        env = os.environ | {
            f"{n}_NUM_THREADS": str(a.threads) for n in ("OMP", "OPENBLAS", "MKL")
        }
        rows = {
            name: run(
                __file__,
                sys.executable,
                name,
                a.data or tmp,
                a.threads,
                a.seed,
                env=env,
            )
            for name in a.models
        }
    table = pd.DataFrame(rows).T
    print(
        f"{int(table.users.iloc[0]):,} users, {int(table['items'].iloc[0]):,} items, "
        f"{int(table.pairs.iloc[0]):,} pairs for training; {a.threads} threads"
    )
    print(
        table.drop(columns=["users", "items", "pairs"]).to_string(
            float_format="{:.4g}".format, na_rep=""
        )
    )


if __name__ == "__main__":
    main()
