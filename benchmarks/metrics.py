"""Per-user ranking metrics of many users in one go: recsys_nb.evaluation against
pytrec_eval, rectools and ranx, each in its own process.

    python benchmarks/metrics.py [--users 100000] [--candidates 100] [--k 10] [--n-boot
    1000] [--repeats 3] [--peers FOLDER]

The peers are installed from PyPI, each in a virtual environment of its own in FOLDER
(kept for the next run), so that none of them decides on another's numpy.
Every contender gets the same frame in memory and must return the five metrics
precision, recall, NDCG, MAP, MRR at k, averaged over users; the averages are compared.
rectools and ranx get all candidates, as their users would pass them; pytrec_eval the
first k, since its MRR has no cut-off.
"input" is the time from the frame to the form the library wants, "evaluate" the rest,
both in CPU seconds on one thread, so that a busy machine does not distort them
(the best of --repeats for recsys_nb, one run for the others; a small run before imports
and compiles). "MB extra" is what the process grew by beyond the frame (resident set),
"ratio" is total to recsys_nb's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
import pandas as pd
import psutil


def make(n_users: int, n_candidates: int, n_items: int = 20_000, seed: int = 0):
    """Lists of `n_candidates` distinct items a user, and truths of 10 items a user on
    average, half of them from the lists; int64 ids."""
    rng = np.random.default_rng(seed)
    start, step = (
        rng.integers(n_items, size=(n_users, 1)),
        rng.choice([7, 11, 13, 17, 19, 23], size=(n_users, 1)),
    )  # arithmetic progressions: distinct, cheap
    items = (start + step * rng.permutation(n_candidates)) % n_items
    recs = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(n_users), n_candidates),
            "item_id": items.ravel(),
            "rank": np.tile(np.arange(1, n_candidates + 1), n_users),
        }
    )
    recs["score"] = 1.0 / recs["rank"]
    hit = np.argwhere(rng.random(items.shape) < 5 / n_candidates)
    elsewhere = np.column_stack(
        [
            rng.integers(n_users, size=5 * n_users),
            rng.integers(n_items, size=5 * n_users),
        ]
    )
    truth = pd.DataFrame(
        np.r_[np.column_stack([hit[:, 0], items[hit[:, 0], hit[:, 1]]]), elsewhere],
        columns=["user_id", "item_id"],
    ).drop_duplicates()
    return recs, truth[
        truth.user_id.isin(hit[:, 0])
    ]  # every user has at least one true item


def ours(recs, truth, k, n_boot):
    from recsys_nb.evaluation import evaluate

    t = time.process_time()
    report = evaluate(
        recs,
        truth,
        k=k,
        metrics=["precision", "recall", "ndcg", "map", "mrr"],
        map_denominator="relevant",
        n_boot=n_boot,
    )
    return 0.0, time.process_time() - t, report.values.tolist()


def pytrec(recs, truth, k, n_boot):
    import pytrec_eval

    t = time.process_time()

    def nest(users, items, values):
        return _nest(users.astype(str), items.astype(str), values)

    qrels = nest(truth.user_id.to_numpy(), truth.item_id.to_numpy(), [1] * len(truth))
    top = recs[recs["rank"] <= k]  # its MRR has no cut-off
    run = nest(
        top.user_id.to_numpy(),
        top.item_id.to_numpy(),
        (-top["rank"]).astype(float).tolist(),
    )
    made = time.process_time()
    found = pytrec_eval.RelevanceEvaluator(
        qrels, {f"P.{k}", f"recall.{k}", f"ndcg_cut.{k}", f"map_cut.{k}", "recip_rank"}
    ).evaluate(run)
    names = [f"P_{k}", f"recall_{k}", f"ndcg_cut_{k}", f"map_cut_{k}", "recip_rank"]
    means = (
        np.array([[f[n] for n in names] for f in found.values()]).mean(axis=0).tolist()
    )
    return made - t, time.process_time() - made, means


def _nest(users, items, values):
    out = {}
    for u, i, v in zip(users.tolist(), items.tolist(), values, strict=False):
        out.setdefault(u, {})[i] = v
    return out


def rectools(recs, truth, k, n_boot):
    from rectools.metrics import MAP, MRR, NDCG, Precision, Recall, calc_metrics

    t = time.process_time()
    found = calc_metrics(
        {
            "p": Precision(k),
            "r": Recall(k),
            "n": NDCG(k, divide_by_achievable=True),
            "m": MAP(k),
            "q": MRR(k),
        },
        reco=recs,
        interactions=truth,
    )
    return 0.0, time.process_time() - t, [found[x] for x in "prnmq"]


def ranx(recs, truth, k, n_boot):
    from ranx import Qrels, Run, evaluate

    t = time.process_time()
    q = Qrels.from_df(
        truth.astype(str).assign(score=1),
        q_id_col="user_id",
        doc_id_col="item_id",
        score_col="score",
    )
    r = Run.from_df(
        recs.astype({"user_id": str, "item_id": str}),
        q_id_col="user_id",
        doc_id_col="item_id",
        score_col="score",
    )
    made = time.process_time()
    found = evaluate(
        q,
        r,
        [f"precision@{k}", f"recall@{k}", f"ndcg@{k}", f"map@{k}", f"mrr@{k}"],
        make_comparable=True,
    )
    return made - t, time.process_time() - made, list(found.values())


CONTENDERS = {
    "recsys_nb": (ours, None),
    "recsys_nb, with intervals": (ours, None),
    "pytrec_eval": (pytrec, "pytrec-eval-terrier==0.5.11"),
    "rectools": (rectools, "rectools==0.19.0"),
    "ranx": (ranx, "ranx==0.3.21"),
}  # name -> what runs, what is installed for it
PANDAS = {"ranx": "pandas<3"}  # it wants columns of objects


def python_of(name: str, folder: Path) -> str:
    """The Python that has the contender: this one, or that of its own environment,
    which is made where it is missing."""
    package = CONTENDERS[name][1]
    if package is None:
        return sys.executable
    python = folder / package / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / package], check=True)
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                package,
                PANDAS.get(name, "pandas"),
                "psutil",
            ],
            check=True,
        )
    return str(python)


def child(name: str, a) -> None:
    "Run one contender here and print its figures as JSON."
    with np.load(a.data) as d:
        recs, truth = (
            pd.DataFrame({c.split(".")[1]: d[c] for c in d.files if c.startswith(f)})
            for f in ("recs", "truth")
        )
    CONTENDERS[name][0](
        recs[recs.user_id < 10], truth[truth.user_id < 10], a.k, 0
    )  # import and warm up
    process = psutil.Process()
    base = process.memory_info().rss
    peak, done = [base], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    runs, thread = [], threading.Thread(target=watch)
    thread.start()
    n_boot = a.n_boot if "intervals" in name else 0
    for _ in range(a.repeats if "recsys_nb" in name else 1):
        runs.append(CONTENDERS[name][0](recs, truth, a.k, n_boot))
    done.set()
    thread.join()
    best = min(runs, key=lambda r: r[0] + r[1])
    print(
        json.dumps(
            {
                "input": best[0],
                "evaluate": best[1],
                "peak_mb": (peak[0] - base) / 1e6,
                "means": best[2],
                "versions": {
                    p: importlib.metadata.version(p)
                    for p in (
                        "numpy",
                        "pandas",
                        (CONTENDERS[name][1] or "recsys_nb").split("==")[0],
                    )
                },
            }
        )
    )


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag, default in (
        ("--users", 100_000),
        ("--candidates", 100),
        ("--k", 10),
        ("--n-boot", 1000),
        ("--repeats", 3),
    ):
        p.add_argument(flag, type=int, default=default)
    p.add_argument(
        "--peers",
        type=Path,
        default=Path(tempfile.gettempdir()) / "recsys_nb_peers",
        help="folder of the peers' virtual environments",
    )
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--data", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        return child(a.child, a)
    pythons = {name: python_of(name, a.peers) for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as tmp:
        a.data = f"{tmp}/data.npz"
        recs, truth = make(a.users, a.candidates)
        np.savez(
            a.data,
            **{
                f"{what}.{c}": f[c].to_numpy()
                for what, f in [("recs", recs), ("truth", truth)]
                for c in f
            },
        )
        del recs, truth
        race(a, pythons)


def race(a, pythons: dict[str, str]) -> None:
    "All contenders, one after the other, as a table."
    print(
        f"five metrics @{a.k}, {a.users:,} users x {a.candidates} candidates, "
        f"{a.n_boot} resamples where intervals are made\n"
    )
    columns = f"{'input':>9}{'evaluate':>12}{'total s':>9}{'MB extra':>10}{'ratio':>8}"
    print(f"{'':<28}{columns}  means")
    first, versions = None, []
    for name, python in pythons.items():
        options = []
        for setting in ("data", "k", "n_boot", "repeats"):
            options += [f"--{setting.replace('_', '-')}", str(getattr(a, setting))]
        command = [python, __file__, "--child", name, *options]
        r = subprocess.run(command, capture_output=True, text=True)
        if r.returncode:
            sys.exit(f"{name} failed:\n{r.stderr}")
        d = json.loads(r.stdout.splitlines()[-1])
        total = d["input"] + d["evaluate"]
        first = first or (total, d["means"])
        off = np.abs(np.subtract(d["means"], first[1])).max()
        seconds = f"{d['input']:>9.3f}{d['evaluate']:>12.3f}{total:>9.3f}"
        others = f"{d['peak_mb']:>10.0f}{total / first[0]:>8.1f}"
        same = "the same" if off < 1e-9 else f"off by {off:.2g}"
        print(f"{name:<28}{seconds}{others}  {same}", flush=True)
        versions.append(
            f"{name}: " + ", ".join(f"{p} {v}" for p, v in d["versions"].items())
        )
    print("\n" + "\n".join(versions))


if __name__ == "__main__":
    main()
