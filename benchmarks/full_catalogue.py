"""The k best of the whole catalogue for every user, in bounded memory:
`BaseRecommender.recommend` against the naive way, in one run.

    python benchmarks/full_catalogue.py [--users 100000] [--items 100000] [--dim 64]
    [--k 20] [--budget-gib 1] [--sample 2000]

The model is two tables of random vectors; each user has a history of about 20 items,
which must not be recommended. The naive way makes the whole score matrix of a sample of
users,
blanks what was seen user by user, and sorts (or argpartitions) whole rows; its time is
scaled up from the sample, and so is the memory of its matrix. Times are CPU seconds on
one thread;
"MB extra" is what the process grew by beyond the fitted model (resident set, sampled).
For the sampled users every list is checked against the naive scores:
nothing seen, nothing better left out, beyond the rounding of float32.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from functools import partial

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
import pandas as pd
import psutil

from recsys_nb.data import Dataset
from recsys_nb.recommenders import BaseRecommender


class Vectors(BaseRecommender):
    "Random vectors: the dot product is the score."

    def __init__(self, dim):
        self.dim = dim

    def learn(self, train):
        rng = np.random.default_rng(1)
        self.user, self.item = (
            rng.normal(size=(len(ids), self.dim)).astype(np.float32)
            for ids in (self.user_ids_, self.item_ids_)
        )

    def score_all(self, h):
        return self.user[h.rows] @ self.item.T


def shop(n_users, n_items, length):
    "Histories of `length` distinct items a user."
    rng = np.random.default_rng(0)
    items = (
        rng.integers(n_items, size=(n_users, 1))
        + np.cumsum(
            rng.integers(1, n_items // (2 * length), size=(n_users, length)), axis=1
        )
    ) % n_items
    log = pd.DataFrame(
        {"user_id": np.repeat(np.arange(n_users), length), "item_id": items.ravel()}
    )
    return Dataset(
        log,
        users=pd.DataFrame({"user_id": np.arange(n_users)}),
        items=pd.DataFrame({"item_id": np.arange(n_items)}),
    )


def measured(f):
    """What `f` returns, its CPU seconds and the megabytes by which the process grew at
    most."""
    process = psutil.Process()
    start, peak, done = process.memory_info().rss, [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss - start)

    thread = threading.Thread(target=watch)
    thread.start()
    t = time.process_time()
    try:
        out = f()
    finally:
        t = time.process_time() - t
        peak[0] = max(peak[0], process.memory_info().rss - start)
        done.set()
        thread.join()
    return out, t, peak[0] / 1e6


def score(model, users):
    "All scores, 500 users at a time; one of each part is kept."
    parts = np.array_split(users, max(1, len(users) // 500))
    return [(model.user[some] @ model.item.T)[0, 0] for some in parts]


def seen_items(model, user):
    "Codes of the items of one user's history."
    start, end = model.histories_.offsets[user : user + 2]
    return model.histories_.items[start:end]


def naive(model, users, k, sort):
    "Whole matrix, a loop over users, whole rows."
    scores = model.user[users] @ model.item.T
    for row, user in enumerate(users):
        scores[row, seen_items(model, user)] = -np.inf
    if sort:
        return np.argsort(-scores, axis=1)[:, :k]
    best = np.argpartition(-scores, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
    return np.take_along_axis(best, order, 1)


def checked(model, lists, users, k):
    """The share of positions that hold the naive way's item; an error where a list is
    wrong by more than rounding."""
    same = 0
    for some in np.array_split(users, max(1, len(users) // 200)):
        got = lists[lists.user_id.isin(some)].item_id.to_numpy().reshape(len(some), k)
        scores = model.user[some] @ model.item.T
        want = naive(model, some, k, True)
        for row, u in enumerate(some):
            seen = seen_items(model, u)
            again = np.isin(got[row], seen).any()
            assert not again, f"user {u} is recommended what was seen"
            left = scores[row].copy()
            left[seen] = -np.inf
            mine = left[got[row]]
            left[got[row]] = -np.inf
            falls = (np.diff(mine) <= 1e-4).all()
            best = mine.min() >= left.max() - 1e-4
            whole = len(set(got[row])) == k
            assert whole and best and falls, f"user {u}'s list is not the best"
        same += (got == want).sum()
    return same / (len(users) * k)


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag, default in (
        ("--users", 100_000),
        ("--items", 100_000),
        ("--dim", 64),
        ("--k", 20),
        ("--history", 20),
        ("--sample", 2000),
    ):
        p.add_argument(flag, type=int, default=default)
    p.add_argument("--budget-gib", type=float, default=1.0)
    a = p.parse_args()
    model = Vectors(a.dim).fit(shop(a.users, a.items, a.history))
    model.recommend([0], k=a.k)
    users = np.sort(
        np.random.default_rng(2).choice(a.users, min(a.sample, a.users), replace=False)
    )
    times = a.users / len(users)
    print(
        f"the {a.k} best of {a.items:,} items for each of {a.users:,} users, {a.dim} "
        f"dimensions, {a.history} seen items a user, budget {a.budget_gib:g} GiB\n"
    )
    print(f"{'':<52}{'CPU s':>9}{'ratio':>8}{'MB extra':>11}")
    lists, ours, peak = measured(
        lambda: model.recommend(k=a.k, budget_gib=a.budget_gib)
    )
    print(f"{'recommend, all users':<52}{ours:>9.1f}{1:>8.2f}{peak:>11,.0f}")
    product = times * min(measured(lambda: score(model, users))[1] for _ in range(5))
    what = f"scores alone, {len(users):,} users, best of 5, scaled up"
    print(f"{what:<52}{product:>9.1f}{product / ours:>8.2f}{'':>11}")
    for how, sort in (("argsort", True), ("argpartition", False)):
        some = users[: len(users) if not sort else len(users) // 4]
        more = a.users / len(some)
        _, t, grew = measured(partial(naive, model, some, a.k, sort))
        what = f"naive, {how}, {len(some):,} users, scaled up"
        figures = f"{more * t:>9.1f}{more * t / ours:>8.2f}{more * grew:>11,.0f}"
        print(f"{what:<52}{figures}")
    same = checked(model, lists, users[:500], a.k)
    print(
        f"\nchecked for {len(users[:500])} users: nothing seen, nothing better left "
        f"out; {same:.3%} of the places hold the naive way's item, the others one of "
        "equal score but for rounding"
    )
    if peak > a.budget_gib * 1073.741824:
        raise SystemExit(f"the peak of {peak:,.0f} MB is above the budget")


if __name__ == "__main__":
    main()
