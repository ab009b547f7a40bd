"""What lists cost and what they are worth, by the number of candidates, the ranker and
the search, at several sizes of a catalogue. The shop is simulated, so that the worth of
a list is known: the mean true probability that an item of it is clicked.

    python benchmarks/budget.py --out benchmarks/results/budget.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import keep

from recsys_nb.data import Dataset, World, split_by_time
from recsys_nb.recommenders import (
    DLRMRanker,
    ItemKNN,
    LogisticRanker,
    Popularity,
    Recommender,
    TwoTowerRetriever,
)
from recsys_nb.serving import export, measure_budget

N_USERS = 20_000
EVENTS = {10_000: 400_000, 100_000: 1_000_000, 1_000_000: 1_000_000}
N_JUDGES = 400  # users whose lists are judged
RANKERS = {"logistic": LogisticRanker, "DLRM": DLRMRanker}


def make_shop(
    n_items: int,  # size of the catalogue
    seed: int,  # of the shop
) -> tuple[World, Dataset, pd.DataFrame]:  # the shop, its past, its future
    "A shop, and what users who are known take for the first time later on."
    world = World(N_USERS, n_items, seed=seed)
    train, test = split_by_time(world.sample(EVENTS[n_items]))
    pair = ["user_id", "item_id"]
    past = train.interactions[pair].drop_duplicates()
    future = test.positives().interactions[pair].drop_duplicates()
    both = future.merge(past, how="left", on=pair, indicator=True)
    truth = both[both["_merge"] == "left_only"][pair]
    truth = truth[truth.user_id.isin(past.user_id)]
    judges = pd.Series(truth.user_id.unique()).sample(N_JUDGES, random_state=seed)
    return world, train, truth[truth.user_id.isin(judges)]


def make_model(
    ranker: str,  # a name of RANKERS
    exact_to: int,  # catalogue size above which the search is approximate
    seed: int,  # of training
) -> Recommender:  # not fitted
    "Three sources and a ranker."
    tower = {"dim": 64, "profile": "noisy", "epochs": 6, "seed": seed}
    sources = {
        "Popularity": Popularity(),
        "ItemKNN": ItemKNN(),
        "Two-Tower": TwoTowerRetriever(**tower, exact_to=exact_to),
    }
    settings = {"seed": seed, "answer": "two stages", "candidates": 100}
    return Recommender(sources, ranker=RANKERS[ranker](seed=seed), **settings)


def run_size(
    n_items: int,  # size of the catalogue
    seed: int,  # of the shop and of training
) -> list[dict]:  # rows of results
    "All rankers at one size."
    world, train, truth = make_shop(n_items, seed)

    def worth(lists: pd.DataFrame) -> np.ndarray:
        pairs = (lists[column].to_numpy(object) for column in ("user_id", "item_id"))
        return world.click_probability(*pairs)

    rows = []
    exact_to = 50_000
    for ranker in RANKERS:
        start = time.process_time()
        model = make_model(ranker, exact_to, seed).fit(train)
        seconds = time.process_time() - start
        with tempfile.TemporaryDirectory() as tmp:
            folder = export(model, Path(tmp) / "shop")
            table = measure_budget(folder, truth, worth=worth)
        about = {
            "items": n_items,
            "search": "index" if n_items > exact_to else "exact",
            "ranker": ranker,
            "users": truth.user_id.nunique(),
            "fit_cpu_seconds": round(seconds),
        }
        rows += [about | row for row in table.round(5).to_dict("records")]
        print(f"{about}\n{table.round(4)}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for n_items in options.items:
        rows = run_size(n_items, options.seed)
        keep(options.out, rows, ("items", "ranker", "candidates"))


if __name__ == "__main__":
    main()
