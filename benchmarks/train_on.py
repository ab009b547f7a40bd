"""Training that goes on beside training anew: period after period a retriever is
fitted to all events so far, goes on from the last one with the newer events, or stays
as it was, and is asked for what users take in the next period.

    python benchmarks/train_on.py                    # all logs that are here
    python benchmarks/train_on.py --data simulated --seeds 1

Every row is written to results/train_on.json as soon as it is there. RECSYS_NB_DATA
names the folder of the logs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd
import torch
from real_logs import HOME, read_events

from recsys_nb.data import Dataset, simulate
from recsys_nb.evaluation import evaluate
from recsys_nb.recommenders import TwoTowerRetriever, new_pairs

RESULTS = Path(__file__).parent / "results" / "train_on.json"
WAYS = {
    "anew": {},
    "goes on, rehearses nobody": {"rehearse": 0.0},
    "goes on, rehearses a tenth": {"rehearse": 0.1},
    "goes on, rehearses a third": {"rehearse": 1 / 3},
    "stays": {},
}


def read_simulated(seed: int) -> tuple[Dataset, str, int]:
    "A simulated shop, day by day for its last week."
    return simulate(3_000, 1_500, 100_000, seed=seed).positives(), "D", 7


def read_retailrocket(seed: int) -> tuple[Dataset, str, int]:
    "RetailRocket with every event a positive, week by week for its last six."
    kinds = ("view", "cart", "buy")
    log = read_events("retailrocket/events.csv", "retailrocket", kinds)
    return log.positives(), "7D", 6


LOGS = {"simulated": read_simulated, "retailrocket": read_retailrocket}


def part_of(log: Dataset, first: pd.Timestamp | None, end: pd.Timestamp) -> Dataset:
    "The events from `first` to before `end`."
    frame = log.interactions
    some = frame.timestamp < end
    if first is not None:
        some &= frame.timestamp >= first
    return Dataset(frame[some], log.users, log.items, name=log.name)


def fit_next(way: str, before: TwoTowerRetriever, log: Dataset, ends: tuple):
    "The model that answers after one more period."
    last, end = ends
    if way == "stays":
        return before
    if way == "anew":
        return before.fresh().fit(part_of(log, None, end))
    more = part_of(log, last, end)
    fresh = TwoTowerRetriever(seed=before.settings_.seed)
    return fresh.fit(more, start=before, **WAYS[way])


def judge(model, past: pd.DataFrame, truth: pd.DataFrame):
    "NDCG@10 and recall@20 of each user."
    users = pd.Index(truth.user_id.unique())
    events = past[past.user_id.isin(users) & past.item_id.isin(model.item_ids_)]
    lists = model.recommend(users, k=20, events=events)
    report = evaluate(lists, truth, k=(10, 20), metrics=["ndcg", "recall"], n_boot=0)
    return report.per_user[["ndcg@10", "recall@20"]]


def run(data: str, way: str, seed: int, base: TwoTowerRetriever, log, ends) -> dict:
    "All periods of one way."
    model, scores, seconds = base, [], []
    for last, end, next_end in zip(ends, ends[1:], ends[2:], strict=False):
        start = time.process_time()
        model = fit_next(way, model, log, (last, end))
        seconds.append(time.process_time() - start)
        past = part_of(log, None, end).interactions
        truth, _ = new_pairs(past, part_of(log, end, next_end).interactions)
        newer = past[past.timestamp >= ends[0]] if way == "stays" else past[:0]
        scores.append(judge(model, newer, truth).assign(period=len(scores)))
        print(data, way, seed, scores[-1]["ndcg@10"].mean().round(4), flush=True)
    table = pd.concat(scores)
    return {
        "data": data,
        "way": way,
        "seed": seed,
        "judged": len(table),
        "ndcg@10": [*table.groupby("period")["ndcg@10"].mean().round(5)],
        "recall@20": [*table.groupby("period")["recall@20"].mean().round(5)],
        "cpu_seconds": [round(s, 2) for s in seconds],
        "by_user": [*table["ndcg@10"].round(5)],
    }


def find_ends(log: Dataset, period: str, n: int) -> list[pd.Timestamp]:
    "The ends of the training parts: before each of the last periods."
    last = log.interactions.timestamp.max().ceil("D")
    step = pd.Timedelta(period if period[0].isdigit() else f"1{period}")
    return [last - step * k for k in range(n + 1, -1, -1)]


def main() -> None:
    "The rows that are not there yet."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=LOGS, default=list(LOGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {(row["data"], row["way"], row["seed"]) for row in rows}
    for data in given.data:
        if data == "retailrocket" and not (HOME / "retailrocket/events.csv").exists():
            print(f"{data}: not in {HOME}, left out")
            continue
        for seed in given.seeds:
            ways = [way for way in given.ways if (data, way, seed) not in done]
            if not ways:
                continue
            log, period, n = LOGS[data](seed)
            ends = find_ends(log, period, n)
            base = TwoTowerRetriever(seed=seed).fit(part_of(log, None, ends[0]))
            for way in ways:
                rows.append(run(data, way, seed, base, log, ends))
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
