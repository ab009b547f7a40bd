"""What do lists gain and lose when a retriever leans on popularity, or away from it?

    python benchmarks/popularity.py [--data simulated steam] [--seeds 1 2 3 4 5]
        [--out results/popularity.json]

The default Two-Tower retriever is fitted: a race chooses its popularity weight, and
held-out items its bonus. Then it leans elsewhere in two places. In `service`, its
scores gain w T log p more than it has chosen, p the item's share of the positives and
T the temperature; w goes from -1 (away from popularity) to 1, and 0 is the default. In
`training`, the towers are fitted again with all chosen settings but these: a
`popularity_weight` of w, and no bonus behind it. Judged are lists of ten: NDCG,
novelty and coverage, and in the simulator the mean true probability of a click; all
differences to the default are paired over users. Real logs are judged on a validation
part of their training part, never on a test part.
"""

from __future__ import annotations

import argparse
import os
from copy import copy
from dataclasses import replace
from functools import partial
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
from recsys_nb.recommenders.ranker_choice import resample_mean

torch.set_num_threads(1)
IN_SERVICE = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
IN_TRAINING = (0.0, 0.5, 1.0)
DEFAULT = ("service", 0.0)
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


def fit_otherwise(retriever, weight, past):
    "The towers with all chosen settings but this weight, and no bonus behind it."
    settings = replace(
        retriever.settings_, popularity_weight=weight, popularity_bonus=0.0
    )
    return TwoTowerRetriever(settings).fit(past)


def make_variants(retriever, past):
    "The default, and retrievers that lean elsewhere, by place and weight."
    for weight in IN_SERVICE:
        yield ("service", weight), lean(retriever, weight)
    for weight in IN_TRAINING:
        yield ("training", weight), fit_otherwise(retriever, weight, past)


def find_gaps(default, report):
    "The paired differences of a report to that of the default."
    gap = compare(default, report).to_frame().set_index("metric")
    return {
        f"{metric}_{part}": float(gap.loc[metric, part])
        for metric in gap.index
        for part in ("difference", "low", "high")
    }


def find_worth(world, lists, default):
    "What lists are worth by the truth, and the difference to the default's."
    worth = click_through(world, lists)
    less = worth - click_through(world, default)
    low, high = resample_mean(less.to_numpy(), 0)
    return {
        "worth": worth.mean(),
        "worth_difference": less.mean(),
        "worth_low": low,
        "worth_high": high,
    }


def measure(name, seed):
    "A row for each place and weight."
    read = read_simulated if name == "simulated" else partial(read_real, name)
    past, truth, world = read(seed)
    retriever = TwoTowerRetriever(seed=seed).fit(past)
    users = truth.user_id.unique()
    options = {"metrics": METRICS, "k": 10, "train": past.interactions, "seed": 0}
    options["items"] = past.item_ids
    lists, reports = {}, {}
    for variant, leaning in make_variants(retriever, past):
        lists[variant] = leaning.recommend(users, k=10)
        label = " ".join(map(str, variant))
        reports[variant] = evaluate(lists[variant], truth, name=label, **options)
    chosen = retriever.settings_
    about = {
        "data": name,
        "seed": seed,
        "users": len(users),
        "chosen_weight": chosen.popularity_weight,
        "chosen_bonus": chosen.popularity_bonus,
    }
    for variant, report in reports.items():
        row = about | dict(zip(("place", "weight"), variant, strict=True))
        row |= {metric: report[f"{metric}@10"] for metric in METRICS}
        if variant != DEFAULT:
            row |= find_gaps(reports[DEFAULT], report)
        if world is not None:
            row |= find_worth(world, lists[variant], lists[DEFAULT])
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["simulated", "steam", "ml-100k", "retailrocket carts"]
    known = ["simulated", *LOGS]
    parser.add_argument("--data", nargs="+", default=default, choices=known)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, help="keep the rows in this JSON file")
    options = parser.parse_args()
    for name in options.data:
        for seed in options.seeds:
            rows = list(measure(name, seed))
            print(pd.DataFrame(rows).round(4).to_string(), flush=True)
            keep(options.out, rows, ("data", "seed"))


if __name__ == "__main__":
    main()
