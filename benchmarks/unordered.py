"""What helps a Two-Tower model on a log without times, and what does not: more
negatives, larger batches, averaged weights, and item vectors smoothed over the graph of
users and items. Judged on a fifth of each log's training part; no test part is read.

    python benchmarks/unordered.py --data yelp2018 --tries plain negatives batch

Every row is written to results/unordered.json as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from real_logs import LOGS, split_inner
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from recsys_nb.data import Dataset
from recsys_nb.evaluation import evaluate
from recsys_nb.recommenders import GraphFilter, TwoTowerRetriever
from recsys_nb.recommenders import retriever as room
from recsys_nb.recommenders.positives import normalize_degrees
from recsys_nb.recommenders.profiles import choose_sizes
from recsys_nb.recommenders.tower_task import TowerTask, make_trainer

RESULTS = Path(__file__).parent / "results" / "unordered.json"
SHARES = (0.1, 0.3, 1.0)  # of the neighbours' vectors in a smoothed one
EVERY = 10  # steps between two updates of the averaged weights


def judge(model, truth: pd.DataFrame) -> dict[str, float]:
    "NDCG@10, NDCG@20 and recall@20 of the model's lists."
    lists = model.recommend(truth.user_id.unique(), k=20)
    report = evaluate(lists, truth, k=(10, 20), metrics=["ndcg", "recall"], n_boot=0)
    rows = report.to_frame().itertuples(index=False)
    return {f"{row.metric}@{row.k}": round(row.value, 4) for row in rows}


def fit_plain(head: Dataset, seed: int, **changes) -> TwoTowerRetriever:
    "The retriever, with settings that are raced once and then kept."
    return TwoTowerRetriever(seed=seed, **changes).fit(head)


def fit_averaged(head: Dataset, seed: int, **changes) -> TwoTowerRetriever:
    "The same with weights that are the moving average of about the last epoch."

    def train_averaged(settings, data, **functions):
        settings = settings.with_profile(settings.profile)
        size = data.n_trained, data.is_ordered, data.n_items
        settings = choose_sizes(settings, *size)
        task = TowerTask(settings, data, **functions)
        trainer = make_trainer(task, patience=None)
        decay = 1 - EVERY / trainer.steps_per_epoch
        update = get_ema_multi_avg_fn(decay)
        average = AveragedModel(trainer.model, multi_avg_fn=update, use_buffers=True)
        for _ in range(math.ceil(settings.epochs * trainer.steps_per_epoch / EVERY)):
            trainer.run(steps=EVERY)
            average.update_parameters(trainer.model)
        trainer.run().finish()
        trainer.model.load_state_dict(average.module.state_dict())
        trainer.model.to("cpu")
        return task, trainer, pd.DataFrame()

    with patch.object(room, "train_best", train_averaged):
        return TwoTowerRetriever(seed=seed, **changes).fit(head)


def smooth(model: TwoTowerRetriever, head: Dataset, share: float) -> None:
    "Add to each item's vector a share of its neighbours' on the graph; keep length 1."
    table = head.interactions.drop_duplicates(["user_id", "item_id"])
    users = pd.factorize(table.user_id)[0]
    items = model.item_ids_.get_indexer(table.item_id)
    ones = np.ones(len(table), np.float32)
    shape = (users.max() + 1, len(model.item_ids_))
    graph = normalize_degrees(sp.csr_matrix((ones, (users, items)), shape))
    vectors = model.item_vectors_
    moved = vectors + share * (graph.T @ (graph @ vectors))
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    model.item_vectors_ = (moved / lengths).astype(np.float32)


TRIES: dict[str, dict] = {
    "plain": {"n_negatives": 256},
    "average": {"n_negatives": 256},
    "batch": {"n_negatives": 256, "batch_size": 4096},
    "negatives": {"n_negatives": 1024},
    "epochs": {"n_negatives": 1024, "epochs": 10},
}


def measure(fit: Callable, head: Dataset, truth: pd.DataFrame, **options):
    "A fitted model, and its row."
    start = time.process_time()
    model = fit(head, **options)
    seconds = time.process_time() - start
    return model, {"cpu_seconds": round(seconds), **judge(model, truth)}


def add_row(**row) -> None:
    "Write a row beside those that are there."
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
    print(row, flush=True)


def main() -> None:
    "All tries on one log."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="yelp2018", choices=LOGS)
    parser.add_argument("--seed", type=int, default=5)
    names = [*TRIES, "graph filter"]
    parser.add_argument("--tries", nargs="+", default=names, choices=names)
    parser.add_argument("--profile", default="popular", help="of the retriever")
    given = parser.parse_args()
    torch.set_num_threads(1)
    head, truth = split_inner(given.data, given.seed)
    said = {"data": given.data, "seed": given.seed, "users": truth.user_id.nunique()}
    options = {"seed": given.seed, "profile": given.profile}
    for name in given.tries:
        if name == "graph filter":
            _, row = measure(lambda log: GraphFilter().fit(log), head, truth)
            add_row(**said, model=name, **row)
            continue
        fit = fit_averaged if name == "average" else fit_plain
        model, row = measure(fit, head, truth, **options, **TRIES[name])
        add_row(**said, model=name, **row)
        if name != "plain":
            continue
        vectors = model.item_vectors_
        for share in SHARES:
            model.item_vectors_ = vectors
            smooth(model, head, share)
            add_row(**said, model=f"smoothed {share}", **judge(model, truth))


if __name__ == "__main__":
    main()
