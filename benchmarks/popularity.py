"""What do lists gain and lose when a retriever leans on popularity, or away from it?

    python benchmarks/popularity.py [--data simulated ml-latest-small]
        [--seeds 1] [--out results/popularity.json]

The default Two-Tower retriever is fitted once. In service, its scores gain w T log p
more than it has chosen, p the item's share of the positives and T the temperature; w
goes from -1 (away from popularity) to 1, and 0 is the default. Judged are lists of
ten: NDCG, novelty and coverage, and in the simulator the mean true probability of a
click; all differences to the default are paired over users. Real logs are judged on a
validation part of their training part, never on a test part.
"""

from __future__ import annotations

import argparse
import os
from copy import copy
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from _common import keep
from real_logs import LOGS, split_inner

from recsys_nb.data import World, split_by_time
from recsys_nb.evaluation import compare, evaluate
from recsys_nb.recommenders import TwoTowerRetriever, new_pairs
from recsys_nb.recommenders.ranker import resample_mean

torch.set_num_threads(1)
WEIGHTS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
METRICS = ["ndcg", "novelty", "coverage"]


def lean(retriever, weight):
    "The retriever whose scores gain `weight` times T log p."
    counts = np.maximum(retriever.popularity_, 0.5)
    shift = weight * retriever.temperature_ * np.log(counts / counts.sum())
    other = copy(retriever)
    other.bonus_ = (retriever.bonus_ + shift).astype(np.float32)
    return other


def read_simulated(seed):
    "A shop: what is learnt from, what followed, and the truth."
    world = World(2_000, 500, seed=seed)
    train, test = split_by_time(world.sample(60_000))
    past = train.positives()
    truth, _ = new_pairs(past.interactions, test.positives().interactions)
    return past, truth, world


def read_real(name, seed):
    "A real log: the earlier part, and new pairs of a validation part."
    past, truth = split_inner(name, seed)
    return past.positives(), truth, None


def click_through(world, lists):
    "The mean true probability of a click of each user's list."
    chance = world.click_probability(
        lists.user_id.to_numpy(object), lists.item_id.to_numpy(object)
    )
    return pd.Series(chance).groupby(lists.user_id.to_numpy()).mean()


def measure(name, seed):
    "A row for each weight."
    read = read_simulated if name == "simulated" else None
    past, truth, world = read(seed) if read else read_real(name, seed)
    retriever = TwoTowerRetriever(seed=seed).fit(past)
    users = truth.user_id.unique()
    options = {
        "metrics": METRICS,
        "k": 10,
        "train": past.interactions,
        "items": past.item_ids,
        "seed": 0,
    }
    lists = {w: lean(retriever, w).recommend(users, k=10) for w in WEIGHTS}
    reports = {
        w: evaluate(found, truth, name=str(w), **options) for w, found in lists.items()
    }
    about = {"data": name, "seed": seed, "users": len(users)}
    about["chosen"] = (
        retriever.settings_.popularity_weight + retriever.settings_.popularity_bonus
    )
    for weight, report in reports.items():
        values = {metric: report[f"{metric}@10"] for metric in METRICS}
        row = about | {"weight": weight} | values
        if weight:
            gap = compare(reports[0.0], report).to_frame().set_index("metric")
            for metric in gap.index:
                for part in ("difference", "low", "high"):
                    row[f"{metric}_{part}"] = float(gap.loc[metric, part])
        if world is not None:
            worth = click_through(world, lists[weight])
            less = worth - click_through(world, lists[0.0])
            row["worth"] = worth.mean()
            row["worth_difference"] = less.mean()
            row["worth_low"], row["worth_high"] = resample_mean(less.to_numpy(), 0)
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["simulated", "ml-latest-small", "retailrocket carts"]
    known = ["simulated", *LOGS]
    parser.add_argument("--data", nargs="+", default=default, choices=known)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, help="keep the rows in this JSON file")
    options = parser.parse_args()
    for name in options.data:
        for seed in options.seeds:
            rows = list(measure(name, seed))
            print(pd.DataFrame(rows).round(4).to_string(), flush=True)
            keep(options.out, rows, ("data", "seed"))


if __name__ == "__main__":
    main()
