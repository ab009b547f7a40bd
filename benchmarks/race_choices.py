"""The race for the retriever's settings beside a full search: each profile trained to
its end, on a part of each log's training part, judged on the rest of it. No test part
is read. A second race, `later`, is judged as `fit(valid=...)` does it, by what users
took last of the part that is learnt from.

    python benchmarks/race_choices.py --data steam toys

Every row is written to results/race_choices.json as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from _common import keep
from real_logs import LOGS, keep_present, split_inner

from recsys_nb.data import Dataset
from recsys_nb.evaluation import evaluate
from recsys_nb.recommenders import PROFILES, TwoTowerRetriever, split_as_served

RESULTS = Path(__file__).parent / "results" / "race_choices.json"


def measure(head, truth, seed: int, profile: str | None) -> dict:
    "One training: its score by the retriever's own validation, and on what follows."
    start = time.process_time()
    model = TwoTowerRetriever(seed=seed, profile=profile).fit(head)
    seconds = time.process_time() - start
    lists = model.recommend(truth.user_id.unique(), k=10)
    report = evaluate(lists, truth, k=10, metrics=["ndcg"], n_boot=500, seed=0)
    row = report.to_frame().iloc[0]
    race = model.race_
    return {
        "validation": round(model.result_.best, 5),
        "ndcg@10": [round(x, 5) for x in (row.value, row.low, row.high)],
        "cpu_seconds": round(seconds),
        "race": race.round(5).to_dict("records") if len(race) else [],
    }


def choose_by_later(head: Dataset, seed: int) -> dict:
    "The race's choice where a later part of the log judges."
    earlier, later, *_ = split_as_served(head.positives(), seed=seed)
    model = TwoTowerRetriever(seed=seed).fit(earlier, valid=later)
    row = {"race": model.race_.round(5).to_dict("records")}
    return row | {"choice": name_choice(row)}


def name_choice(model_row: dict) -> str:
    "The profile that won the race."
    last = max(row["round"] for row in model_row["race"])
    rows = [row for row in model_row["race"] if row["round"] == last]
    return max(rows, key=lambda row: row["score"])["name"]


def keep_row(row: dict) -> None:
    "Write a row in place of the one that is alike."
    keep(RESULTS, [row], ("data", "seed", "profile"))
    print(row, flush=True)


def main() -> None:
    "The race and every profile, log by log."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=LOGS, default=list(LOGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {(row["data"], row["seed"], row["profile"]) for row in rows}
    for data in keep_present(given.data):
        for seed in given.seeds:
            head, truth = split_inner(data, seed)
            ordered = "timestamp" in head.interactions
            for profile in [None, *PROFILES]:
                reads_order = profile and PROFILES[profile]["history"] == "attention"
                if (data, seed, profile) in done or (reads_order and not ordered):
                    continue
                row = {"data": data, "seed": seed, "profile": profile}
                row |= measure(head, truth, seed, profile)
                if profile is None:
                    row["choice"] = name_choice(row)
                keep_row(row)
            if (data, seed, "later") not in done:
                row = {"data": data, "seed": seed, "profile": "later"}
                keep_row(row | choose_by_later(head, seed))


if __name__ == "__main__":
    main()
