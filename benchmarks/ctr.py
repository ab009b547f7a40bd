"""Click models on a table that is split already, as BARS publishes Frappe and
MovieLens tags: train.csv, valid.csv and test.csv with a column `label`, all others
categories. AUC and log loss on the test part, per seed.

    python benchmarks/ctr.py --data frappe --seeds 1 2 3 4 5
    python benchmarks/ctr.py --data FOLDER --seeds 1 2 3 --set '{"dim": 10}'

The folder is looked for in RECSYS_NB_DATA; nothing is chosen on the test part.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
from _common import memory
from sklearn.metrics import log_loss, roc_auc_score

from recsys_nb.training import DLRMTable

HOME = Path(os.environ.get("RECSYS_NB_DATA", "data"))
RESULTS = Path(__file__).parent / "results" / "ctr.json"
PARTS = ("train", "valid", "test")


def read_part(folder: Path, part: str) -> pd.DataFrame:
    "Every column but the label as text."
    frame = pd.read_csv(folder / f"{part}.csv", dtype=str)
    return frame.astype({"label": float}).astype({"label": int})


def measure(data: str, seed: int, changes: dict) -> dict:
    "One row of the table."
    train, valid, test = (read_part(HOME / data, part) for part in PARTS)
    wall, cpu = time.perf_counter(), time.process_time()
    model = DLRMTable(seed=seed, **changes).fit(train, "label", valid=valid)
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    probabilities = model.predict(test)
    return {
        "data": data,
        "seed": seed,
        "settings": changes,
        "auc": roc_auc_score(test.label, probabilities),
        "log_loss": log_loss(test.label, probabilities),
        "fit_seconds": seconds[0],
        "fit_cpu_seconds": seconds[1],
        "peak_mb": memory("VmHWM"),
    }


def main() -> None:
    "A row for each seed, written as soon as it is there."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="frappe", help="a folder with three files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--set", type=json.loads, default={}, help="settings as JSON")
    given = parser.parse_args()
    if not (HOME / given.data / "train.csv").exists():
        raise SystemExit(f"{given.data}/train.csv is not in {HOME}")
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for seed in given.seeds:
        row = measure(given.data, seed, given.set)
        keys = ("data", "seed", "settings")
        rows = [old for old in rows if any(old[key] != row[key] for key in keys)]
        rows.append(row)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(row, flush=True)


if __name__ == "__main__":
    main()
