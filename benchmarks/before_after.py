"""The speed and memory of this edition beside the first one, on the same data, in turn.

    python benchmarks/before_after.py [--before COMMIT] [--repeats 3] [--only metrics]
        [--out results/before_after.json]

The first edition is checked out into a temporary folder. Each case runs a benchmark of
each edition, which measures that edition in a process of its own on one thread; the
editions alternate, and which of them is first alternates too. What counts is the least
of CPU seconds and of peak memory: what the work adds to imports and data.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import features
import metrics
import numpy as np
import pandas as pd
import training

ROOT = Path(__file__).resolve().parent.parent
FIRST_EDITION = "58e24a9"
MOST = 1.05  # a ratio above it is marked
TABLES = "tables_recsys_nb"
MOMENTS = "moments_recsys_nb"


# --- data that both editions read -----------------------------------------------------


def write_lists(folder: Path) -> None:
    "Recommended lists and true items of 100,000 users."
    recs, truth = metrics.make(100_000, 100)
    columns = {f"recs.{name}": recs[name].to_numpy() for name in recs}
    columns |= {f"truth.{name}": truth[name].to_numpy() for name in truth}
    np.savez(folder / "lists.npz", **columns)


def write_log(folder: Path) -> None:
    "A million events, and a tenth of them as moments."
    features.write_log(folder, 1_000_000, "long tail")


def write_codes(folder: Path) -> None:
    "The rows of 30 batches."
    training.make(folder / "codes.npz", 10_000, 20, 30, training.LONG_TAIL)


WRITERS = {"training": write_codes, "metrics": write_lists, "features": write_log}


def write_data(folder: Path, cases: Iterable[str]) -> None:
    "The files of some cases, which the first words of their names stand for."
    for kind in sorted({case.partition(",")[0] for case in cases} & set(WRITERS)):
        WRITERS[kind](folder)


# --- cases ----------------------------------------------------------------------------


def read_json(said: str) -> dict:
    "The last line of what a worker printed."
    return json.loads(said.splitlines()[-1])


def read_training(said: str) -> dict[str, float]:
    "CPU seconds per 100,000 samples, and MB."
    found = read_json(said)
    return {"seconds": 1e5 / found["rate"], "mb": found["memory"]}


def read_metrics(said: str) -> dict[str, float]:
    "CPU seconds of one evaluation, and MB."
    found = read_json(said)
    return {"seconds": found["evaluate"], "mb": found["peak_mb"]}


def read_features(said: str) -> dict[str, float]:
    "CPU seconds of all threads, and MB."
    found = read_json(said)
    return {"seconds": found["cpu_seconds"], "mb": found["added_peak_mb"]}


def read_catalogue(said: str) -> dict[str, float]:
    "CPU seconds and MB of the line on `recommend`."
    line = next(line for line in said.splitlines() if line.startswith("recommend,"))
    seconds, _, megabytes = re.findall(r"[\d,.]+", line.partition("users")[2])
    return {"seconds": float(seconds), "mb": float(megabytes.replace(",", ""))}


def list_cases(folder: Path) -> dict[str, tuple]:
    "Name -> the benchmark with its words, and what reads its figures from its output."
    codes, lists = folder / "codes.npz", folder / "lists.npz"
    worker = ["training.py", "--worker", "ours", codes, 10_000]
    child = ["metrics.py", "--data", lists, "--repeats", 2, "--child"]
    catalogue = ["full_catalogue.py", "--users", 30_000, "--sample", 100]
    return {
        "training, fp32": ([*worker, "fp32", "dense"], read_training),
        "training, bf16": ([*worker, "bf16", "dense"], read_training),
        "training, fp32, sparse": ([*worker, "fp32", "sparse"], read_training),
        "training, bf16, sparse": ([*worker, "bf16", "sparse"], read_training),
        "metrics": ([*child, "recsys_nb"], read_metrics),
        "metrics, intervals": ([*child, "recsys_nb, with intervals"], read_metrics),
        "features, tables": (["features.py", TABLES, folder], read_features),
        "features, moments": (["features.py", MOMENTS, folder], read_features),
        "full catalogue": (catalogue, read_catalogue),
    }


# --- the race -------------------------------------------------------------------------


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    "A working tree of `commit`, removed at the end."
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        add = [*git, "add", "--quiet", "--detach", str(tree), commit]
        subprocess.run(add, check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def measure(edition: Path, words: list, read) -> dict[str, float]:
    "The figures of one run of an edition's own benchmark."
    script, *others = map(str, words)
    command = [sys.executable, str(edition / "benchmarks" / script), *others]
    env = os.environ | {"PYTHONPATH": str(edition)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return read(done.stdout)


def alternate(editions: dict[str, Path], words: list, read, repeats: int) -> dict:
    "The least of each figure, by edition."
    runs: dict[str, list] = {name: [] for name in editions}
    for turn in range(repeats):
        order = list(editions.items())[:: -1 if turn % 2 else 1]
        for name, edition in order:
            runs[name].append(measure(edition, words, read))
    return {name: pd.DataFrame(found).min().to_dict() for name, found in runs.items()}


def make_row(case: str, found: dict) -> dict:
    "A line of the table: both editions and their ratios."
    before, after = found["before"], found["after"]
    row = {"case": case}
    for figure in ("seconds", "mb"):
        row[f"{figure} before"] = round(before[figure], 3)
        row[f"{figure} after"] = round(after[figure], 3)
        row[f"{figure} ratio"] = round(after[figure] / before[figure], 3)
    return row


def parse_words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--before", default=FIRST_EDITION, help="commit to compare with")
    add("--repeats", type=int, default=3, help="runs of each edition in each case")
    add("--only", default="", help="cases whose name starts so")
    add("--out", type=Path, help="JSON file of the rows")
    return parser.parse_args()


def main() -> None:
    args = parse_words()
    rows = []
    with tempfile.TemporaryDirectory() as name, checked_out(args.before) as tree:
        folder = Path(name)
        cases = {
            case: rest
            for case, rest in list_cases(folder).items()
            if case.startswith(args.only)
        }
        write_data(folder, cases)
        editions = {"before": tree, "after": ROOT}
        for case, (words, read) in cases.items():
            rows.append(make_row(case, alternate(editions, words, read, args.repeats)))
            print(json.dumps(rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    worse = (table["seconds ratio"] > MOST) | (table["mb ratio"] > MOST)
    print(table.assign(worse=np.where(worse, "*", "")).to_string(index=False))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
