"""What is each setting of the Two-Tower retriever worth on a log? One setting is changed at a time; the difference to the default, in pairs over users.

    python benchmarks/ablation.py [--data movielens-100k|simulated|PATH] [--seeds 2] [--out FILE] [--cache FOLDER]

The protocol is that of `retrieval.py --split last`: the last fifth of each user's items is to be found, among the whole catalogue. Each user's values are averaged over the seeds.
`USUAL[...]` are the settings that a retriever takes by itself for logs with few or with many positives a user; one of the two is the default of the log. A file keeps what it says of other logs.
"""
from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"): os.environ.setdefault(threads, "1")

import recsys_nb.recommend as r
from recsys_nb.cli import choose_split, new_pairs
from recsys_nb.metrics import compare, evaluate
from _common import keep
from retrieval import CACHE, read

CHANGES = {"(default)": {}, "recency=False": {"recency": False}, "history=1": {"history": 1}, "dropout=0": {"dropout": 0.}, "n_extra=0": {"n_extra": 0},
    "log_q=False": {"log_q": False}, "normalize=False": {"normalize": False}, "temperature=0.05": {"temperature": .05}, "learn_temperature=True": {"learn_temperature": True},
    "hidden_dims=(32,)": {"hidden_dims": (32,)}, "prior=0": {"prior": 0.}, "prior=1": {"prior": 1.},
    "copies not masked": {}} | {f"USUAL[{name!r}]": settings for name, settings in r.USUAL.items()}
loss = r.sampled_softmax_loss


def unmasked(u, v, T, q, items, extra): return loss(u, v, T, q, None, (*extra[:2], None))


def judge(change, seeds, past, truth, n_items):
    "The report with one setting changed, its values averaged over the seeds."
    protocol = {"split": "last", "candidates": f"all {n_items:,} items", "seen": "left out"}
    with patch.object(r, "sampled_softmax_loss", unmasked if change == "copies not masked" else loss):
        models = [r.TwoTowerRetriever(seed=seed, **CHANGES[change]).fit(past) for seed in range(seeds)]
    reports = [evaluate(m.recommend(truth.user_id.unique(), k=20), truth, k=(10, 20), metrics=["ndcg", "recall"], name=change, protocol=protocol) for m in models]
    mean = lambda part: sum(getattr(x, part) for x in reports) / seeds
    return replace(reports[0], values=mean("values"), draws=mean("draws"), per_user=mean("per_user"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="movielens-100k"); p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--out", type=Path); p.add_argument("--cache", type=Path, default=CACHE)
    a = p.parse_args()
    ds = read(a.data, a.cache.expanduser().absolute()); train, test, _, _ = choose_split(ds, "last"); past = train.positives()
    truth, _ = new_pairs(past.interactions, test.positives().interactions)
    default, kept = judge("(default)", a.seeds, past, truth, len(ds.item_ids)), []
    print(f"{ds}\n{default}\n\ndifference to the default:")
    for change in list(CHANGES)[1:]:
        found = compare(default, judge(change, a.seeds, past, truth, len(ds.item_ids))).to_frame()
        print(f"{change:24}" + "".join(f"{x.metric}@{x.k} {x.difference:+.4f} [{x.low:+.4f}, {x.high:+.4f}]   " for x in found.itertuples()), flush=True)
        kept.append({"data": ds.name, "seeds": a.seeds, "change": change, "difference": found.drop(columns=["a", "b"]).to_dict("records")})
    keep(a.out, [{"data": ds.name, "change": "(default)", "metrics": default.to_dict()["metrics"]}, *kept])


if __name__ == "__main__": main()
