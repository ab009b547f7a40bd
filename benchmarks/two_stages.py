"""Is a ranker behind the retriever worth it, and by which examples should it learn? Two stages against retrieval alone, in pairs over users.

    python benchmarks/two_stages.py [--data simulated movielens-100k PATH ...] [--split last|time] [--size EVENTS USERS ITEMS] [--seeds 5] [--out FILE]

All models have their default settings. On logs of its own the protocol is that of `retrieval.py`; 'simulated' is another shop for each seed (40,000 events of
2,000 users with 600 items), cut in time. Lists are of all items of the catalogue that a user has not had, for users with a past. AUC is of what was shown
(or rated) in the test part, with what was known at the end of training. Values are means over the seeds, with 95% intervals over users (resampled, in pairs);
fits that rankers share are done once, and their CPU seconds count for each. In shops the lists have a worth, too: the mean true probability that an item of
them is clicked once it is shown. A file keeps what it says of other logs.
"""
from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"): os.environ.setdefault(threads, "1")

import numpy as np
import pandas as pd
import torch

from recsys_nb.cli import choose_split, new_pairs
from recsys_nb.data import split_by_time
from recsys_nb.metrics import evaluate, ranker_metrics
from recsys_nb.recommenders import DLRMRanker, Recommender, TwoTowerRetriever, _with_ids
from recsys_nb.simulate import World
from _common import keep
from retrieval import CACHE, read

ALONE, SIZE = "retrieval alone", (40_000, 2000, 600)
EXAMPLES = "auto", "exposures", "candidates"
torch.set_num_threads(1)


def timed(f, *args):
    "What f gives, and its CPU seconds."
    start = time.process_time(); found = f(*args)
    return found, time.process_time() - start


def rankers(train, retriever, seed):
    "A fitted ranker of each kind, and its CPU seconds; the retrievers of the halves are fitted once."
    halves, shared = timed(lambda: list(DLRMRanker(seed=seed)._halves(train, retriever)))
    class Told(DLRMRanker):
        def _halves(self, ds, retriever): return halves
    for name in EXAMPLES:
        ranker, seconds = timed(Told(seed=seed, examples=name).fit, train, retriever)
        yield name, ranker, seconds + shared


def contest(train, test, seed, chance):
    "For each model: reports of its lists and of its probabilities, the worth of its lists by user, and CPU seconds; and the number of users."
    train = _with_ids(train); past = train.positives()
    truth, counts = new_pairs(past.interactions, test.positives().interactions)
    shown = test.labelled(); shown = shown[shown.item_id.isin(past.item_ids) & shown.user_id.isin(past.interactions.user_id)]
    ask, clicks = truth.user_id.unique(), lambda p: ranker_metrics(shown.label, p, shown.user_id, seed=0)

    def judged(model, p, seconds):
        lists = model.recommend(ask, k=20); first = lists[lists["rank"] <= 10]
        worth = pd.Series(chance(first)).groupby(first.user_id.to_numpy()).mean().reindex(ask).to_numpy() if chance else None
        report = evaluate(lists, truth, k=(10, 20), metrics=["ndcg", "recall"], seed=0)
        print(f"  seed {seed}: NDCG@10 {report['ndcg@10']:.4f}, {seconds:.0f} CPU s", flush=True)
        return {"lists": report, "shown": None if p is None else clicks(p), "worth": worth, "seconds": seconds}

    retriever, seconds = timed(TwoTowerRetriever(seed=seed).fit, past)
    found = {ALONE: judged(retriever, None, seconds)}
    for name, ranker, s in rankers(train, retriever, seed):
        found[name] = judged(Recommender(retriever, ranker)._adopt(), ranker.predict(shown), seconds + s)
    if chance: # what no model can beat but by luck
        true = chance(shown, shown.position.to_numpy(), shown.timestamp.to_numpy())
        found["truth"] = {"lists": None, "shown": clicks(true), "worth": None, "seconds": 0.}
    return found, counts["users_evaluated"]


def rounds(name, split, seeds, cache, size):
    "What each seed is asked: a training part, a test part, the seed, and in a shop the true probabilities."
    ds = None if name == "simulated" else read(name, cache)
    for seed in range(seeds):
        if ds is not None: yield ds.name, *choose_split(ds, split)[:2], seed, None; continue
        world = World(*size[1:], seed=100 + seed); true = world.click_probability
        chance = lambda f, *context, true=true: true(np.asarray(f.user_id, object), np.asarray(f.item_id, object), *context)
        yield "shops" if size == SIZE else f"shops of {size[0]:,} events", *split_by_time(world.sample(size[0])), seed, chance


def mean_of(found, name, metric, of, less=None):
    "A metric of a model, or its difference to another's: the mean over the seeds with its 95% interval over users. None where there is none."
    pairs = [(f[name][of], f[less][of] if less else 0) for f in found]
    if any(x is None for pair in pairs for x in pair): return None
    if of == "worth": # users and shops are independent: a normal interval
        d = [a - b for a, b in pairs]; value = np.mean([x.mean() for x in d]); half = 1.96 * np.sqrt(sum(x.var(ddof=1) / len(x) for x in d)) / len(d)
        return {"value": float(value), "low": float(value - half), "high": float(value + half)}
    value = np.mean([a[metric] - (b[metric] if less else 0) for a, b in pairs])
    low, high = np.quantile(np.mean([a.draws[metric].to_numpy() - (b.draws[metric].to_numpy() if less else 0) for a, b in pairs], 0), [.025, .975])
    return {"value": float(value), "low": float(low), "high": float(high)}


def told(found, name, less=None):
    "All metrics of a model, or their differences to another's."
    metrics = {"ndcg@10": "lists", "recall@20": "lists", "auc": "shown", "log_loss": "shown", "worth": "worth"}
    values = {m: mean_of(found, name, m, of, less) for m, of in metrics.items()}
    return {m: v for m, v in values.items() if v is not None}


def show(kept):
    "Print what is kept of a log."
    table = lambda part: pd.DataFrame({r["model"]: {k: "{value:.4f} [{low:.4f}, {high:.4f}]".format(**v) for k, v in part(r).items()} for r in kept}).T.fillna("")
    first, alone = kept[0], lambda r: r["difference"].get(ALONE, {})
    print(f"\n{first['data']}, split by {first['split']}, {first['seeds']} seeds, {first['users']} users", table(lambda r: r["metrics"]).to_string(), sep="\n")
    print(f"less {ALONE}:", table(alone).to_string(), "CPU seconds to fit: " + ", ".join(f"{r['model']} {r['seconds']}" for r in kept), sep="\n", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", nargs="+", default=["simulated"])
    p.add_argument("--split", choices=["last", "time"], default="last", help="of logs of your own; shops are cut in time")
    p.add_argument("--size", type=int, nargs=3, default=SIZE, metavar=("EVENTS", "USERS", "ITEMS"), help="of a shop")
    p.add_argument("--seeds", type=int, default=5); p.add_argument("--out", type=Path); p.add_argument("--cache", type=Path, default=CACHE)
    a = p.parse_args()
    for name in a.data:
        found, users = [], []
        for log, *asked in rounds(name, a.split, a.seeds, a.cache.expanduser().absolute(), tuple(a.size)):
            one, n = contest(*asked); found.append(one); users.append(n)
        about = {"data": log, "split": "time" if name == "simulated" else a.split, "seeds": a.seeds, "users": int(np.mean(users))}
        kept = [about | {"model": m, "seconds": round(float(np.mean([f[m]["seconds"] for f in found])), 1), "metrics": told(found, m),
            "difference": {other: told(found, m, other) for other in found[0] if other != m}} for m in found[0]]
        show(kept)
        keep(a.out, kept, of=("data", "split"))


if __name__ == "__main__": main()
