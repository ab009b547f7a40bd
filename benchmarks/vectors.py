"""New items, found by what is known of them: a fifth of the items is held out with all
their events, and a retriever that has never met them is asked which of them each user
takes. The items are known by vectors, by categories, by both, or by their ids only.
Then the other way round: strangers come who took nothing but new items, and are asked
which of the old ones they take; their history is read by the vectors of its items, or
not at all.

    python benchmarks/vectors.py                   # both logs and tasks, three seeds
    python benchmarks/vectors.py --data simulated --tasks histories --seeds 0
    python benchmarks/vectors.py --part valid      # for choices: without test items

With `--part valid` the items asked for are another fifth, and the test items are in no
log. Every row is written to results/vectors.json as soon as it is there. RECSYS_NB_DATA
names the folder of the logs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import keep
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys_nb.data import Dataset, World, load
from recsys_nb.evaluation import compare, evaluate
from recsys_nb.recommenders import TwoTowerRetriever

RESULTS = Path(__file__).parent / "results" / "vectors.json"
DIMENSIONS = 32  # of the vectors of the simulated shop
NOISE = 0.15  # standard deviation of each number; the true tastes have length 1
TOPICS = 64  # of the vectors of films
K = (10, 50)
# one profile for each log, so that all ways are trained alike
PROFILES = {"simulated": "noisy", "movielens-small": "dense"}
ID_DROPOUT = 0.2  # of all ways; the default where items have vectors


def read_simulated(seed: int) -> tuple[Dataset, list[str], str]:
    "A simulated shop whose items have a noisy view of their true taste."
    world = World(n_users=2_000, n_items=1_000, seed=seed)
    log = world.sample(60_000).positives()
    rng = np.random.default_rng([seed, 1])
    tastes = world.shop.traits.vectors
    turned = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    vectors = tastes @ turned[: tastes.shape[1]]
    vectors = vectors + rng.normal(0, NOISE, vectors.shape)
    items = log.items.drop(columns="popularity")  # which no shop knows of new items
    log.items = items.assign(emb=list(vectors.astype(np.float32)))
    return log, ["category", "price"], "category"


def read_movielens(seed: int) -> tuple[Dataset, list[str], str]:
    "MovieLens small: films with vectors of the words in their genres and tags."
    log = load("movielens-small", positive=4.0).positives()
    path = Path(log_folder()) / "ml-latest-small" / "tags.csv"
    tags = pd.read_csv(path).groupby("movieId").tag.agg(" ".join)
    items = log.items
    text = items.genres.fillna("").str.replace("|", " ")
    text = text + " " + items.item_id.map(tags).fillna("")
    words = TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform(text)
    vectors = TruncatedSVD(TOPICS, random_state=0).fit_transform(words)
    log.items = items.assign(emb=list(vectors.astype(np.float32)))
    return log, ["genres", "year"], "genres"


def log_folder() -> str:
    "The folder of the logs."
    return os.environ["RECSYS_NB_DATA"]


LOGS: dict[str, Callable] = {
    "simulated": read_simulated,
    "movielens-small": read_movielens,
}


def split_items(log: Dataset, part: str, seed: int) -> tuple[Dataset, pd.DataFrame]:
    "The log without the items asked for, and what users took of these."
    ids = np.random.default_rng([seed, 2]).permutation(np.sort(log.item_ids))
    fifth = len(ids) // 5
    test, valid = ids[:fifth], ids[fifth : 2 * fifth]
    asked = test if part == "test" else valid
    hidden = test if part == "test" else np.concatenate([test, valid])
    events = log.interactions
    known = log.replace(events[~events.item_id.isin(hidden)])
    truth = events[events.item_id.isin(asked)]
    truth = truth[truth.user_id.isin(known.interactions.user_id)]
    return known, truth.drop_duplicates(["user_id", "item_id"]), asked


def with_columns(log: Dataset, columns: list[str], seed: int) -> Dataset:
    """The log with these columns of its items only. Its items are in random order,
    since equal scores are listed in the order of the catalogue, and old films, which
    many know, come first there."""
    new = log.replace(log.interactions)
    new.items = log.items[["item_id", *columns]].sample(frac=1, random_state=seed)
    return new


def rank_by_category(log: Dataset, asked: np.ndarray, category: str) -> pd.Series:
    "For each new item how often an item of its category is taken on average."
    counts = log.interactions.item_id.value_counts()
    items = log.items.assign(count=log.items.item_id.map(counts).fillna(0))
    groups = items[category].fillna("").astype(str).str.split("|")
    rows = items.assign(group=groups).explode("group")
    known = rows[~rows.item_id.isin(asked)]
    rate = known.groupby("group")["count"].mean()
    new = rows[rows.item_id.isin(asked)]
    return new.group.map(rate).fillna(0).groupby(new.item_id).mean()


def list_by(scores: pd.Series, users: np.ndarray, seed: int) -> pd.DataFrame:
    "The items with the best scores for every user, ties in random order by user."
    rng, k = np.random.default_rng([seed, 3]), max(K)
    noise = rng.random((len(users), len(scores)))
    order = np.lexsort((noise, np.broadcast_to(-scores.to_numpy(), noise.shape)))
    best = order[:, :k]
    return pd.DataFrame(
        {
            "user_id": np.repeat(users, best.shape[1]),
            "item_id": scores.index.to_numpy()[best.ravel()],
            "rank": np.tile(np.arange(1, best.shape[1] + 1), len(users)),
        }
    )


def list_by_model(
    log: Dataset, users: np.ndarray, asked: np.ndarray, seed: int, profile: str
) -> tuple[pd.DataFrame, float]:
    "Lists of new items, and the share of new items in lists of all items."
    options = {"seed": seed, "profile": profile, "id_dropout": ID_DROPOUT}
    model = TwoTowerRetriever(**options).fit(log)
    anything = model.recommend(users, k=max(K))
    lists = model.recommend(users, k=max(K), candidates=asked)
    return lists, float(anything.item_id.isin(asked).mean())


def find_strangers(
    known: Dataset, truth: pd.DataFrame, seed: int, most: int = 800
) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Users under ids that no log has: the new items they took, and the old ones."
    old = known.interactions.drop_duplicates(["user_id", "item_id"])
    ids = pd.Series(np.intersect1d(truth.user_id, old.user_id))
    ids = ids.sample(min(most, len(ids)), random_state=seed)
    parts = (part[part.user_id.isin(ids)] for part in (truth, old))
    return tuple(part.assign(user_id=rename(part.user_id)) for part in parts)


def rename(ids: pd.Series) -> pd.Series:
    "Ids of the same type that no log has."
    if pd.api.types.is_integer_dtype(ids):
        return -1 - ids
    return "new " + ids


def forget_new_items(model: TwoTowerRetriever) -> None:
    "Histories as if nothing were known of items that nobody took."
    n_items = len(model.item_ids_)
    met = np.bincount(model.catalogue_.histories.items, minlength=n_items) > 0
    with torch.no_grad():
        model.model_.item_tower.table.weight[:n_items][torch.from_numpy(~met)] = 0


def judge_histories(data: str, seed: int, part: str) -> list[dict]:
    "Lists of old items for strangers who took new ones."
    log = LOGS[data](seed)[0]
    known, truth, _ = split_items(log, part, seed)
    events, wanted = find_strangers(known, truth, seed)
    part_log = with_columns(known, ["emb"], seed)
    options = {"seed": seed, "profile": PROFILES[data], "id_dropout": ID_DROPOUT}
    model = TwoTowerRetriever(**options).fit(part_log)
    users = wanted.user_id.unique()
    old = known.interactions.item_id.unique()
    question = {"k": max(K), "candidates": old}
    lists = {"read by their vectors": model.recommend(users, events=events, **question)}
    lists["popular items"] = model.recommend(users, **question)
    forget_new_items(model)
    lists["not read"] = model.recommend(users, events=events, **question)
    reports = {
        way: evaluate(found, wanted, k=K, metrics="recall", name=way, seed=seed)
        for way, found in lists.items()
    }
    rows = []
    best = reports["read by their vectors"]
    for way, report in reports.items():
        row = {"task": "histories", "data": data, "seed": seed, "part": part}
        row |= {"way": way, "users": len(users), "taken": len(wanted)}
        row |= describe(report)
        if report is not best:
            row |= find_gaps(report, best)
        rows.append(row)
    return rows


def find_gaps(report, best) -> dict:
    "The differences to the first way, with intervals, for JSON."
    return {
        f"vectors minus this, recall@{line.k}": [
            round(float(value), 5) for value in (line.difference, line.low, line.high)
        ]
        for line in compare(report, best).to_frame().itertuples()
    }


def describe(report) -> dict:
    "Recall with its interval, for JSON."
    found = {}
    for row in report.to_frame().itertuples():
        name = f"{row.metric}@{row.k}"
        found[name] = round(row.value, 5)
        found[f"{name} low"] = round(row.low, 5)
        found[f"{name} high"] = round(row.high, 5)
    return found


def judge(data: str, seed: int, part: str) -> list[dict]:
    "All ways to know the new items of a log, with the differences to vectors."
    log, columns, category = LOGS[data](seed)
    known, truth, asked = split_items(log, part, seed)
    users = truth.user_id.unique()
    ways = {
        "vectors": ["emb"],
        "categories": columns,
        "vectors and categories": ["emb", *columns],
        "ids only": [],
    }
    lists, shares = {}, {}
    for way, chosen in ways.items():
        part_log = with_columns(known, chosen, seed)
        lists[way], shares[way] = list_by_model(
            part_log, users, asked, seed, PROFILES[data]
        )
        print(data, seed, way, "done", flush=True)
    by_category = rank_by_category(known, asked, category)
    lists["popularity of the category"] = list_by(by_category, users, seed)
    lists["random"] = list_by(0 * by_category, users, seed)
    reports = {
        way: evaluate(found, truth, k=K, metrics="recall", name=way, seed=seed)
        for way, found in lists.items()
    }
    rows = []
    for way, report in reports.items():
        row = {"task": "new items", "data": data, "seed": seed}
        row |= {"part": part, "way": way}
        row |= {"users": len(users), "new items": len(asked), "taken": len(truth)}
        row |= {"share of new in lists of all": shares.get(way)} | describe(report)
        if way != "vectors":
            row |= find_gaps(report, reports["vectors"])
        rows.append(row)
    return rows


TASKS = {"new items": judge, "histories": judge_histories}


def main() -> None:
    "All logs and seeds that are asked for."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=list(LOGS), choices=list(LOGS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", default="test", choices=["test", "valid"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for data in args.data:
        for seed in args.seeds:
            for task in args.tasks:
                rows = TASKS[task](data, seed, args.part)
                keep(args.out, rows, of=("task", "data", "seed", "part", "way"))
                columns = ["way", "recall@10", "recall@50"]
                print(pd.DataFrame(rows)[columns].to_string(), flush=True)


if __name__ == "__main__":
    main()
