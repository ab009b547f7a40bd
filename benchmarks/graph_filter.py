"""Which defaults should the graph filter have? Number of directions, their weight and
the power of users' degrees, on a part of each log's training part (chapter "A filter on
the graph of items"). No test part is read.

    python benchmarks/graph_filter.py --data steam yelp2018

Every log is written to results/graph_filter.json as soon as it is there.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from _common import keep
from real_logs import LOGS, list_missing, split_inner

from recsys_nb.data import Dataset
from recsys_nb.evaluation import evaluate
from recsys_nb.recommenders import GraphFilter
from recsys_nb.recommenders.filters import count_directions, find_smooth_directions

RESULTS = Path(__file__).parent / "results" / "graph_filter.json"
AT_MOST = (256, 512, 1024)  # directions
SMOOTHNESS = (0.5, 1.0, 1.5, 2.0, 3.0)
USER_POWERS = (0.3, 0.5, 0.7)


def judge(
    model: GraphFilter,  # fitted
    truth: pd.DataFrame,  # user_id, item_id: what users take later
) -> float:  # NDCG@10
    "How good the model's lists are."
    lists = model.recommend(truth.user_id.unique(), k=10)
    return evaluate(lists, truth, k=10, metrics="ndcg", n_boot=0)["ndcg@10"]


def try_all(
    head: Dataset,  # what is learnt from
    truth: pd.DataFrame,  # user_id, item_id: what users take later
) -> list[dict]:  # a row for each setting
    "The first directions of many are those of few: one decomposition for a power."
    positives = head.positives()
    rows = []
    for user_power in USER_POWERS:
        model = GraphFilter(1, user_power=user_power).fit(positives)
        n_wanted = count_directions(model.graph_.shape[1], max(AT_MOST))
        all_directions = find_smooth_directions(model.graph_, n_wanted, model.seed)
        for at_most, smoothness in product(AT_MOST, SMOOTHNESS):
            model.directions_ = all_directions[:, :at_most]
            model.smoothness = smoothness
            row = {"user_power": user_power, "at_most": at_most}
            row |= {"smoothness": smoothness, "ndcg@10": judge(model, truth)}
            rows.append(row)
    return rows


def main() -> None:
    "Every setting, log by log."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=LOGS, default=list(LOGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for data, seed in list_missing(RESULTS, given.data, given.seeds):
        head, truth = split_inner(data, seed)
        run = {"data": data, "seed": seed}
        rows = [run | row for row in try_all(head, truth)]
        keep(RESULTS, rows, ("data", "seed"))
        print(pd.DataFrame(rows).nlargest(3, "ndcg@10").to_string(), flush=True)


if __name__ == "__main__":
    main()
