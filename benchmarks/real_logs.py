"""The default product and every baseline on real logs, with default settings.

    python benchmarks/real_logs.py [--data steam anime ...] [--seeds 3]
        [--models Recommender ALS ...] [--trials N] [--threads 1] [--out FILE]

Each log and seed runs in a process of its own. The split is the one that
`recsys-nb run` would choose, or the official one where a log comes split; lists are of
all items that a user has not had. The default `Recommender` is fitted once; the sources
that it has fitted to the whole training part are judged as they are, and so are the
baselines that are named. A row of the file says what was measured, so that a run can be
continued log by log. RECSYS_NB_DATA names the folder in which the logs lie.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from _common import memory

from recsys_nb.data import Dataset, load, split_leave_last_out
from recsys_nb.metrics import evaluate
from recsys_nb.recommenders import BASELINES, Recommender, tune
from recsys_nb.recommenders.gate import new_pairs, split_as_served

ROOT = Path(os.environ.get("RECSYS_NB_DATA", "data"))
OUT = Path(__file__).parent / "results" / "real_logs.json"
KS = (10, 20)


@dataclass
class Log:
    "A log in two parts."

    train: Dataset
    test: Dataset
    protocol: str


def read_pairs(file: str, **options) -> Dataset:
    "User and item of a table without times."
    frame = pd.read_csv(ROOT / file, **options)
    frame = frame.iloc[:, :2].set_axis(["user_id", "item_id"], axis=1)
    return Dataset(
        frame.drop_duplicates(ignore_index=True), name=Path(file).parent.name
    )


def read_events(file: str, *kinds: str) -> Dataset:
    "Events of some kinds, with times."
    frame = pd.read_csv(ROOT / file)
    frame = frame[frame.event.isin(kinds)].reset_index(drop=True)
    columns = {"user": "user", "item": "item", "timestamp": "ts"}
    return Dataset.from_frame(frame, **columns, name=Path(file).parent.name)


def split_log(log: Dataset, seed: int) -> Log:
    "Split as `recsys-nb run` does."
    train, test, kind, _ = split_as_served(log, seed=seed)
    return Log(train, test, f"split by {kind}, a fifth")


def read_given(folder: str) -> Log:
    "The official split of a folder with train.txt and test.txt."
    train, test = load(ROOT / folder, format="user-lists")
    return Log(train, test, "official split")


def read_sequences(file: str) -> Log:
    "The last item of each sequence is the test."
    log = load(ROOT / file, format="sequences")
    train, test = split_leave_last_out(log)
    return Log(train, test, "leave last out")


SPLIT_SEED = 42  # of random splits: the seeds that vary are those of the models


def split_pairs(file: str) -> Log:
    return split_log(read_pairs(file, sep="\t"), SPLIT_SEED)


def split_events(file: str, *kinds: str) -> Log:
    return split_log(read_events(file, *kinds), SPLIT_SEED)


def leave_last_out(name: str) -> Log:
    return Log(*split_leave_last_out(load(name)), "leave last out")


LOGS = {
    "steam": lambda: split_pairs("steam/game_purchase.dat"),
    "anime": lambda: split_pairs("anime/anime_history.dat"),
    "tmall buys": lambda: split_events("tmall/events.csv.gz", "buy"),
    "tmall carts": lambda: split_events("tmall/events.csv.gz", "cart"),
    "retailrocket": lambda: split_events("retailrocket/events.csv", "cart", "buy"),
    "movielens-small": lambda: split_log(load("movielens-small"), SPLIT_SEED),
    "movielens-100k": lambda: split_log(load("movielens-100k"), SPLIT_SEED),
    "yelp2018": lambda: read_given("yelp2018"),
    "gowalla": lambda: read_given("gowalla"),
    "toys": lambda: read_sequences("toys/sequences.txt"),
    "beauty": lambda: read_sequences("beauty/sequences.txt"),
    "sports": lambda: read_sequences("sports/sequences.txt"),
    "movielens-1m": lambda: leave_last_out("movielens-1m"),
}


class Clock:
    "CPU and wall seconds of a block."

    def __enter__(self):
        self.start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error):
        self.cpu = round(time.process_time() - self.start[0], 1)
        self.wall = round(time.perf_counter() - self.start[1], 1)


def judge(model, truth: pd.DataFrame) -> dict:
    "Metrics of a model's lists of new items."
    users = truth.user_id.unique()
    lists = model.recommend(users, k=max(KS))
    names = ["ndcg", "recall", "hit_rate"]
    report = evaluate(lists, truth, k=KS, metrics=names, n_boot=200, seed=0)
    table = report.to_frame()
    found = {}
    for name in report.values.index:
        row = table[(table.metric == name.split("@")[0])]
        row = row[row.k == int(name.split("@")[1])].iloc[0]
        found[name] = round(float(row.value), 5)
        found[f"{name} low"] = round(float(row.low), 5)
        found[f"{name} high"] = round(float(row.high), 5)
    return found


def measure(data: str, seed: int, baselines: list[str], trials: int) -> list[dict]:
    "Rows of one log and seed."
    log = LOGS[data]()
    past = log.train.positives().interactions
    truth, counts = new_pairs(past, log.test.positives().interactions)
    about = {"data": data, "protocol": log.protocol, "seed": seed}
    about |= {"users": counts["users_evaluated"], "items": len(log.train.item_ids)}
    rows = []

    def add(model: str, fitted, clock: Clock, **more):
        row = about | {"model": model, "tuned": False, "metrics": judge(fitted, truth)}
        row |= {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
        row |= {"peak_mib": round(memory("VmHWM"))} | more
        rows.append(row)
        print(json.dumps(row), flush=True)

    done = []
    if "Recommender" in baselines:
        with Clock() as clock:
            product = Recommender(seed=seed, say=print_note).fit(log.train)
        about_gate = {"chosen": product.chosen_, "gate": product.summary().to_dict()}
        add("Recommender", product, clock, **about_gate)
        none = Clock()
        none.cpu = none.wall = None
        for name, source in product.sources_.items():
            add(name, source, none)
            done.append(name)
    positives = log.train.positives()
    for name in baselines:
        if name in (*done, "Recommender"):
            continue
        make = BASELINES[name]
        with Clock() as clock:
            fitted = make().fit(positives)
        add(name, fitted, clock)
        if trials:
            with Clock() as clock:
                found = tune(make, positives, trials=trials, seed=seed, progress=False)
            add(name, found.model, clock, tuned=True, settings=str(found.best))
    return rows


def print_note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def keep_rows(path: Path, rows: list[dict]) -> None:
    "Write rows in place of those of the same log, model and seed."

    def key(row):
        return row["data"], row["model"], row["tuned"], row["seed"]

    new = {key(row) for row in rows}
    old = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in old if key(row) not in new]
    text = json.dumps(sorted(kept + rows, key=lambda row: str(key(row))), indent=1)
    path.write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(LOGS), choices=LOGS)
    parser.add_argument("--seeds", type=int, default=3)
    everything = ["Recommender", *BASELINES]
    parser.add_argument("--models", nargs="+", default=everything, choices=everything)
    parser.add_argument("--trials", type=int, default=0, help="tune each baseline, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        torch.set_num_threads(options.threads)
        measure(options.data[0], options.worker, options.models, options.trials)
        return
    threads = str(options.threads)
    limits = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    for data in options.data:
        for seed in range(options.seeds):
            command = [sys.executable, __file__, "--data", data, "--worker", str(seed)]
            command += ["--models", *options.models, "--trials", str(options.trials)]
            command += ["--threads", threads]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, env=os.environ | limits
            )
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            keep_rows(options.out, rows)
            for row in rows:
                ndcg = row["metrics"]["ndcg@10"]
                print(f"{data:16} {seed} {row['model']:12} NDCG@10 {ndcg:.4f}")
            if done.returncode:
                print(f"{data}, seed {seed}: stopped with {done.returncode}")


if __name__ == "__main__":
    main()
