"""Is a ranker behind the retriever worth it? The whole product against its parts.

    python benchmarks/two_stages.py [--data simulated movielens-100k PATH ...]
        [--split last|time] [--size EVENTS USERS ITEMS] [--seeds 5] [--out FILE]

Three models with their default settings: the Two-Tower retriever alone;
`Recommender(ranker=None)`, several sources and a gate that chooses among them; and
`Recommender()`, in which two stages with a ranker compete as well. On logs of its own
the protocol is that of `retrieval.py`; 'simulated' is another shop for each seed
(40,000 events of 2,000 users with 600 items), cut in time. Lists are of all items of
the catalogue that a user has not had, for users with a past. Values are means over the
seeds, with 95% intervals over users (resampled, in pairs). In shops the lists have a
worth, too: the mean true probability that an item of them is clicked once it is shown.
Seconds are CPU seconds of the fit. A file keeps what it says of other logs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from _common import keep
from retrieval import CACHE, read

from recsys_nb.data import World, split_by_time
from recsys_nb.evaluation import evaluate
from recsys_nb.recommenders import Recommender, TwoTowerRetriever
from recsys_nb.recommenders.gate import new_pairs
from recsys_nb.run_data import choose_split

ALONE = "retrieval alone"
SIZE = (40_000, 2000, 600)
METRICS = ("ndcg@10", "recall@20")
MODELS = {  # of a seed; each learns from the whole training part
    ALONE: lambda seed: TwoTowerRetriever(seed=seed),
    "sources and gate": lambda seed: Recommender(ranker=None, seed=seed),
    "sources, ranker and gate": lambda seed: Recommender(seed=seed),
}
torch.set_num_threads(1)


def fit(make, train, seed):
    "A fitted model and its CPU seconds; a retriever learns from positives alone."
    model = make(seed)
    start = time.process_time()
    model.fit(train if isinstance(model, Recommender) else train.positives())
    return model, time.process_time() - start


def worth_of(lists, users, chance):
    "The mean true probability of a click in each user's first ten; None: unknown."
    if chance is None:
        return None
    first = lists[lists["rank"] <= 10]
    means = pd.Series(chance(first)).groupby(first.user_id.to_numpy()).mean()
    return means.reindex(users).to_numpy()


def contest(train, test, seed, chance):
    "What each model reaches on the test part, and how many users judge."
    past, future = train.positives(), test.positives()
    truth, counts = new_pairs(past.interactions, future.interactions)
    users = truth.user_id.unique()
    found = {}
    for name, make in MODELS.items():
        model, seconds = fit(make, train, seed)
        lists = model.recommend(users, k=20)
        report = evaluate(lists, truth, k=(10, 20), metrics=["ndcg", "recall"], seed=0)
        chosen = getattr(model, "chosen_", "Two-Tower")
        worth = worth_of(lists, users, chance)
        found[name] = {"lists": report, "worth": worth}
        found[name] |= {"seconds": seconds, "chosen": chosen}
        print(
            f"  seed {seed}: {name} ({chosen}): NDCG@10 {report['ndcg@10']:.4f}, "
            f"{seconds:.0f} CPU s",
            flush=True,
        )
    return found, counts["users_evaluated"]


def rounds(name, split, seeds, cache, size):
    "Name of the log, the two parts, seed; and in a shop the true probabilities."
    if name != "simulated":
        log = read(name, cache)
        for seed in range(seeds):
            train, test, _, _ = choose_split(log, split)
            yield log.name, train, test, seed, None
        return
    title = "shops" if size == SIZE else f"shops of {size[0]:,} events"
    for seed in range(seeds):
        world = World(*size[1:], seed=100 + seed)

        def chance(lists, world=world):
            pairs = (np.asarray(lists[c], object) for c in ("user_id", "item_id"))
            return world.click_probability(*pairs)

        train, test = split_by_time(world.sample(size[0]))
        yield title, train, test, seed, chance


def mean_worth(values):
    "The mean over shops with its interval; users and shops are independent."
    mean = np.mean([x.mean() for x in values])
    half = 1.96 * np.sqrt(sum(x.var(ddof=1) / len(x) for x in values)) / len(values)
    return {"value": float(mean), "low": float(mean - half), "high": float(mean + half)}


def mean_metric(reports, others, metric):
    "The mean of a metric, or of its differences to others, with its interval."
    values = [report[metric] for report in reports]
    draws = [report.draws[metric].to_numpy() for report in reports]
    if others:
        values = [x - y[metric] for x, y in zip(values, others, strict=True)]
        pairs = zip(draws, others, strict=True)
        draws = [x - y.draws[metric].to_numpy() for x, y in pairs]
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def tell(found, name, less=None):
    "All metrics of a model, or their differences to another's."
    reports = [seed[name]["lists"] for seed in found]
    others = [seed[less]["lists"] for seed in found] if less else []
    values = {metric: mean_metric(reports, others, metric) for metric in METRICS}
    if found[0][name]["worth"] is not None:
        worth = [seed[name]["worth"] for seed in found]
        if less:
            worth = [
                x - seed[less]["worth"] for x, seed in zip(worth, found, strict=True)
            ]
        values["worth"] = mean_worth(worth)
    return values


def make_row(about, found, name):
    "What is kept of a model."
    seconds = [seed[name]["seconds"] for seed in found]
    others = [other for other in found[0] if other != name]
    row = {"model": name, "seconds": round(float(np.mean(seconds)), 1)}
    row["chosen"] = dict(Counter(seed[name]["chosen"] for seed in found))
    row["metrics"] = tell(found, name)
    row["difference"] = {other: tell(found, name, other) for other in others}
    return about | row


def make_table(parts):
    "Metrics of models as text."
    text = "{value:.4f} [{low:.4f}, {high:.4f}]"
    rows = {
        name: {metric: text.format(**value) for metric, value in part.items()}
        for name, part in parts.items()
    }
    return pd.DataFrame(rows).T.fillna("").to_string()


def show(kept):
    "Print what is kept of a log."
    about = kept[0]
    print(
        f"\n{about['data']}, split by {about['split']}, {about['seeds']} seeds, "
        f"{about['users']} users"
    )
    print(make_table({row["model"]: row["metrics"] for row in kept}))
    rest = [row for row in kept if row["model"] != ALONE]
    print(f"less {ALONE}:")
    print(make_table({row["model"]: row["difference"][ALONE] for row in rest}))
    for row in kept:
        print(f"{row['model']}: {row['seconds']} CPU s to fit; {row['chosen']}")


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--data", nargs="+", default=["simulated"])
    p.add_argument(
        "--split",
        choices=["last", "time"],
        default="last",
        help="of logs of your own; shops are cut in time",
    )
    names = ("EVENTS", "USERS", "ITEMS")
    p.add_argument(
        "--size", type=int, nargs=3, default=SIZE, metavar=names, help="of a shop"
    )
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--out", type=Path)
    p.add_argument("--cache", type=Path, default=CACHE)
    a = p.parse_args()
    cache = a.cache.expanduser().absolute()
    for name in a.data:
        found, users, titles = [], [], []
        for title, *asked in rounds(name, a.split, a.seeds, cache, tuple(a.size)):
            one, n_users = contest(*asked)
            found.append(one)
            users.append(n_users)
            titles.append(title)
        split = "time" if name == "simulated" else a.split
        about = {"data": titles[0], "split": split, "seeds": a.seeds}
        about["users"] = int(np.mean(users))
        kept = [make_row(about, found, model) for model in MODELS]
        show(kept)
        keep(a.out, kept, of=("data", "split"))


if __name__ == "__main__":
    main()
