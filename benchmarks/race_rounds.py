"""How long must the race for the retriever's settings be? Every profile is trained to a
fifth of its training on a part of each log's training part, and judged on the way. From
that any race can be replayed, without a training (chapter "Results on real logs"). No
test part is read.

    python benchmarks/race_rounds.py --data steam toys --seeds 1 2

Every row is written to results/race_rounds.json as soon as it is there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from _common import keep
from real_logs import LOGS, list_missing, split_inner

from recsys_nb.data import Dataset
from recsys_nb.recommenders import RetrieverSettings
from recsys_nb.recommenders.base import Catalogue
from recsys_nb.recommenders.choices import list_contestants
from recsys_nb.recommenders.profiles import choose_sizes
from recsys_nb.recommenders.race import run_until, score_so_far
from recsys_nb.recommenders.tower_task import TowerTask, make_trainer
from recsys_nb.recommenders.towers import prepare_data

RESULTS = Path(__file__).parent / "results" / "race_rounds.json"
SHARES = (0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2)  # of a training


def prepare_tasks(
    head: Dataset,  # what is learnt from
    seed: int,  # of everything
) -> dict[str, TowerTask]:  # by profile
    "What would race for a retriever with nothing set."
    settings = RetrieverSettings(seed=seed)
    data = prepare_data(Catalogue.of(head), settings)
    settings = choose_sizes(settings, data.n_trained, data.is_ordered, data.n_items)
    contestants = list_contestants(settings, data)
    return {name: TowerTask(one, data) for name, one in contestants.items()}


def follow(
    task: TowerTask,  # of one profile
) -> dict:  # CPU seconds of its start; share, score and CPU seconds on the way
    "The beginning of a training, judged at every share."
    clock = time.process_time()
    trainer = make_trainer(task, folder=None, progress=False)
    setup_seconds = time.process_time() - clock
    points = []
    for share in SHARES:
        clock = time.process_time()
        run_until(trainer, share)
        trained = time.process_time()
        score = score_so_far(trainer)
        points.append(
            {
                "share": share,
                "score": round(score, 5),
                "train_seconds": round(trained - clock, 2),
                "valid_seconds": round(time.process_time() - trained, 2),
            }
        )
    return {"setup_seconds": round(setup_seconds, 2), "points": points}


def main() -> None:
    "Every profile, log by log."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=LOGS, default=list(LOGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for data, seed in list_missing(RESULTS, given.data, given.seeds):
        head, _ = split_inner(data, seed)
        followed = []
        for profile, task in prepare_tasks(head, seed).items():
            row = {"data": data, "seed": seed, "profile": profile} | follow(task)
            followed.append(row)
            print(row, flush=True)
        keep(RESULTS, followed, ("data", "seed"))


if __name__ == "__main__":
    main()
