"""New items, found by what is known of them: a fifth of the items is held out with all
their events, and a retriever that has never met them is asked which of them each user
takes. The items are known by vectors, by categories, by both, or by their ids only.

    python benchmarks/vectors.py                   # all logs that are here, three seeds
    python benchmarks/vectors.py --data simulated --seeds 1
    python benchmarks/vectors.py --part valid      # for choices: without test items

With `--part valid` the items asked for are another fifth, and the test items are in no
log. Every row is written to results/vectors.json as soon as it is there. RECSYS_NB_DATA
names the folder of the logs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys_nb.data import Dataset, World, load

RESULTS = Path(__file__).parent / "results" / "vectors.json"
DIMENSIONS = 32  # of the vectors of the simulated shop
NOISE = 0.15  # standard deviation of each number; the true tastes have length 1
TOPICS = 64  # of the vectors of films
K = (10, 50)


def read_simulated(seed: int) -> tuple[Dataset, list[str], str]:
    "A simulated shop whose items have a noisy view of their true taste."
    world = World(n_users=3_000, n_items=1_500, seed=seed)
    log = world.sample(100_000).positives()
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
    import os

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


def with_columns(log: Dataset, columns: list[str]) -> Dataset:
    "The log with these columns of its items only."
    new = log.replace(log.interactions)
    new.items = log.items[["item_id", *columns]]
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


def list_by(scores: pd.Series, users: np.ndarray, rng) -> pd.DataFrame:
    "The same scores for all users, ties in random order."
    k = max(K)
    rows = []
    for user in users:
        noise = rng.random(len(scores))
        order = np.lexsort((noise, -scores.to_numpy()))[:k]
        rows.append(
            pd.DataFrame(
                {
                    "user_id": user,
                    "item_id": scores.index[order],
                    "rank": np.arange(1, len(order) + 1),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)
