"""Who finds what people take next? The Two-Tower retriever against tuned baselines and
other libraries, on the same data in one run.

    python benchmarks/retrieval.py [--data simulated movielens-100k PATH ...] [--split
    last|time] [--seeds 1] [--trials 20] [--tower-trials 0]
        [--peers torch-rechub rectools recbole] [--only NAME ...] [--out FILE] [--cache
        FOLDER]

Every contestant is a process of its own, on one thread: it reads the positives of the
training part as one parquet file and writes 20 items
for each user to be tested, none of them seen. Quality is always judged here, over the
whole catalogue, by `recsys_nb.evaluation.evaluate`:
a user's truth are the new items among the test positives; users without a past are left
out and counted.
The baselines are tuned with --trials trials each on a validation part of the training
data, held out in the way of the test; the Two-Tower with
--tower-trials (0: as it comes). The peers are not tuned. Several --seeds: those that
draw at random run once a seed, and each user's values are averaged.
CPU and wall seconds are of fitting and answering, without imports and without the
search ("search s", CPU); "MB" is the peak resident memory of
the process, imports included.

Peers live in environments under --cache, which --peers makes for those it names (torch
is pinned there, the rest is what they need).
  torch-rechub  DSSM as in its MovieLens example, with ids and histories (its
  temperature has no effect), batches of 512 at a learning rate of 1e-3
  rectools      SASRec with its defaults, 10 epochs
  recbole       LightGCN with its defaults, 50 epochs; without its quick start and
  metrics, which do not run on current numpy and torch
MovieLens-100K comes out of the wheel of recbole, into --cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

ONE_THREAD = {f"{n}_NUM_THREADS": "1" for n in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
os.environ.update(ONE_THREAD)

import numpy as np
import pandas as pd
from _common import PEERS as CACHE
from _common import memory, peer_python

K = 20  # items a user
START = 1_700_000_000  # seconds since 1970: times of a log that has none
BASELINES = ("Popularity", "ItemKNN", "EASE", "ALS", "BPR")
DRAWN = ("ALS", "BPR")  # baselines that take a seed
# module, and what to install; RecTools asks for numpy 1, RecBole needs it and an older
# scipy without saying so
PEERS = {
    "torch-rechub": ("torch_rechub", ("torch-rechub", "pyarrow")),
    "rectools": ("rectools", ("rectools[torch]", "pyarrow<22")),
    "recbole": (
        "recbole",
        ("recbole==1.2.1", "numpy<2", "scipy<1.13", "pandas<3", "pyarrow<22"),
    ),
}
ALL = [*BASELINES, "Two-Tower", "Two-Tower, ids only", *PEERS]
TORCH = "torch==2.13.0"


# ---- what runs in the process of a contestant, which may be another environment: only
# numpy, pandas and torch are there for sure


def best(users, items, seen, k=K):
    """The k best items of each user by dot product, those in `seen` (rows of the same
    order, item codes) left out, int (n, k)."""
    out = np.empty((len(users), k), np.int64)
    for s in range(0, len(users), 1024):
        scores = users[s : s + 1024] @ items.T
        for row, codes in enumerate(seen[s : s + 1024]):
            scores[row, codes] = -np.inf
        top = np.argpartition(-scores, k, axis=1)[:, :k]
        out[s : s + 1024] = np.take_along_axis(
            top,
            np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable"),
            1,
        )
    return out


def histories(train, users):
    "The items of each user, in order of time."
    own = train.groupby("user_id").item_id.agg(list)
    return [own[u] for u in users]


def dataset(folder, features=True):
    from recsys_nb.data import Dataset

    def read(name):
        return (
            pd.read_parquet(folder / name)
            if features and (folder / name).exists()
            else None
        )

    return Dataset(
        pd.read_parquet(folder / "train.parquet"),
        read("users.parquet"),
        read("items.parquet"),
    )


def own(name):
    "A contestant out of recsys_nb."
    from recsys_nb.recommenders import BASELINES as baselines
    from recsys_nb.recommenders import TwoTowerRetriever

    make = {n: baselines[n] for n in BASELINES} | {
        "Two-Tower": TwoTowerRetriever,
        "Two-Tower, ids only": TwoTowerRetriever,
    }

    def run(folder, users, seed, params):
        drawn = name not in BASELINES or name in DRAWN
        model = make[name](
            **{k: tuple(v) if isinstance(v, list) else v for k, v in params.items()},
            **({"seed": seed} if drawn else {}),
        )
        return model.fit(dataset(folder, "ids only" not in name)).recommend(users, k=K)[
            ["user_id", "item_id", "rank"]
        ]

    return run


def torch_rechub():
    import torch
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.matching import DSSM
    from torch_rechub.trainers import MatchTrainer
    from torch_rechub.utils.data import MatchDataGenerator
    from torch_rechub.utils.match import gen_model_input, generate_seq_feature_match

    def run(folder, users, seed, params):
        np.random.seed(seed)
        torch.manual_seed(seed)
        train = pd.read_parquet(folder / "train.parquet")[["user_id", "item_id"]]
        codes, items = pd.factorize(train.item_id, sort=True)
        u, who = pd.factorize(train.user_id, sort=True)
        log = pd.DataFrame(
            {
                "user_id": u + 1,
                "item_id": codes + 1,
                "timestamp": START + np.arange(len(u)),
            }
        )  # 0 is padding
        # its examples leave out each user's last event: one more there asks with the
        # whole history
        ask = log.groupby("user_id").tail(1).assign(timestamp=START + len(u))
        examples, asked = generate_seq_feature_match(
            pd.concat([log, ask]),
            "user_id",
            "item_id",
            "timestamp",
            item_attribute_cols=[],
            sample_method=1,
            mode=0,
            neg_ratio=3,
            min_item=0,
        )
        profiles = (
            pd.DataFrame({"user_id": range(1, len(who) + 1)}),
            pd.DataFrame({"item_id": range(1, len(items) + 1)}),
        )

        def model_input(frame):
            return gen_model_input(
                frame, profiles[0], "user_id", profiles[1], "item_id", seq_max_len=50
            )

        x, x_asked = model_input(examples), model_input(asked)
        tower = {"dims": [256, 128, 64], "activation": "prelu"}
        size = {"vocab_size": len(items) + 1, "embed_dim": 16}
        user = [
            SparseFeature("user_id", vocab_size=len(who) + 1, embed_dim=16),
            SequenceFeature(
                "hist_item_id", pooling="mean", shared_with="item_id", **size
            ),
        ]
        model = DSSM(
            user,
            [SparseFeature("item_id", **size)],
            user_params=tower,
            item_params=dict(tower),
            temperature=0.02,
        )
        trainer = MatchTrainer(
            model,
            mode=0,
            optimizer_params={"lr": 1e-3, "weight_decay": 1e-6},
            n_epoch=10,
            device="cpu",
            model_path=str(folder),
        )
        loaders = MatchDataGenerator(x=x, y=x["label"]).generate_dataloader(
            x_asked,
            {"item_id": profiles[1].item_id.to_numpy()},
            batch_size=512,
            num_workers=0,
        )
        trainer.fit(loaders[0])
        vectors = [
            trainer.inference_embedding(
                model=model, mode=m, data_loader=d, model_path=str(folder)
            ).numpy()
            for m, d in zip(("user", "item"), loaders[1:], strict=False)
        ]
        row = pd.Series(
            range(len(asked)), index=who[np.asarray(x_asked["user_id"]) - 1]
        )[users].to_numpy()
        train = train.assign(item_id=codes)
        return np.asarray(items)[
            best(vectors[0][row], vectors[1], histories(train, users))
        ]

    return run


def rectools():
    import torch
    from pytorch_lightning import seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    def run(folder, users, seed, params):
        torch.set_num_threads(1)
        seed_everything(seed)
        train = pd.read_parquet(folder / "train.parquet")[["user_id", "item_id"]]
        log = train.assign(
            weight=1,
            datetime=pd.Timestamp("2020-01-01")
            + pd.to_timedelta(np.arange(len(train)), unit="s"),
        )
        data = Dataset.construct(log)
        model = SASRecModel(epochs=10, deterministic=True, verbose=0)
        found = model.fit(data).recommend(
            users=users, dataset=data, k=K, filter_viewed=True
        )
        return found.rename(
            columns={
                Columns.User: "user_id",
                Columns.Item: "item_id",
                Columns.Rank: "rank",
            }
        )[["user_id", "item_id", "rank"]]

    return run


def recbole():
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    def run(folder, users, seed, params):
        torch.set_num_threads(1)
        train = pd.read_parquet(folder / "train.parquet")[["user_id", "item_id"]]
        (folder / "log").mkdir(exist_ok=True)
        train.drop_duplicates().rename(columns=lambda c: c + ":token").to_csv(
            folder / "log/log.inter", sep="\t", index=False
        )
        settings = {
            "data_path": str(folder),
            "load_col": {"inter": ["user_id", "item_id"]},
            "eval_args": {
                "split": {"RS": [1, 0, 0]},
                "group_by": None,
                "order": "RO",
                "mode": "full",
            },
            "epochs": 50,
            "seed": seed,
            "use_gpu": False,
            "state": "ERROR",
            "show_progress": False,
            "checkpoint_dir": str(folder),
        }
        argv, sys.argv = sys.argv, sys.argv[:1]  # it reads the command line
        config = Config(model="LightGCN", dataset="log", config_dict=settings)
        sys.argv = argv
        init_seed(seed, True)
        data = create_dataset(config)
        loader = data_preparation(config, data)[0]
        model = get_model("LightGCN")(config, loader.dataset)
        get_trainer(config["MODEL_TYPE"], "LightGCN")(config, model).fit(
            loader, saved=False, verbose=False
        )
        with torch.no_grad():
            u, v = (x.numpy() for x in model.forward())
        row = data.token2id("user_id", [str(x) for x in users])
        items = np.array(
            [-1] + [int(x) for x in data.field2id_token["item_id"][1:]]
        )  # code 0 is padding
        code = pd.Series(range(len(items)), index=items)
        seen = [
            [0, *h]
            for h in histories(
                train.assign(item_id=code[train.item_id].to_numpy()), users
            )
        ]
        return items[best(u[row], v, seen)]

    return run


def contestant(name, folder, seed, params):
    "Fit and answer, write the lists and what they cost."
    run = {"torch-rechub": torch_rechub, "rectools": rectools, "recbole": recbole}.get(
        name, lambda: own(name)
    )()
    users = pd.read_parquet(folder / "ask.parquet").user_id.to_numpy()
    cpu, wall = time.process_time(), time.perf_counter()
    found = run(folder, users, seed, params)
    cost = {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "mb": memory("VmHWM"),
    }
    if isinstance(found, np.ndarray):
        found = pd.DataFrame(
            {
                "user_id": users.repeat(K),
                "item_id": found.ravel(),
                "rank": np.tile(np.arange(1, K + 1), len(users)),
            }
        )
    found.to_parquet(folder / "out.parquet")
    (folder / "cost.json").write_text(json.dumps(cost))


def tower(
    dim=128,
    temperature=0.1,
    dropout=0.3,
    lr=2e-3,
    trend_half_life=None,
    trend_weight=1.0,
    popularity_debias=0.0,
):
    """A Two-Tower retriever with what is searched for; the search begins with these
    values."""
    from recsys_nb.recommenders import TwoTowerRetriever

    return TwoTowerRetriever(
        dim=dim,
        temperature=temperature,
        dropout=dropout,
        lr=lr,
        trend_half_life=trend_half_life,
        trend_weight=trend_weight,
        popularity_debias=popularity_debias,
    )


def search(name, folder, trials, split):
    """Tune a contestant of recsys_nb on a part of its training data; write the
    hyperparameters, the score and the cost."""
    from functools import partial

    from recsys_nb.data import split_by_time, split_leave_last_out
    from recsys_nb.recommenders import BASELINES as baselines
    from recsys_nb.recommenders import Range, tune

    model, space = baselines.get(name, tower), None
    if model is tower:
        space = {
            "dim": [64, 128],
            "temperature": Range(0.05, 0.3, log=True),
            "dropout": Range(0.0, 0.7),
            "lr": Range(1e-3, 5e-3, log=True),
            "trend_half_life": [None, 3, 10, 30],
            "trend_weight": [1.0, 2.0, 4.0, 8.0],
            "popularity_debias": [0.0, 0.5],
        }
    cpu = time.process_time()
    hold_out = {"time": split_by_time, "last": partial(split_leave_last_out, last=0.2)}[
        split
    ]
    found = tune(
        model,
        dataset(folder, "ids only" not in name),
        space,
        trials=trials,
        split=hold_out,
        progress=False,
    )
    (folder / "params.json").write_text(
        json.dumps(
            {
                "params": found.best,
                "score": found.score,
                "default": float(found.trials.score[0]),
                "cpu": time.process_time() - cpu,
            }
        )
    )


# ---- what runs here


def call(python, folder, *what):
    "Run this script in another process; None, or the last line of what went wrong."
    env = (
        os.environ
        | ONE_THREAD
        | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        if python == sys.executable
        else os.environ | ONE_THREAD
    )
    r = subprocess.run(
        [python, __file__, *map(str, what), "--folder", str(folder)],
        capture_output=True,
        text=True,
        env=env,
        cwd=folder,
    )
    return (
        None
        if r.returncode == 0
        else (
            [line for line in r.stderr.splitlines() if line.strip()]
            or [f"exit status {r.returncode}"]
        )[-1].strip()
    )


def environment(peer, cache):
    "The interpreter of a peer's environment, or None and why there is none."
    module, packages = PEERS[peer]
    python = peer_python(cache, peer, module, (TORCH, *packages))
    return (str(python), None) if isinstance(python, Path) else (None, python)


def movielens_100k(cache):
    "The folder of MovieLens-100K, out of the wheel of recbole 1.2.1."
    folder = cache / "recbole/dataset_example/ml-100k"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as tmp:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-deps",
                    "--dest",
                    tmp,
                    "recbole==1.2.1",
                ],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            with zipfile.ZipFile(next(Path(tmp).glob("*.whl"))) as wheel:
                wheel.extractall(
                    cache, [n for n in wheel.namelist() if "/ml-100k/" in n]
                )
    return folder


def read(name, cache):
    """A data set of `load`; ratings of 4 and more are positive, and of events all but
    views."""
    from recsys_nb.data import load

    source = movielens_100k(cache) if name == "movielens-100k" else name
    ds = load(source)
    events = set(ds.interactions.get("event_type", ())) - {"view"}
    positive = ds.positive or (
        4.0 if "value" in ds.interactions else sorted(events) or None
    )
    return ds if positive == ds.positive else load(source, positive=positive)


def prepare(ds, split, folder):
    """Write the training positives and what else contestants may read, ids as numbers
    from 0; the truth, and who was left out."""
    from recsys_nb.recommenders.gate import new_pairs
    from recsys_nb.run_data import choose_split

    train, test, _, _ = choose_split(ds, split)

    def coded(frame):
        return frame.assign(
            **{
                c: ids.get_indexer(frame[c])
                for c, ids in (("user_id", ds.user_ids), ("item_id", ds.item_ids))
                if c in frame
            }
        )

    past = coded(train.positives().interactions)
    truth, counts = new_pairs(past, coded(test.positives().interactions))
    past = past.sort_values("timestamp", kind="stable") if "timestamp" in past else past
    past.to_parquet(folder / "train.parquet", index=False)
    for what, table in (("users", ds.users), ("items", ds.items)):
        if table is not None:
            coded(table).to_parquet(folder / f"{what}.parquet", index=False)
    truth[["user_id"]].drop_duplicates().to_parquet(folder / "ask.parquet", index=False)
    return truth, counts


def judge(name, folder, truth, python, seeds, params, protocol):
    "The report of a contestant over all seeds and its mean cost; or why there is none."
    from recsys_nb.evaluation import evaluate

    reports, costs = [], []
    for seed in seeds:
        (folder / "params.json").write_text(json.dumps(params))
        wrong = call(python, folder, "--contestant", name, "--seed", seed)
        if wrong:
            return None, wrong
        lists = pd.read_parquet(folder / "out.parquet")
        seen = pd.read_parquet(folder / "train.parquet", columns=["user_id", "item_id"])
        assert (
            not pd.MultiIndex.from_frame(lists[["user_id", "item_id"]])
            .isin(pd.MultiIndex.from_frame(seen))
            .any()
        ), f"{name} recommends what was seen"
        reports.append(
            evaluate(
                lists,
                truth,
                k=(10, K),
                metrics=["ndcg", "recall"],
                name=name,
                protocol=protocol,
            )
        )
        costs.append(json.loads((folder / "cost.json").read_text()))

    def mean(part):
        return sum(getattr(r, part) for r in reports) / len(reports)

    return replace(
        reports[0],
        values=mean("values"),
        draws=mean("draws"),
        per_user=mean("per_user"),
    ), pd.DataFrame(costs).mean()


def tuned(name, folder, trials, split):
    """Hyperparameters of a contestant of recsys_nb with their validation score and
    cost; empty without trials. And what went wrong."""
    if not trials:
        return {"params": {}, "score": np.nan, "cpu": np.nan}, None
    wrong = call(
        sys.executable, folder, "--search", name, "--trials", trials, "--split", split
    )
    return (
        (None, wrong)
        if wrong
        else (json.loads((folder / "params.json").read_text()), None)
    )


def row(r, cost, found):
    "A line of the table."
    f = r.to_frame().set_index(r.values.index)
    quality = {
        c: "{:.4f} [{:.4f}, {:.4f}]".format(*f.loc[m, ["value", "low", "high"]])
        for c, m in (("NDCG@10", "ndcg@10"), ("Recall@20", "recall@20"))
    }
    said = ", ".join(
        f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}"
        for k, v in found["params"].items()
    )
    return quality | {
        "CPU s": cost.cpu,
        "wall s": cost.wall,
        "MB": cost.mb,
        "search s": found["cpu"],
        "hyperparameters": said,
    }


def compete(data, split, seeds, trials, tower_trials, pythons, cache, only):
    "All contestants on one data set: print the table and the paired differences."
    ds, reports, rows, scores, out = read(data, cache), {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        truth, counts = prepare(ds, split, folder)
        protocol = {
            "split": split,
            "candidates": f"all {len(ds.item_ids):,} items",
            "seen": "left out",
            "excluded": {"no past": counts["users_without_past"]},
        }
        print(
            f"\n{ds}, split by {split}: {counts['users_evaluated']:,} users with "
            f"{counts['pairs_evaluated']:,} new items to find;"
            f" left out: {counts['users_without_past']:,} users without a past",
            flush=True,
        )
        for name in only or ALL:
            python, why = pythons.get(name, (sys.executable, None))
            n = (
                trials
                if name in BASELINES
                else tower_trials
                if name.startswith("Two-Tower")
                else 0
            )
            found, why = (None, why) if why else tuned(name, folder, n, split)
            drawn = name not in BASELINES or name in DRAWN
            r, cost = (
                (None, why)
                if why
                else judge(
                    name,
                    folder,
                    truth,
                    python,
                    seeds if drawn else seeds[:1],
                    found["params"],
                    protocol,
                )
            )
            if r is None:
                out[name] = cost
                print(f"  {name}: {cost}", flush=True)
                continue
            reports[name], rows[name], scores[name] = (
                r,
                row(r, cost, found),
                found["score"],
            )
            print(f"  {name}: {rows[name]['NDCG@10']}", flush=True)
    best_baseline = max(
        (n for n in BASELINES if not np.isnan(scores.get(n, np.nan))),
        key=scores.get,
        default=None,
    )
    show(reports, rows, out, best_baseline, scores)
    return [
        record(n, r, rows[n], reports.get(best_baseline))
        | {
            "data": ds.name,
            "split": split,
            "users": counts["users_evaluated"],
            "seeds": len(seeds),
        }
        for n, r in reports.items()
    ]


def show(reports, rows, out, best_baseline, scores):
    """Print the table, who took no part, the hyperparameters, and everything against
    the best baseline."""
    from recsys_nb.evaluation import compare

    table = pd.DataFrame(rows).T
    print(
        "\n"
        + table.drop(columns="hyperparameters").to_string(
            float_format="{:.1f}".format, na_rep=""
        )
    )
    for name, why in out.items():
        print(f"  {name} took no part: {why}")
    for name, text in table.hyperparameters.items():
        if text:
            print(f"  {name}: {text}")
    if not best_baseline:
        return
    print(
        f"\nagainst {best_baseline}, the best baseline on validation data "
        f"({scores[best_baseline]:.4f}):"
    )
    for name, r in reports.items():
        if name not in BASELINES:
            print(compare(reports[best_baseline], r))


def record(name, report, row, best_baseline):
    """What is kept of a contestant: its metrics, its settings, and its paired
    difference to the best baseline."""
    from recsys_nb.evaluation import compare

    kept = {
        "model": name,
        "hyperparameters": row["hyperparameters"],
        "seconds": round(row["CPU s"], 1),
        "metrics": report.to_dict()["metrics"],
    }
    if best_baseline is None or best_baseline is report:
        return kept
    return kept | {
        "against": best_baseline.name,
        "difference": compare(best_baseline, report)
        .to_frame()
        .drop(columns=["a", "b"])
        .to_dict("records"),
    }


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--data", nargs="+", default=["simulated"])
    p.add_argument("--split", choices=["last", "time"], default="last")
    p.add_argument("--seeds", type=int, default=1, help="how many")
    p.add_argument("--trials", type=int, default=20)
    p.add_argument("--tower-trials", type=int, default=0)
    p.add_argument("--peers", nargs="*", choices=list(PEERS), default=[])
    p.add_argument(
        "--only",
        nargs="+",
        choices=ALL,
        help="who takes part; default: all that are installed",
    )
    p.add_argument("--out", type=Path, help="a JSON file for the results")
    p.add_argument("--cache", type=Path, default=CACHE)
    for hidden in ("--contestant", "--search", "--folder"):
        p.add_argument(hidden, help=argparse.SUPPRESS)
    p.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.contestant:
        return contestant(
            a.contestant,
            Path(a.folder),
            a.seed,
            json.loads((Path(a.folder) / "params.json").read_text()),
        )
    if a.search:
        return search(a.search, Path(a.folder), a.trials, a.split)
    cache = a.cache.expanduser().absolute()
    pythons = {
        peer: environment(peer, cache)
        if peer in a.peers
        else (None, "not asked for with --peers")
        for peer in PEERS
    }
    kept = [
        row
        for data in a.data
        for row in compete(
            data,
            a.split,
            range(a.seeds),
            a.trials,
            a.tower_trials,
            pythons,
            cache,
            a.only,
        )
    ]
    if a.out:
        a.out.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
