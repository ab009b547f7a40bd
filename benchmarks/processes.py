"""Training of the retriever and of the ranker by one process and by two, on one
machine: seconds of the clock and of the processors, and the metrics of the same test
data, seed by seed.

`python benchmarks/processes.py [--users 2000 --items 1000 --events 40000 --seeds 5
--epochs 0]`

With `--epochs N` both models train exactly N epochs, so that early stopping does not
decide. A seed gives both runs the same start and the same batches;
what differs is what the second process draws: dropout and hidden parts of histories. So
the differences of the metrics are taken seed by seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from scipy import stats

from recsys_nb.data import simulate, split_by_time
from recsys_nb.evaluation import evaluate, ranker_metrics
from recsys_nb.recommenders import DLRMRanker, TwoTowerRetriever
from recsys_nb.recommenders.gate import new_pairs
from recsys_nb.training.processes import together


def clocked(fit) -> tuple[float, float]:
    "Seconds of the clock, and of the processors in all processes."
    wall, cpu = time.perf_counter(), time.process_time()
    fit()
    took = torch.tensor([time.process_time() - cpu])
    if dist.is_initialized():
        dist.all_reduce(took)
    return time.perf_counter() - wall, took.item()


def worker(o, seed: int):
    "Fit both models; the first process prints what came out as JSON."
    torch.set_num_threads(1)
    train, test = split_by_time(simulate(o.users, o.items, o.events, seed=1))
    s = {"seed": seed} | (
        {"epochs": o.epochs, "patience": o.epochs} if o.epochs else {}
    )
    retriever, ranker, out = TwoTowerRetriever(**s), DLRMRanker(**s), {}
    with together() as rank:
        for name, fit in [
            ("retriever", lambda: retriever.fit(train.positives())),
            ("ranker", lambda: ranker.fit(train, retriever)),
        ]:
            out[f"{name} wall"], out[f"{name} CPU"] = clocked(fit)
    out["retriever epochs"] = len(retriever.result_.epochs)
    if rank:
        return
    past = train.positives().interactions
    truth, _ = new_pairs(past, test.positives().interactions)
    lists = retriever.recommend(truth.user_id.unique(), k=20)
    shown = test.labelled()
    shown = shown[shown.item_id.isin(retriever.item_ids_)]
    out["NDCG@10"] = evaluate(lists, truth, k=(10, 20), n_boot=10)["ndcg@10"]
    out["AUC"] = ranker_metrics(
        shown.label, ranker.predict(shown), shown.user_id, n_boot=10
    )["auc"]
    print(json.dumps(out))


def run(processes: int, seed: int, words: list[str]) -> dict:
    how = (
        [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
        ]
        if processes > 1
        else []
    )
    done = subprocess.run(
        [sys.executable, *how, __file__, "--worker", str(seed), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return {"processes": processes, "seed": seed} | json.loads(
        done.stdout.splitlines()[-1]
    )


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--worker", type=int)
    for name, n in [
        ("users", 2000),
        ("items", 1000),
        ("events", 40_000),
        ("seeds", 5),
        ("epochs", 0),
    ]:
        p.add_argument(f"--{name}", type=int, default=n)
    o = p.parse_args()
    words = [
        w
        for name in ("users", "items", "events", "epochs")
        for w in (f"--{name}", str(getattr(o, name)))
    ]
    if o.worker is not None:
        return worker(o, o.worker)
    print(
        f"torch {torch.__version__}, {os.cpu_count()} processors, {o.users:,} users, "
        f"{o.items:,} items, {o.events:,} events; one thread a process",
        flush=True,
    )
    rows = []
    for seed in range(o.seeds):
        for n in (1, 2):
            rows.append(run(n, seed, words))
            print(rows[-1], file=sys.stderr, flush=True)
    df = pd.DataFrame(rows)
    print(df.set_index(["processes", "seed"]).sort_index().round(4).to_string())
    mean, metrics = df.groupby("processes").mean(), ["NDCG@10", "AUC"]
    for name in ("retriever", "ranker"):
        print(
            f"{name}: two processes take "
            f"{mean.loc[2, f'{name} wall'] / mean.loc[1, f'{name} wall']:.2f} of the "
            f"time and {mean.loc[2, f'{name} CPU'] / mean.loc[1, f'{name} CPU']:.2f} "
            "of the CPU seconds of one"
        )
    for m in metrics:
        d = df.pivot(index="seed", columns="processes", values=m)
        gap = d[2] - d[1]
        half = (
            stats.t.ppf(0.975, len(d) - 1) * gap.std() / np.sqrt(len(d))
            if len(d) > 1
            else np.nan
        )
        print(
            f"{m}: one {d[1].mean():.4f}, from {d[1].min():.4f} to {d[1].max():.4f} "
            f"over seeds; two {d[2].mean():.4f}, from {d[2].min():.4f} to "
            f"{d[2].max():.4f}; "
            f"difference seed by seed {gap.mean():+.4f}, 95% interval "
            f"{gap.mean() - half:+.4f} to {gap.mean() + half:+.4f}"
        )


if __name__ == "__main__":
    main()
