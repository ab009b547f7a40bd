"""What varied lists cost: NDCG@10 against the diversity of a list and coverage.

    python benchmarks/diversity.py [--data movielens-small] [--out
    benchmarks/results/diversity.json]

The last fifth of each user's films is held out. Lists of EASE and of a Two-Tower model
are varied by maximal marginal relevance with several trade-offs, and capped by the
first genre of a film. The diversity of a list is the mean cosine distance of the genres
of its pairs, which the method does not see: it compares films by who took them, or by
the vectors of the model.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import pandas as pd
from _common import keep

from recsys_nb.data import load, split_leave_last_out
from recsys_nb.evaluation import evaluate
from recsys_nb.recommenders import EASE, Diversity, TwoTowerRetriever

TRADE_OFFS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
CAPS = (1, 2, 3, 5)
MODELS = {
    "EASE": lambda: EASE(l2=300.0),
    "Two-Tower": lambda: TwoTowerRetriever(profile="dense", epochs=3),
}
METRICS = ["ndcg", "coverage", "diversity"]


def read_genres(items: pd.DataFrame) -> pd.DataFrame:
    "One 0/1 column for each genre, by film."
    genres = items.genres.fillna("").str.get_dummies("|")
    return genres.set_axis(items.item_id)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="movielens-small")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    log = load(options.data)
    log.items["first_genre"] = log.items.genres.fillna("").str.split("|").str[0]
    train, test = split_leave_last_out(log, last=0.2)
    train = train.positives()
    truth = test.positives().interactions
    genres = read_genres(train.items)
    asked = [{"trade_off": t, "cap": 0} for t in TRADE_OFFS]
    asked += [{"trade_off": 0.0, "cap": cap} for cap in CAPS]
    rows = []
    for model_name, make in MODELS.items():
        model = make().fit(train)
        for how in asked:
            caps = {"first_genre": how["cap"]} if how["cap"] else {}
            lists = model.recommend(
                truth.user_id.unique(),
                k=10,
                diversify=Diversity(how["trade_off"], caps),
            )
            report = evaluate(
                lists,
                truth,
                k=10,
                metrics=METRICS,
                items=train.items.item_id,
                vectors=genres,
            )
            found = report.to_frame().set_index("metric")
            values = {name: float(found.value[name]) for name in METRICS}
            ends = {f"ndcg_{end}": float(found[end]["ndcg"]) for end in ("low", "high")}
            row = {"data": options.data, "model": model_name} | how | values | ends
            rows.append(row)
            print(row)
    keep(options.out, rows, ("data",))


if __name__ == "__main__":
    main()
