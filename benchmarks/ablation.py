"""What is each setting of the Two-Tower retriever worth on a log?

    python benchmarks/ablation.py [--data movielens-100k|simulated|PATH] [--seeds 2]
        [--changes NAME ...] [--out FILE] [--cache FOLDER]

One setting is changed at a time; the difference to the default, in pairs over users.
The protocol is that of `retrieval.py --split last`: the last fifth of each user's items
is to be found, among the whole catalogue. Each user's values are averaged over seeds.
The default chooses its open settings by a race, and a change starts from what it chose.
`profile=...` are the settings that race; one of them is the default of the log. A file
keeps what it says of other logs.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from _common import keep
from retrieval import CACHE, read

from recsys_nb.evaluation import compare, evaluate
from recsys_nb.models.sampled_softmax import sampled_softmax_loss
from recsys_nb.recommenders import PROFILES, TwoTowerRetriever
from recsys_nb.recommenders.gate import new_pairs
from recsys_nb.run_data import choose_split


def unmasked(users, items, temperature, log_q, item_ids, extra):
    "The loss in which copies of an item in a batch stay, as negatives."
    extra = (*extra[:2], None)
    return sampled_softmax_loss(users, items, temperature, log_q, None, extra)


CHANGES = {
    "recency=False": {"recency": False},
    "history_length=1": {"history_length": 1},
    "dropout=0": {"dropout": 0.0},
    "n_negatives=0": {"n_negatives": 0},
    "log_q=False": {"log_q": False},
    "normalize=False": {"normalize": False},
    "temperature=0.05": {"temperature": 0.05},
    "learn_temperature=True": {"learn_temperature": True},
    "hidden_dims=(32,)": {"hidden_dims": (32,)},
    "popularity_weight=0": {"popularity_weight": 0.0},
    "popularity_weight=1": {"popularity_weight": 1.0},
    "start='random'": {"start": "random"},
    "schedule='constant'": {"schedule": "constant"},
    "copies not masked": {"loss": unmasked},
}
CHANGES |= {f"profile={name!r}": {"profile": name} for name in PROFILES}
METRICS = {"k": (10, 20), "metrics": ["ndcg", "recall"]}


def change_default(default: TwoTowerRetriever, change: dict) -> TwoTowerRetriever:
    "A retriever with the settings that the default chose, but for the change."
    if "profile" in change:
        return TwoTowerRetriever(default.settings, **change)
    # the bonus in service is fitted anew
    return TwoTowerRetriever(default.settings_, popularity_bonus=None, **change)


def judge(name, models, truth, n_items):
    "The report of models that differ in the seed, their values averaged."
    protocol = {
        "split": "last",
        "candidates": f"all {n_items:,} items",
        "seen": "left out",
    }
    users = truth.user_id.unique()
    reports = [
        evaluate(
            model.recommend(users, k=20), truth, name=name, protocol=protocol, **METRICS
        )
        for model in models
    ]
    means = {
        part: sum(getattr(report, part) for report in reports) / len(reports)
        for part in ("values", "draws", "per_user")
    }
    return replace(reports[0], **means)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--data", default="movielens-100k")
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--changes", nargs="+", default=list(CHANGES), choices=CHANGES)
    p.add_argument("--out", type=Path)
    p.add_argument("--cache", type=Path, default=CACHE)
    a = p.parse_args()
    ds = read(a.data, a.cache.expanduser().absolute())
    train, test, _, _ = choose_split(ds, "last")
    past = train.positives()
    truth, _ = new_pairs(past.interactions, test.positives().interactions)
    n_items = len(ds.item_ids)
    defaults = [TwoTowerRetriever(seed=seed).fit(past) for seed in range(a.seeds)]
    default = judge("(default)", defaults, truth, n_items)
    print(f"{ds}\n{default}\n\ndifference to the default:")
    about = {"data": ds.name, "seeds": a.seeds}
    kept = [about | {"change": "(default)", "metrics": default.to_dict()["metrics"]}]
    for name in a.changes:
        models = [change_default(m, CHANGES[name]).fit(past) for m in defaults]
        report = judge(name, models, truth, n_items)
        found = compare(default, report).to_frame()
        texts = [
            f"{x.metric}@{x.k} {x.difference:+.4f} [{x.low:+.4f}, {x.high:+.4f}]"
            for x in found.itertuples()
        ]
        print(f"{name:24}" + "   ".join(texts), flush=True)
        rows = found.drop(columns=["a", "b"]).to_dict("records")
        kept.append(about | {"change": name, "difference": rows})
    keep(a.out, kept)


if __name__ == "__main__":
    main()
