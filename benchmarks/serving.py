"""Milliseconds of CPU that one question costs: an exported folder (`Exported`, NumPy
and ONNX Runtime) beside the trained model (`Service`), both without HTTP, on one
thread and in one run. The shop is made up: users and items of 50 tastes. Two stages
answer: three sources propose items, a DLRM orders them.

    python benchmarks/serving.py --out benchmarks/results/serving.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _common import keep

from recsys_nb.data import Dataset
from recsys_nb.recommenders import (
    Catalogue,
    DLRMRanker,
    ItemKNN,
    Popularity,
    Recommender,
    TwoTowerRetriever,
    make_examples,
    split_head,
    with_tables,
)
from recsys_nb.recommenders.gate import Verdict
from recsys_nb.recommenders.outcome import Outcome
from recsys_nb.recommenders.trial import Answer
from recsys_nb.serving import Exported, Service, export

N_TASTES = 50  # groups of users and items
N_EVENTS = 20  # of a visitor's question
# so that about 500 candidates are ranked
PER_SOURCE = {5_000: 215, 100_000: 185, 1_000_000: 175}
SOURCES = ("Popularity", "ItemKNN", "Two-Tower")


def make_log(
    n_items: int,  # size of the catalogue
    n_users: int,  # with a history
    n_events: int,  # of all
    seed: int = 0,  # of the draw
) -> Dataset:  # with times, and tables of users and items
    "A log of users who take popular items of their taste."
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(n_users, size=n_events))
    strength = 1 / np.arange(1, n_items + 1) ** 0.8
    item = rng.choice(n_items, n_events, p=strength / strength.sum())
    item += (user % N_TASTES - item) % N_TASTES  # the nearest item of the taste
    item %= n_items
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(n_events), "s")
    log = pd.DataFrame({"user_id": user, "item_id": item})
    log["timestamp"] = times[rng.permutation(n_events)]
    codes = np.arange(n_items)
    items = pd.DataFrame({"item_id": codes, "category": codes % N_TASTES % 12})
    items["price"] = rng.lognormal(3, 1, n_items).round(2)
    items["category"] = "c" + items.category.astype(str)
    users = pd.DataFrame({"user_id": np.arange(n_users)})
    users["country"] = np.array(["DE", "FR", "UK"])[users.user_id % 3]
    return Dataset(log, users, items)


def make_model(
    log: Dataset,  # of `make_log`
    exact_to: int,  # catalogue size above which the retriever uses an index
) -> Recommender:  # fitted, without a gate
    "Two stages of three sources."
    n_items = len(log.item_ids)
    tower = {"dim": 64, "epochs": 1, "n_negatives": 64, "profile": "noisy"}
    sources = {
        "Popularity": Popularity(),
        "ItemKNN": ItemKNN(),
        "Two-Tower": TwoTowerRetriever(**tower, exact_to=exact_to),
    }
    sources = {name: source.fit(log) for name, source in sources.items()}
    some = log.user_ids[:300]
    part = log.replace(log.interactions[log.interactions.user_id.isin(some)])
    head, held = split_head(with_tables(part), 0.2, 0)
    examples = make_examples(head, held, sources, 50, "candidates", 0)
    ranker = DLRMRanker(epochs=1).learn(examples, with_tables(log))
    verdict = Verdict(pd.DataFrame(), "two stages", 10, 0, [])
    model = Recommender(candidates=PER_SOURCE[n_items])
    model.adopt(Catalogue.of(with_tables(log)))
    answer = Answer(SOURCES, None, ranker)
    popularity = sources["Popularity"].popularity_
    parts = answer, answer, sources, verdict, popularity, None
    model.take_over(Outcome(*parts))
    return model


def make_questions(
    log: Dataset,  # whose users and items are asked for
    n: int,  # of each kind
) -> dict[str, list[dict]]:  # arguments of recommend
    "Users by id, visitors by events, and users with a rule."
    rng = np.random.default_rng(1)
    users = rng.permutation(log.user_ids.to_numpy())[:n].tolist()
    items = log.item_ids.to_numpy()
    visits = rng.choice(items, (n, N_EVENTS)).tolist()
    events = [[{"item_id": one} for one in visit] for visit in visits]
    rule = {"where": {"price": (None, 30)}}
    return {
        "GET by id": [{"user_id": user} for user in users],
        f"POST with {N_EVENTS} events": [
            {"user_id": "visitor", "events": visit} for visit in events
        ],
        "POST with a rule": [{"user_id": user} | rule for user in users],
    }


def measure(
    ask,  # recommend of a service
    questions: list[dict],  # its arguments
) -> float:  # milliseconds of CPU, the median of ten parts
    "What one question costs."
    for question in questions[:5]:
        ask(**question)
    parts = [questions[start::10] for start in range(10)]
    costs = []
    for part in parts:
        start = time.process_time()
        for question in part:
            ask(**question)
        costs.append(1000 * (time.process_time() - start) / len(part))
    return float(np.median(costs))


def count_candidates(
    exported: Exported,  # that answers
    questions: list[dict],  # by id
) -> float:  # mean
    "How many items the ranker orders for a question."
    counts = []
    run = exported.run

    def count(name, **inputs):
        if name == "ranker":
            counts.append(len(inputs["dense"]))
        return run(name, **inputs)

    exported.run = count
    for question in questions[:50]:
        exported.recommend(**question)
    del exported.run
    return float(np.mean(counts))


START = """
import json, re, sys, time
begin = time.perf_counter()
from recsys_nb.serving.runtime import Exported
exported = Exported(sys.argv[1])
exported.recommend(0)
seconds = time.perf_counter() - begin
for user in range(200):
    exported.recommend(user)
status = open("/proc/self/status").read()
found = {w: int(re.search(w + r":\\s+(\\d+)", status)[1]) / 1024 for w in
         ("VmRSS", "VmHWM")}
print(json.dumps({"start_seconds": seconds, "mb": found["VmRSS"],
                  "peak_mb": found["VmHWM"]}))
"""


def measure_start(
    folder: Path,  # an exported model
) -> dict:  # start_seconds to the first answer, mb, peak_mb
    "What a fresh process takes to start and to hold the model."
    command = [sys.executable, "-c", START, str(folder)]
    runs = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def compare_lists(
    exported: Exported,  # of the model
    service: Service,  # of the same model
    questions: list[dict],  # by id or by events
) -> float:  # from 0 to 1
    "The share of questions with identical lists."
    same = []
    for question in questions[:100]:
        lists = [ask.recommend(**question)["items"] for ask in (exported, service)]
        first, second = [[one["item_id"] for one in items] for items in lists]
        same.append(first == second)
    return float(np.mean(same))


def run_size(
    n_items: int,  # size of the catalogue
    exact_to: int,  # as in `make_model`
    n_questions: int,  # of each kind
) -> list[dict]:  # rows of results
    "All measures at one size."
    log = make_log(n_items, n_users=3_000, n_events=60 * 3_000)
    n_items = len(log.item_ids)
    model = make_model(log, exact_to)
    service = Service(model)
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        folder = export(model, Path(tmp) / "shop")
        exported = Exported(folder)
        questions = make_questions(log, n_questions)
        start = measure_start(folder)
        megabytes = sum(f.stat().st_size for f in folder.iterdir()) / 2**20
        n_candidates = count_candidates(exported, questions["GET by id"])
        for kind, asked in questions.items():
            row = {
                "items": n_items,
                "search": "index" if n_items > exact_to else "exact",
                "question": kind,
                "candidates": round(n_candidates, 1),
                "exported_ms": round(measure(exported.recommend, asked), 3),
            }
            if "rule" not in kind:
                few = asked[: max(20, n_questions // 5)]
                row["service_ms"] = round(measure(service.recommend, few), 3)
                row["identical"] = compare_lists(exported, service, asked)
            row |= {name: round(value, 2) for name, value in start.items()}
            rows.append(row | {"folder_mb": round(megabytes, 1)})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="*", default=[5_000, 100_000])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--exact-to", type=int, default=50_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for n_items in options.items:
        rows = run_size(n_items, options.exact_to, options.questions)
        keep(options.out, rows, ("items", "search", "question"))


if __name__ == "__main__":
    main()
