"""Training that goes on beside training anew: period after period a model is fitted
to all events so far, goes on from the last one with the newer events, or stays as it
was, and is asked for what users take in the next period.

    python benchmarks/train_on.py                    # all logs that are here
    python benchmarks/train_on.py --data simulated --seeds 1 --ways anew stays

What is done is written to results/train_on.json after each period, and is not done
again. RECSYS_NB_DATA names the folder of the logs; `--keep` a folder where the models
of the first periods are kept for the next call.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from real_logs import HOME, read_events

from recsys_nb.data import Dataset, simulate
from recsys_nb.evaluation import evaluate
from recsys_nb.recommenders import (
    BaseRecommender,
    ItemKNN,
    Recommender,
    TwoTowerRetriever,
    new_pairs,
)

RESULTS = Path(__file__).parent / "results" / "train_on.json"
WAYS = {
    "anew": {},
    "goes on, rehearses nobody": {"rehearse": 0.0},
    "goes on, rehearses a tenth": {"rehearse": 0.1},
    "goes on, rehearses a third": {"rehearse": 1 / 3},
    "stays": {},
}


def read_simulated(seed: int) -> Dataset:
    "The positives of a simulated shop."
    return simulate(1_500, 500, 40_000, seed=seed).positives()


def read_shop(seed: int) -> Dataset:
    "A simulated shop with its views."
    return simulate(1_000, 300, 30_000, seed=seed)


def read_retailrocket(seed: int) -> Dataset:
    "RetailRocket: users with five events or more, of items with ten or more."
    kinds = ("view", "cart", "buy")
    log = read_events("retailrocket/events.csv", "retailrocket", kinds).positives()
    for key, least in (("user_id", 5), ("item_id", 10)):
        counts = log.interactions.groupby(key)[key].transform("size")
        log = log.replace(log.interactions[counts >= least])
    return log


# small enough that a week of trainings from the start takes minutes
SMALL = {"dim": 32, "profile": "dense", "epochs": 10, "batch_size": 256}


def make_two_stages(seed: int) -> Recommender:
    "Two sources and a ranker that answer together."
    towers = TwoTowerRetriever(seed=seed, **SMALL)
    sources = {"ItemKNN": ItemKNN(), "Two-Tower": towers}
    return Recommender(sources, ranker="logistic", seed=seed, answer="two stages")


@dataclass(frozen=True)
class Case:
    "A log in periods, and the model that learns from it."

    read: Callable[[int], Dataset]  # seed -> the log
    make: Callable[[int], BaseRecommender]  # seed -> an unfitted model
    period: str  # length of a period, as pandas writes it
    n: int  # periods that are judged
    ways: tuple[str, ...] = field(default=tuple(WAYS))


def make_retriever(seed: int) -> TwoTowerRetriever:
    "A small retriever."
    return TwoTowerRetriever(seed=seed, **SMALL)


FEW = ("anew", "goes on, rehearses a tenth", "stays")
CASES = {
    "simulated": Case(read_simulated, make_retriever, "1D", 7),
    "retailrocket": Case(read_retailrocket, make_retriever, "7D", 6),
    "simulated, two stages": Case(read_shop, make_two_stages, "1D", 7, FEW),
}


def part_of(log: Dataset, first: pd.Timestamp | None, end: pd.Timestamp) -> Dataset:
    "The events from `first` to before `end`."
    frame = log.interactions
    some = frame.timestamp < end
    if first is not None:
        some &= frame.timestamp >= first
    return Dataset(frame[some], log.users, log.items, log.positive, log.name)


def fit_next(case: Case, way: str, before, log: Dataset, ends: tuple, seed: int):
    "The model that answers after one more period."
    last, end = ends
    if way == "stays":
        return before
    fresh = case.make(seed)
    if way == "anew":
        fresh = before.fresh() if hasattr(before, "fresh") else fresh
        return fresh.fit(part_of(log, None, end))
    return fresh.fit(part_of(log, last, end), start=before, **WAYS[way])


def judge(model, past: pd.DataFrame, truth: pd.DataFrame):
    "NDCG@10 and recall@20 of each user."
    users = pd.Index(truth.user_id.unique())
    events = past[past.user_id.isin(users) & past.item_id.isin(model.item_ids_)]
    lists = model.recommend(users, k=20, events=events)
    report = evaluate(lists, truth, k=(10, 20), metrics=["ndcg", "recall"], n_boot=0)
    return report.per_user[["ndcg@10", "recall@20"]]


def find_ends(log: Dataset, period: str, n: int) -> list[pd.Timestamp]:
    "The ends of the training parts: before each of the last periods."
    last = log.interactions.timestamp.max().ceil("D")
    return [last - pd.Timedelta(period) * k for k in range(n + 1, -1, -1)]


def add_period(row: dict, seconds: float, found: pd.DataFrame) -> None:
    "What one more period has cost, and how good its lists were."
    row["cpu_seconds"].append(round(seconds, 2))
    row["judged"] += len(found)
    row["ndcg@10"].append(round(float(found["ndcg@10"].mean()), 5))
    row["recall@20"].append(round(float(found["recall@20"].mean()), 5))
    row["by_user"] += [*found["ndcg@10"].round(5)]


def run(case: Case, row: dict, base, log: Dataset, ends: list, save: Callable) -> None:
    "The periods of one way that are still to be done."
    way, seed, model = row["way"], row["seed"], base
    periods = list(zip(ends, ends[1:], ends[2:], strict=False))
    for last, end, next_end in periods[len(row["cpu_seconds"]) :]:
        start = time.process_time()
        model = fit_next(case, way, model, log, (last, end), seed)
        seconds = time.process_time() - start
        past = part_of(log, None, end).positives().interactions
        future = part_of(log, end, next_end).positives().interactions
        truth, _ = new_pairs(past, future)
        newer = past[past.timestamp >= ends[0]] if way == "stays" else past[:0]
        add_period(row, seconds, judge(model, newer, truth))
        print(row["data"], way, seed, row["ndcg@10"][-1], round(seconds), flush=True)
        save()


def fit_base(data: str, seed: int, log: Dataset, end, keep: Path):
    "The model of the first periods, which is fitted once."
    folder = keep / f"{data} {seed}"
    if not folder.exists():
        CASES[data].make(seed).fit(part_of(log, None, end)).save(folder)
    return BaseRecommender.load(folder)


def find_row(rows: list[dict], data: str, way: str, seed: int) -> dict:
    "The row of a way: what was done of it, or a new one."
    names = {"data": data, "way": way, "seed": seed}
    for row in rows:
        if names.items() <= row.items():
            return row
    lists = {name: [] for name in ("ndcg@10", "recall@20", "cpu_seconds", "by_user")}
    rows.append(names | {"judged": 0} | lists)
    return rows[-1]


def run_case(data: str, seed: int, ways: list[str], keep: Path) -> None:
    "All ways of one log and seed."
    case = CASES[data]
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    found = [find_row(rows, data, way, seed) for way in case.ways if way in ways]
    to_do = [row for row in found if len(row["cpu_seconds"]) < case.n]
    if not to_do:
        return

    def save() -> None:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    log = case.read(seed)
    ends = find_ends(log, case.period, case.n)
    base = fit_base(data, seed, log, ends[0], keep)
    for row in to_do:
        if row["way"] not in ("anew", "stays"):  # each period follows from the last
            at = rows.index(row)
            rows.remove(row)
            row = find_row(rows, data, row["way"], seed)
            rows.insert(at, rows.pop())
        run(case, row, base, log, ends, save)


def main() -> None:
    "The periods that are not done yet."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--keep", type=Path, help="folder of the first models")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for data in given.data:
            is_missing = not (HOME / "retailrocket/events.csv").exists()
            if data == "retailrocket" and is_missing:
                print(f"{data}: not in {HOME}, left out")
                continue
            for seed in given.seeds:
                run_case(data, seed, given.ways, given.keep or Path(folder))


if __name__ == "__main__":
    main()
