"""Which ranker does `choose_ranker` take, on real logs and over seeds?

    python benchmarks/ranker_choice.py [--data PATH ...] [--seeds 0 1 2] [--out FILE]

Ratings of 4 and more are positive. The last tenth of each log is left alone. On the
rest, each user's last fifth of positives is held out, EASE and ItemKNN are fitted to
what came before and bring up 100 items each, and the rankers learn which of these were
taken. A seed draws the users that training leaves out; the table has the log loss per
user on them, and how far it is from the best ranker's, with a 95% interval over users.
Results of other logs and seeds stay in the file.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
from _common import keep

from recsys_nb.data import load, split_by_time
from recsys_nb.recommenders import EASE, ItemKNN
from recsys_nb.recommenders.pairs import make_examples, split_head
from recsys_nb.recommenders.ranker_choice import choose_ranker

ROOT = Path(os.environ.get("RECSYS_NB_DATA", "data"))
torch.set_num_threads(1)


def collect(train):
    "What two sources bring up for each user, and whether it was taken."
    head, held = split_head(train)
    sources = {"EASE": EASE(), "ItemKNN": ItemKNN()}
    fitted = {name: one.fit(head.positives()) for name, one in sources.items()}
    return make_examples(head, held, fitted)


def choose(name, seeds):
    "A row for each seed on one log."
    train, _ = split_by_time(load(name, positive=4.0), 0.1)
    examples = collect(train)
    print(f"{name}: {examples}", flush=True)
    for seed in seeds:
        start = time.process_time()
        choice = choose_ranker(examples, train, seed=seed)
        print(choice, flush=True)
        yield {
            "data": f"choice {train.name}",
            "examples": len(examples),
            "seed": seed,
            "chosen": choice.chosen,
            "seconds": time.process_time() - start,
            "rankers": choice.table.to_dict("records"),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = [str(ROOT / "ml-latest-small")]
    parser.add_argument("--data", nargs="+", default=default, help="what `load` reads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="keep the rows in this JSON file")
    options = parser.parse_args()
    for name in options.data:
        keep(options.out, list(choose(name, options.seeds)), ("data", "seed"))


if __name__ == "__main__":
    main()
