"""Somebody who came after training, known by a few events, against the same person
trained in.

    OMP_NUM_THREADS=1 python benchmarks/new_users.py [--data movielens-100k or PATH]
    [--events 5] [--seeds 5] [--cache FOLDER]

A tenth of the users is held out. Their first positives (ratings of 4 and more, where
there are ratings) are given as events to a retriever that has
never met them; another retriever has these events, and only these, in its training log.
Both are judged on all that these users took later, among all
items but the given ones.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from retrieval import CACHE, read

from recsys_nb.evaluation import compare, evaluate
from recsys_nb.recommenders import TwoTowerRetriever


def parts(ds, events, seed):
    """The other users' positives, and the first `events` and the later positives of a
    tenth of the users."""
    log = ds.positives().interactions.drop_duplicates(["user_id", "item_id"])
    log = log.sort_values("timestamp", kind="stable")
    able = (
        log.user_id.value_counts()
        .loc[lambda n: n > events]
        .index.sort_values()
        .to_numpy()
    )
    chosen = log.user_id.isin(
        np.random.default_rng(seed).permutation(able)[: len(able) // 10]
    )
    first = log.groupby("user_id").cumcount() < events
    return log[~chosen], log[chosen & first], log[chosen & ~first]


def one(ds, events, seed):
    others, given, truth = parts(ds, events, seed)

    def fitted(log):
        return TwoTowerRetriever(seed=seed).fit(ds.replace(log.sort_index()))

    lists = {
        "by events": fitted(others).recommend(events=given, k=10),
        "trained in": fitted(pd.concat([others, given])).recommend(
            given.user_id.unique(), k=10
        ),
    }
    protocol = {
        "split": f"a tenth of the users after {events} events",
        "candidates": f"all {len(ds.item_ids):,} items",
        "seen": "left out",
    }
    return [
        evaluate(x, truth, k=10, metrics="ndcg", name=name, protocol=protocol)
        for name, x in lists.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="movielens-100k")
    parser.add_argument("--events", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args()
    ds = read(args.data, args.cache)
    found = [one(ds, args.events, seed) for seed in range(args.seeds)]
    for new, known in found:
        row = compare(known, new).to_frame().iloc[0]
        gap = row[["difference", "low", "high"]].round(4).to_dict()
        print(
            f"{len(new.per_user)} users: NDCG@10 {new['ndcg@10']:.4f} by events, "
            f"{known['ndcg@10']:.4f} trained in; {gap}"
        )
    a, b = np.mean([[new["ndcg@10"], known["ndcg@10"]] for new, known in found], axis=0)
    print(
        f"mean of {args.seeds} seeds: {a:.4f} by events, {b:.4f} trained in: "
        f"{a / b - 1:+.1%}"
    )
