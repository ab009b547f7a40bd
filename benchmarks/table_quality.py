"""Which settings suit tables of categories? Tries of `DLRMTable` on four such tables.

    python benchmarks/table_quality.py [--data app-log ml-100k tmall anime]
        [--try NAME='{"embedding_l2": 0.05}' ...] [--seeds 1] [--test] [--out FILE]

Each table is made as Frappe and MovieLens tags are made for click models: every event
of a log is a positive row, and two more rows pair its user and context with random
items that this user has not had. Rows are cut at random: 70% to learn from, 20% to
choose settings by, 10% for the test.

app-log   drawn from a model: 957 people take again and again from 60 apps of their
          own out of 4,082, by place, weather, hour, … (10 fields)
ml-100k   user, item, age, gender, occupation, zip area, weekday, hour, genre, year
tmall     a sample of users: user, item, event, weekday, hour
anime     a sample of users: user, item, first genre, second genre, type, episodes

A try is a set of settings that replace those of the profile 'crossed', or a profile;
the profile 'auto' is what a user gets who sets nothing. Its row holds the log loss and
the AUC of the validation part, and with --test those of the test part, too. Tries that
are not among TRIES are given by name and JSON. What a file says of other data and tries
stays. The test parts of app-log, tmall and anime were looked at twice: the second time
after a profile had been changed on the validation part.
MovieLens-100K is read from the folder in RECSYS_NB_ML100K (RecBole's layout).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from _common import keep
from sklearn.metrics import log_loss, roc_auc_score

from recsys_nb.training.table import DLRMTable

ROOT = Path(os.environ.get("RECSYS_NB_DATA", "data"))
ML100K = Path(os.environ.get("RECSYS_NB_ML100K", "ml-100k"))
EVENTS = 80_000  # positive rows of a table, at most
torch.set_num_threads(1)


# ---- tables


def pair_with_random_items(positives, items, seed, per_positive=2):
    "The rows with label 1, and copies with items that the user never had, label 0."
    rng = np.random.default_rng(seed)
    copies = pd.concat([positives] * per_positive, ignore_index=True)
    catalogue = np.unique(items)
    had = pd.MultiIndex.from_frame(positives[["user", "item"]].drop_duplicates())
    drawn = rng.choice(catalogue, len(copies))
    for _ in range(10):
        pairs = pd.MultiIndex.from_arrays([copies.user, drawn])
        taken = pairs.isin(had)
        drawn[taken] = rng.choice(catalogue, taken.sum())
    copies["item"] = drawn
    return pd.concat(
        [positives.assign(label=1), copies.assign(label=0)], ignore_index=True
    )


def draw_app_log(seed, n_users=957, n_items=4082, n_events=EVENTS):
    "People with apps of their own, taken by tastes and eight contexts."
    rng = np.random.default_rng(seed)
    sizes = [7, 7, 2, 3, 9, 80, 230, 3]
    popularity = np.arange(1, n_items + 1) ** -0.9
    popularity /= popularity.sum()
    home = [rng.integers(size, size=n_users) for size in sizes]
    item_vectors = rng.normal(size=(n_items, 8))
    tastes = rng.normal(size=(n_users, 8))
    moods = [rng.normal(size=(size, 8)) / 2 for size in sizes]
    activity = rng.pareto(1.2, n_users) + 0.1
    user = rng.choice(n_users, n_events, p=activity / activity.sum())
    context = []
    for size, usual in zip(sizes, home, strict=True):
        other = rng.integers(size, size=n_events)
        context.append(np.where(rng.random(n_events) < 0.6, usual[user], other))
    own = np.stack([rng.choice(n_items, 60, p=popularity) for _ in range(n_users)])
    wish = tastes[user]
    for vectors, codes in zip(moods, context, strict=True):
        wish = wish + vectors[codes]
    scores = 0.35 * np.einsum("nkd,nd->nk", item_vectors[own[user]], wish)
    chosen = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    frame = pd.DataFrame({"user": user, "item": own[user, chosen]})
    for number, codes in enumerate(context):
        frame[f"context {number}"] = codes
    return pair_with_random_items(frame, np.arange(n_items), seed)


def read_movielens(seed):
    "Ratings of MovieLens-100K, as events, with both tables."
    ratings = pd.read_csv(ML100K / "ml-100k.inter", sep="\t")
    users = pd.read_csv(ML100K / "ml-100k.user", sep="\t", dtype=str)
    movies = pd.read_csv(ML100K / "ml-100k.item", sep="\t", dtype=str)
    ratings.columns = ["user", "item", "rating", "timestamp"]
    users.columns = ["user", "age", "gender", "occupation", "area"]
    movies.columns = ["item", "title", "year", "genres"]
    ratings = ratings.sample(EVENTS, random_state=seed)
    clock = pd.to_datetime(ratings.timestamp, unit="s")
    frame = ratings[["user", "item"]].astype(str).reset_index(drop=True)
    frame["hour"] = clock.dt.hour.to_numpy()
    frame["weekday"] = clock.dt.day_of_week.to_numpy()
    frame = pair_with_random_items(frame, movies.item.to_numpy(), seed)
    movies["genre"] = movies.genres.str.split(" ").str[0]
    users["area"] = users.area.str[:1]
    frame = frame.merge(users, on="user", how="left")
    return frame.merge(movies[["item", "genre", "year"]], on="item", how="left")


def read_tmall(seed):
    "Purchases, carts and favourites of a sample of users."
    events = pd.read_csv(ROOT / "tmall" / "events.csv.gz")
    rng = np.random.default_rng(seed)
    users = rng.permutation(events.user.unique())
    sizes = events.groupby("user").size()[users].cumsum()
    events = events[events.user.isin(users[: (sizes <= EVENTS).sum()])]
    clock = pd.to_datetime(events.ts, unit="s")
    frame = events[["user", "item", "event"]].reset_index(drop=True)
    frame["weekday"] = clock.dt.day_of_week.to_numpy()
    frame["hour"] = clock.dt.hour.to_numpy()
    return pair_with_random_items(frame, frame.item.to_numpy(), seed)


def read_anime(seed):
    "A sample of the history, with what is known of the series."
    history = pd.read_csv(ROOT / "anime" / "anime_history.dat", sep="\t")
    info = pd.read_csv(ROOT / "anime" / "anime_info.dat", sep="\t", dtype=str)
    history = history.sample(EVENTS, random_state=seed)
    frame = pd.DataFrame({"user": history.User_ID, "item": history.Anime_ID})
    frame = pair_with_random_items(frame, frame.item.to_numpy(), seed)
    genres = info.genre.fillna("").str.split(", ")
    info = info.assign(item=np.arange(1, len(info) + 1))
    info["first genre"], info["second genre"] = genres.str[0], genres.str[1]
    columns = ["item", "first genre", "second genre", "type", "episodes"]
    return frame.merge(info[columns], on="item", how="left").fillna("none")


TABLES = {
    "app-log": draw_app_log,
    "ml-100k": read_movielens,
    "tmall": read_tmall,
    "anime": read_anime,
}


def divide(frame, seed):
    "Rows to learn from, to choose by, and to test on: 70, 20 and 10%."
    order = np.random.default_rng(seed).permutation(len(frame))
    cuts = [int(0.7 * len(frame)), int(0.9 * len(frame))]
    return [frame.iloc[rows] for rows in np.split(order, cuts)]


# ---- tries

BARS = {  # as the tables of BARS train on Frappe (Zhu et al. 2022)
    "dim": 10,
    "embedding_l2": 0.05,
    "top_mlp_dims": (400, 400, 400),
    "dropout": 0.2,
    "head": "mlp",
    "linear": False,
    "lr": 1e-3,
    "batch_size": 4096,
    "plateau": (0.1, 1),
    "patience": 2,
}
TRIES = {
    "defaults": {"profile": "auto"},
    "crossed": {"profile": "crossed"},
    "products": {"profile": "products"},
    "careful": {"profile": "careful"},
    "as in BARS, dot": BARS | {"interaction": "dot"},
    "as in BARS, dcn": BARS | {"interaction": "dcn"},
    "as in BARS, final": BARS | {"head": "final", "interaction": "cat"},
}


def measure(model, frame):
    "Log loss and AUC of rows."
    chance = model.predict(frame).astype(float)
    clipped = chance.clip(1e-7, 1 - 1e-7)
    return {
        "log_loss": float(log_loss(frame.label, clipped)),
        "auc": float(roc_auc_score(frame.label, chance)),
    }


def run(parts, changes, seed, test):
    "One fit: what it says of the validation part, and of the test part if asked."
    learn, choose, judge = parts
    start = time.process_time()
    settings = {"profile": "crossed"} | changes
    model = DLRMTable(seed=seed, device="cpu", **settings)
    model.fit(learn, valid=choose)
    found = {"seconds": time.process_time() - start}
    found["epochs"] = model.result_.best_epoch
    found["profile"] = model.profile_
    found["valid"] = measure(model, choose)
    if test:
        found["test"] = measure(model, judge)
    return found


def average(runs, part):
    "The mean of a part's measures over the seeds."
    return {
        name: float(np.mean([one[part][name] for one in runs]))
        for name in runs[0][part]
    }


def contest(name, tries, seeds, test):
    "A row for each try on one table."
    parts = divide(TABLES[name](0), 0)
    for label, changes in tries.items():
        runs = [run(parts, changes, seed, test) for seed in range(seeds)]
        row = {
            "data": f"table {name}",
            "rows": len(parts[0]),
            "fields": parts[0].shape[1] - 1,
            "try": label,
            "settings": changes,
            "seeds": seeds,
            "best_epochs": [one["epochs"] for one in runs],
            "profiles": [one["profile"] for one in runs],
            "seconds": float(np.mean([one["seconds"] for one in runs])),
        }
        row |= {part: average(runs, part) for part in ("valid", "test")[: 1 + test]}
        scores = {k: round(v, 5) for k, v in (row.get("test") or row["valid"]).items()}
        print(name, label, row["valid"], scores, row["best_epochs"], flush=True)
        yield row


def read_try(text):
    "A name and settings of 'NAME={…}'; the name alone: among TRIES."
    label, _, settings = text.partition("=")
    return label, json.loads(settings) if settings else TRIES[label]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--try", nargs="+", dest="tries", default=list(TRIES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--test", action="store_true", help="also judge the test part")
    parser.add_argument("--out", type=Path, help="keep the rows in this JSON file")
    options = parser.parse_args()
    tries = dict(map(read_try, options.tries))
    for name in options.data:
        for row in contest(name, tries, options.seeds, options.test):
            keep(options.out, [row], ("data", "try"))


if __name__ == "__main__":
    main()
