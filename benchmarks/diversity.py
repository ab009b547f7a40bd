"""What varied lists cost: NDCG@10 against the diversity of a list and coverage.

    python benchmarks/diversity.py [--data movielens-small anime simulated]
        [--out results/diversity.json]

The last fifth of each user's films of MovieLens, a random fifth of the titles of anime
(it has no times) and the later fifth of a simulated shop are held out. Lists of EASE
and of a Two-Tower model are varied by maximal marginal relevance with several
trade-offs, and capped by one column of the items. The diversity of a list is the mean
cosine distance of the genres, or categories, of its pairs, which the method does not
see: it compares items by who took them, or by the vectors of the model.

All is done twice: on a validation part of the training part, where a
trade-off is chosen, and on the test part, with models that learn the whole training
part. EASE takes the `l2` that is best on the validation part; the Two-Tower model has
the profile of dense logs and three epochs on every log. Differences to the order of
the scores are paired over users.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import pandas as pd
from _common import keep
from real_logs import HOME, read_pairs

from recsys_nb.data import Dataset, load, simulate
from recsys_nb.evaluation import compare, evaluate
from recsys_nb.recommenders import (
    EASE,
    Diversity,
    TwoTowerRetriever,
    new_pairs,
    split_as_served,
)

TRADE_OFFS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
CAPS = (1, 2, 3, 5)
L2 = (100.0, 300.0, 1000.0)  # of EASE
METRICS = ["ndcg", "coverage", "diversity"]
N_USERS = 2_000  # judged, at most
ITEM_KINDS = {
    # data -> column with all kinds of an item, what separates them, column of the caps
    "movielens-small": ("genres", "|", "first_genre"),
    "anime": ("genre", ", ", "first_genre"),
    "simulated": ("category", "|", "category"),
}


def read_anime() -> Dataset:
    "What users watched, and the genres of the titles."
    log = read_pairs("anime/anime_history.dat", "anime")
    items = pd.read_csv(HOME / "anime" / "anime_info.dat", sep="\t")
    items = items.rename(columns={"anime_ids": "item_id"})
    events = log.interactions[["user_id", "item_id"]]
    return Dataset(events, items=items, name="anime")


READERS = {
    "movielens-small": lambda: load("movielens-small"),
    "anime": read_anime,
    "simulated": lambda: simulate(4_000, 2_000, 200_000, seed=7),
}


def split_parts(name: str) -> dict[str, tuple[Dataset, pd.DataFrame]]:
    "What is learnt and what is held out: of the validation part, and of the test."
    log = READERS[name]()
    column, separator, _ = ITEM_KINDS[name]
    kinds = log.items[column].fillna("").str.split(separator, regex=False)
    log.items["first_genre"] = kinds.str[0]
    train, test, *_ = split_as_served(log)
    train = train.positives()
    head, tail, *_ = split_as_served(train)
    parts = {"validation": (head, tail), "test": (train, test)}
    for part, (past, later) in parts.items():
        events = later.positives().interactions
        truth, _ = new_pairs(past.interactions, events)
        users = pd.Series(truth.user_id.unique())
        users = users.sample(min(N_USERS, len(users)), random_state=0)
        parts[part] = past, truth[truth.user_id.isin(users)]
    return parts


def choose_l2(train: Dataset, truth: pd.DataFrame) -> float:
    "The regularisation of EASE with the best NDCG on the validation part."
    scores = {}
    for l2 in L2:
        lists = EASE(l2=l2).fit(train).recommend(truth.user_id.unique(), k=10)
        scores[l2] = evaluate(lists, truth, k=10, metrics="ndcg", n_boot=0)["ndcg@10"]
    print("EASE:", scores)
    return max(scores, key=scores.get)


def measure(model, truth: pd.DataFrame, about: dict, diversity: dict) -> list[dict]:
    "A row for each trade-off and each cap."
    *_, cap_column = ITEM_KINDS[about["data"]]
    asked = [{"trade_off": t, "cap": 0} for t in TRADE_OFFS]
    asked += [{"trade_off": 0.0, "cap": cap} for cap in CAPS]
    users, rows, plain = truth.user_id.unique(), [], None
    for how in asked:
        caps = {cap_column: how["cap"]} if how["cap"] else {}
        varied = Diversity(how["trade_off"], caps)
        lists = model.recommend(users, k=10, diversify=varied)
        report = evaluate(lists, truth, k=10, metrics=METRICS, **diversity)
        plain = plain or report
        found = report.to_frame().set_index("metric")
        row = about | how | {name: float(found.value[name]) for name in METRICS}
        changed = compare(plain, report).to_frame().set_index("metric")
        for name in ("ndcg", "diversity"):
            ends = changed.loc[name, ["difference", "low", "high"]]
            row[f"{name}_difference"] = [float(end) for end in ends]
        row["users"] = len(users)
        rows.append(row)
        print(row, flush=True)
    return rows


def measure_log(name: str) -> list[dict]:
    "All rows of a log."
    parts = split_parts(name)
    l2 = choose_l2(*parts["validation"])
    makers = {
        "EASE": lambda: EASE(l2=l2),
        "Two-Tower": lambda: TwoTowerRetriever(profile="dense", epochs=3, seed=0),
    }
    column, separator, _ = ITEM_KINDS[name]
    rows = []
    for part, (train, truth) in parts.items():
        kinds = train.items[column].fillna("").str.get_dummies(separator)
        genres = kinds.set_axis(train.items.item_id)
        diversity = {"items": train.items.item_id, "vectors": genres}
        for model_name, make in makers.items():
            about = {"data": name, "part": part, "model": model_name}
            rows += measure(make().fit(train), truth, about, diversity)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = {"nargs": "+", "choices": READERS, "default": list(READERS)}
    parser.add_argument("--data", **choices)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for name in options.data:
        keep(options.out, measure_log(name), ("data",))


if __name__ == "__main__":
    main()
