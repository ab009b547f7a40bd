"""The default recommender beside every baseline on real logs, nothing set:
NDCG@10 on the test part of each log, with seconds, CPU seconds and memory.

    python benchmarks/real_logs.py                        # all logs that are here
    python benchmarks/real_logs.py --data steam --seeds 1 --models Recommender EASE
    python benchmarks/real_logs.py --tuned                # baselines tuned too

Every row is written to results/real_logs.json as soon as it is there, and a row that
is there is not made again, so the table can be made in pieces. Logs that are not on
this machine are named and left out. RECSYS_NB_DATA names the folder of the logs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from _common import memory

from recsys_nb.data import Dataset, load, split_leave_last_out
from recsys_nb.evaluation import evaluate
from recsys_nb.recommenders import (
    BASELINES,
    SPACES,
    Recommender,
    TwoTowerRetriever,
    new_pairs,
    split_as_served,
    tune,
)

HOME = Path(os.environ.get("RECSYS_NB_DATA", "data"))
RESULTS = Path(__file__).parent / "results" / "real_logs.json"
OUTCOMES = RESULTS.with_name("real_logs_outcomes.json")  # what the tables show first
# NDCG@10 of each user, by which models are compared; not kept in the repository
BY_USER = Path(__file__).parent / ".cache" / "real_logs"
KEYS = ["user_id", "item_id"]


def read_table(path: str, **options) -> pd.DataFrame:
    "A file of the folder of logs."
    return pd.read_csv(HOME / path, **options)


def read_pairs(path: str, name: str) -> Dataset:
    "Users and items, separated by tabs, without times."
    frame = read_table(path, sep="\t", usecols=[0, 1])
    frame.columns = KEYS
    return Dataset(frame.drop_duplicates(), name=name)


def read_events(path: str, name: str, positive: tuple[str, ...]) -> Dataset:
    "A log of user, item, event, ts."
    frame = read_table(path)
    frame.columns = [*KEYS, "event_type", "timestamp"]
    frame["timestamp"] = pd.to_datetime(frame.timestamp, unit="s")
    return Dataset(frame, positive=positive, name=name)


def read_user_lists(path: str) -> pd.DataFrame:
    "Lines `user item item …`, in their order."
    lines = (HOME / path).read_text(encoding="ascii").split("\n")
    rows = [line.split() for line in lines if line]
    users = [row[0] for row in rows for _ in row[1:]]
    items = [item for row in rows for item in row[1:]]
    place = [place for row in rows for place in range(len(row) - 1)]
    frame = {"user_id": users, "item_id": items, "place": place}
    return pd.DataFrame(frame).astype(int)


def split_whole(log: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    "A log that is not split yet, as the command line splits it."
    return split_as_served(log, seed=seed)[:2]


def read_given_split(folder: str) -> tuple[Dataset, Dataset]:
    "A published split of user lists: the same for every seed."
    parts = [read_user_lists(f"{folder}/{part}.txt") for part in ("train", "test")]
    ids = pd.concat(parts)
    users = pd.DataFrame({"user_id": ids.user_id.unique()})
    items = pd.DataFrame({"item_id": sorted(ids.item_id.unique())})
    logs = [Dataset(part[KEYS], users, items, name=folder) for part in parts]
    return logs[0], logs[1]


def read_sequences(path: str, name: str) -> tuple[Dataset, Dataset]:
    "Each user's last item is the test; places are days, as no times are there."
    frame = read_user_lists(path)
    frame["timestamp"] = pd.Timestamp("2000-01-01") + pd.to_timedelta(frame.place, "D")
    last = frame.groupby("user_id").place.transform("max") == frame.place
    items = pd.DataFrame({"item_id": sorted(frame.item_id.unique())})
    users = pd.DataFrame({"user_id": frame.user_id.unique()})
    columns = [*KEYS, "timestamp"]
    parts = [frame.loc[~last, columns], frame.loc[last, columns]]
    logs = [Dataset(part, users, items, name=name) for part in parts]
    return logs[0], logs[1]


def read_last_ratings(folder: str) -> tuple[Dataset, Dataset]:
    "MovieLens, every rating a positive, the last of each user held out."
    log = load(HOME / folder)
    ids = log.interactions[[*KEYS, "timestamp"]]
    return split_leave_last_out(Dataset(ids, log.users, log.items, name=folder))


# name -> file that must be there, what reads and splits it for a seed
LOGS: dict[str, tuple[str, Callable]] = {
    "steam": (
        "steam/game_purchase.dat",
        lambda seed: split_whole(read_pairs("steam/game_purchase.dat", "steam"), seed),
    ),
    "anime": (
        "anime/anime_history.dat",
        lambda seed: split_whole(read_pairs("anime/anime_history.dat", "anime"), seed),
    ),
    "tmall buys": (
        "tmall/events.csv.gz",
        lambda seed: split_whole(
            read_events("tmall/events.csv.gz", "tmall buys", ("buy",)), seed
        ),
    ),
    "tmall carts": (
        "tmall/events.csv.gz",
        lambda seed: split_whole(
            read_events("tmall/events.csv.gz", "tmall carts", ("cart",)), seed
        ),
    ),
    "retailrocket carts": (
        "retailrocket/events.csv",
        lambda seed: split_whole(
            read_events("retailrocket/events.csv", "retailrocket", ("cart", "buy")),
            seed,
        ),
    ),
    "ml-latest-small": (
        "ml-latest-small/ratings.csv",
        lambda seed: split_whole(load(HOME / "ml-latest-small", positive=4.0), seed),
    ),
    "ml-100k": (
        "ml-100k/ml-100k.inter",
        lambda seed: split_whole(load(HOME / "ml-100k", positive=4.0), seed),
    ),
    "yelp2018": ("yelp2018/train.txt", lambda seed: read_given_split("yelp2018")),
    "gowalla": ("gowalla/train.txt", lambda seed: read_given_split("gowalla")),
    "toys": (
        "toys/sequences.txt",
        lambda seed: read_sequences("toys/sequences.txt", "toys"),
    ),
    "beauty": ("Beauty.txt", lambda seed: read_sequences("Beauty.txt", "beauty")),
    "sports": (
        "Sports_and_Outdoors.txt",
        lambda seed: read_sequences("Sports_and_Outdoors.txt", "sports"),
    ),
    "ml-1m": ("ml-1m/ratings.dat", lambda seed: read_last_ratings("ml-1m")),
}


def keep_present(
    names: list[str],  # of LOGS
) -> list[str]:  # those whose files are there
    "Leave out, with a line, the logs that this machine does not have."
    for name in names:
        if not (HOME / LOGS[name][0]).exists():
            print(f"{name}: {LOGS[name][0]} is not in {HOME}, left out")
    return [name for name in names if (HOME / LOGS[name][0]).exists()]


def list_missing(path: Path, names: list[str], seeds: list[int]):
    "Logs that are here, and seeds, of which a file of results has no rows yet."
    known = json.loads(path.read_text()) if path.exists() else []
    done = {(row["data"], row["seed"]) for row in known}
    for data in keep_present(names):
        yield from ((data, seed) for seed in seeds if (data, seed) not in done)


def split_inner(name: str, seed: int, n_users: int = 3_000):
    "A training part split once more: its earlier part, new pairs of its later part."
    train, _ = LOGS[name][1](seed)
    head, tail, *_ = split_as_served(train.positives(), seed=seed)
    pairs, _ = new_pairs(head.positives().interactions, tail.positives().interactions)
    users = pd.Series(pairs.user_id.unique())
    some = users.sample(min(n_users, len(users)), random_state=seed)
    return head, pairs[pairs.user_id.isin(some)]


# a part of the default alone, by history encoder; the second is for logs with times
TOWERS = {
    "Two-Tower, mean": partial(TwoTowerRetriever, history="mean"),
    "Two-Tower, attention": partial(TwoTowerRetriever, history="attention"),
}
MODELS = {**BASELINES, **TOWERS, "Recommender": Recommender}
SEEDED = ("ALS", "BPR", *TOWERS, "Recommender")


def fit_model(name: str, train: Dataset, seed: int, tuned: bool):
    "A fitted model, and what is to be said of it."
    options = {"seed": seed} if name in SEEDED else {}
    if name == "Recommender":
        model = Recommender(**options, say=lambda text: print(" ", text, flush=True))
        model.fit(train)
        return model, {"gate": model.summary().to_dict()}
    positives = train.positives()
    if tuned:
        found = tune(MODELS[name], positives, trials=15, seed=seed, progress=False)
        return found.model, {"settings": found.best}
    return MODELS[name](**options).fit(positives), {}


def measure(data: str, name: str, seed: int, tuned: bool) -> dict:
    "One row of the table, made in this process."
    train, test = LOGS[data][1](seed)
    past = train.positives().interactions
    truth, counts = new_pairs(past, test.positives().interactions)
    wall, cpu = time.perf_counter(), time.process_time()
    model, about = fit_model(name, train, seed, tuned)
    fitted = {
        "fit_seconds": time.perf_counter() - wall,
        "fit_cpu_seconds": time.process_time() - cpu,
    }
    lists = model.recommend(truth.user_id.unique(), k=20)
    report = evaluate(
        lists, truth, k=(10, 20), metrics=["ndcg", "recall", "hit_rate"], seed=0
    )
    by_user = report.per_user["ndcg@10"]
    file = name_file(data, seed, name, tuned)
    file.parent.mkdir(parents=True, exist_ok=True)
    by_user.to_frame().to_parquet(file)
    frame = report.to_frame()
    metrics = {
        f"{row.metric}@{row.k}": [row.value, row.low, row.high]
        for row in frame.itertuples()
    }
    return {
        "data": data,
        "model": name,
        "seed": seed,
        "tuned": tuned,
        "users": counts["users_evaluated"],
        "metrics": metrics,
        **fitted,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": memory("VmHWM"),
        "against": {},
        **about,
    }


def name_file(data: str, seed: int, name: str, tuned: bool) -> Path:
    "Where a row's NDCG@10 of each user is kept."
    model = f"{name} tuned" if tuned else name
    return BY_USER / f"{data}~{seed}~{model}.parquet"


def compare_with_others(row: dict) -> dict[str, list[float]]:
    "Paired differences of NDCG@10 to the other models of the same log and seed."
    file = name_file(row["data"], row["seed"], row["model"], row["tuned"])
    if not file.exists():
        return row["against"]
    ours = pd.read_parquet(file)["ndcg@10"]
    differences = {}
    for other in sorted(BY_USER.glob(f"{row['data']}~{row['seed']}~*.parquet")):
        if other == file:
            continue
        gap = (ours - pd.read_parquet(other)["ndcg@10"]).dropna()
        error = 1.96 * gap.std() / len(gap) ** 0.5
        ends = [gap.mean(), gap.mean() - error, gap.mean() + error]
        differences[other.stem.split("~")[-1]] = ends
    return row["against"] | differences


def fill_differences() -> None:
    "Compare every row with all that were measured, also later, and sum it up."
    write_rows([row | {"against": compare_with_others(row)} for row in read_rows()])
    text = json.dumps(find_outcomes(), indent=1)
    OUTCOMES.write_text(f"{text}\n", encoding="utf-8")


def compare_best(ours: pd.DataFrame, others: pd.DataFrame) -> dict:
    "The best of some models by its mean, and the default's difference to it."
    means = others.groupby("model").ndcg.agg(["mean", "count"]).round(5)
    means = means.sort_values(["mean", "count"])  # level ones: with more seeds
    best = means.index[-1]
    found = [against[best] for against in ours.against if best in against]
    return {
        "name": best,
        "ndcg": means["mean"].iloc[-1],
        "seeds": len(found),
        "difference": pd.DataFrame(found).mean().tolist(),
    }


def find_outcomes() -> list[dict]:
    """The default against the best other model of each log, and against the best tower
    alone, means over seeds; where the other has fewer seeds, over these."""
    rows = pd.DataFrame(read_rows())
    rows["ndcg"] = [metrics["ndcg@10"][0] for metrics in rows.metrics]
    rows["model"] += rows.tuned.map({True: " tuned", False: ""})
    outcomes = []
    for data, part in rows.groupby("data"):
        ours = part[(part.model == "Recommender") & (part.against.map(len) > 0)]
        if not len(ours):
            continue
        met = set.union(*(set(against) for against in ours.against))
        others = part[part.model.isin(met) & part.seed.isin(ours.seed)]
        towers = others[others.model.isin(TOWERS)]
        chosen = pd.Series([gate["chosen"] for gate in ours.gate]).value_counts()
        outcomes.append(
            {
                "data": data,
                "seeds": len(ours),
                "ndcg": [ours.ndcg.mean(), ours.ndcg.min(), ours.ndcg.max()],
                "answers": chosen.to_dict(),
                "other": compare_best(ours, others.drop(towers.index)),
                "tower": compare_best(ours, towers) if len(towers) else None,
            }
        )
    return outcomes


def key_of(row: dict) -> tuple:
    "What makes two rows the same."
    return row["data"], row["model"], row["seed"], row["tuned"]


def read_rows() -> list[dict]:
    "The rows that are there."
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def write_rows(rows: list[dict]) -> None:
    "Replace the rows that are there, at once."
    RESULTS.parent.mkdir(exist_ok=True)
    beside = RESULTS.with_suffix(".part")
    beside.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    beside.replace(RESULTS)


def add_row(row: dict) -> None:
    "Write a row beside those that are there."
    others = [other for other in read_rows() if key_of(other) != key_of(row)]
    write_rows([*others, row])


def run_row(data: str, name: str, seed: int, tuned: bool, seconds: int) -> None:
    "A row made in a process of its own, so that its memory is its own."
    words = [data, name, str(seed), str(int(tuned))]
    command = [sys.executable, __file__, "--worker", *words]
    try:
        subprocess.run(command, check=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"{data}, {name}: more than {seconds} s, left out")
    except subprocess.CalledProcessError as error:
        print(f"{data}, {name}: ended with status {error.returncode}")


def show_table() -> None:
    "NDCG@10, the mean over seeds."
    rows = pd.DataFrame(read_rows())
    if not len(rows):
        return
    rows["ndcg@10"] = [metrics["ndcg@10"][0] for metrics in rows.metrics]
    rows["model"] += rows.tuned.map({True: " tuned", False: ""})
    print(rows.pivot_table(index="data", columns="model", values="ndcg@10").round(4))


def main() -> None:
    "The rows asked for that are not there yet."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=LOGS, default=list(LOGS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--tuned", action="store_true", help="tune the baselines")
    parser.add_argument("--seconds", type=int, default=1800, help="for one row")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        data, name, seed, tuned = given.worker
        try:
            add_row(measure(data, name, int(seed), bool(int(tuned))))
        except ValueError as error:  # such as attention on a log without times
            sys.exit(f"{data}, {name}: {error}")
        return
    done = {key_of(row) for row in read_rows()}
    for data in keep_present(given.data):
        for seed in given.seeds:
            for name in given.models:
                tuned = given.tuned and MODELS[name] in SPACES
                if (data, name, seed, tuned) not in done:
                    run_row(data, name, seed, tuned, given.seconds)
    fill_differences()
    show_table()


if __name__ == "__main__":
    main()
