"""Peak memory and CPU time of the large cases, each in a process of its own.

    python benchmarks/memory.py [CASE ...]

Writes benchmarks/results/memory.json, one row per case. What takes time and no memory
is cut short for a large catalogue: the held-out items are scored in slices, so 128 of
them (three slices) need what 2,000 need; and the k-means of an index makes one pass,
which needs what ten need. These cases train for one epoch; from the second on the best
weights stand beside the present ones, so the whole fit, a case of its own that takes
minutes, needs more.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import faiss
import numpy as np
import pandas as pd
from _common import keep, memory, run

from recsys_nb.data import Dataset
from recsys_nb.recommenders.baselines import ItemKNN
from recsys_nb.recommenders.feature_tables import FeatureTable
from recsys_nb.recommenders.retriever import TwoTowerRetriever

RESULTS = Path(__file__).parent / "results" / "memory.json"


def make_log(
    n_users: int,  # each with about `each` items
    n_items: int,  # all of them in the log
    each: int = 10,  # positives per user
    seed: int = 0,  # of the random pairs
) -> Dataset:
    "A random log with times in which every item occurs where there are enough rows."
    rng = np.random.default_rng(seed)
    size = n_users * each
    start = 1_700_000_000
    log = {
        "user_id": rng.permutation(size) % n_users,
        "item_id": rng.integers(0, n_items, size),
        "timestamp": start + rng.integers(0, 30 * 86_400, size),
    }
    return Dataset(pd.DataFrame(log), items=pd.DataFrame({"item_id": range(n_items)}))


HELD_OUT = 128  # of which a slice of 400,000 items scores 41 at a time
plain_factory = faiss.index_factory


def make_quick_index(*description) -> faiss.Index:
    "An index whose k-means makes one pass."
    index = plain_factory(*description)
    index.cp.niter = 1
    return index


def fit_retriever(n_items: int, n_users: int, **settings):
    "One epoch of a Two-Tower over a large catalogue."
    log = make_log(n_users, n_items)
    model = TwoTowerRetriever(epochs=1, valid_positives=HELD_OUT, **settings)

    def fit():
        with patch.object(faiss, "index_factory", make_quick_index):
            model.fit(log)

    return fit


def fit_whole(n_items: int, n_users: int):
    "A Two-Tower over a large catalogue with nothing set."
    log = make_log(n_users, n_items)
    return lambda: TwoTowerRetriever().fit(log)


def fit_one_profile(n_items: int, n_users: int):
    "The same without a race of profiles."
    return fit_retriever(n_items, n_users, profile="sparse")


def read_titles(n_items: int):
    "The features of items with titles, one of which has a vertical bar."
    titles = [f"title {n}" for n in range(n_items)]
    titles[7] = "Alien | Aliens"
    table = pd.DataFrame({"item_id": range(n_items), "title": titles})
    return lambda: FeatureTable(table, "item_id", np.arange(n_items), n_items)


def fit_neighbours(longest: int):
    "ItemKNN on a log in which one user has very many items."
    many = pd.DataFrame({"user_id": -1, "item_id": range(longest)})
    seconds = 1_700_000_000 + np.arange(longest)
    many["timestamp"] = pd.to_datetime(seconds, unit="s")
    others = make_log(3_000, longest).interactions
    log = Dataset(pd.concat([many, others[many.columns]], ignore_index=True))
    return lambda: ItemKNN().fit(log)


# case -> the function that prepares it, its arguments, the limit of its peak in GiB
CASES = {
    "retriever of 400,000 items": (fit_retriever, (400_000, 12_000), 1.5),
    "one profile of 400,000 items": (fit_one_profile, (400_000, 12_000), 1.5),
    "nothing set, 400,000 items": (fit_whole, (400_000, 12_000), 1.5),
    "20,000 titles, one with a bar": (read_titles, (20_000,), 1.0),
    "60,000 titles, one with a bar": (read_titles, (60_000,), 1.0),
    "ItemKNN, a user of 3,000 items": (fit_neighbours, (3_000,), 1.0),
    "ItemKNN, a user of 30,000 items": (fit_neighbours, (30_000,), 1.0),
}


def measure(
    case: str,  # a key of CASES
) -> dict:  # peaks in GiB, seconds of CPU
    "The peak of a case, in this process."
    prepare, arguments, limit = CASES[case]
    work = prepare(*arguments)
    before, start = memory("VmHWM"), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work()
    return {
        "case": case,
        "before_gib": round(before / 1024, 3),
        "peak_gib": round(memory("VmHWM") / 1024, 3),
        "limit_gib": limit,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", default=list(CASES))
    parser.add_argument("--worker", metavar="CASE", help="measure in this process")
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker)))
        return
    for case in arguments.cases:
        row = run(__file__, sys.executable, case)
        print(row)
        keep(RESULTS, [row], of=("case",))


if __name__ == "__main__":
    main()
