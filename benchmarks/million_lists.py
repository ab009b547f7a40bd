"""Lists of 20 items for a million users and 100,000 items, by the command that a shop
runs at night: minutes, seconds of CPU and memory of all its processes. The shop is that
of serving.py, with five events of each user.

    python benchmarks/million_lists.py --out benchmarks/results/million_lists.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.dataset as ds
from _common import keep
from _service import measure_memory
from serving import make_log, make_model

from recsys_nb.serving import export

K = 20  # items of a list


def make_lists(
    folder: Path,  # an exported model
    out: Path,  # a new folder
    workers: int,  # processes
) -> dict[str, float]:  # minutes, CPU seconds, megabytes at the highest
    "Run the command, and look at its memory now and then."
    words = ["recommend", "--model", str(folder), "--users", "all", "--k", str(K)]
    words += ["--out", str(out), "--workers", str(workers)]
    begin, before = time.perf_counter(), os.times()
    process = subprocess.Popen([sys.executable, "-m", "recsys_nb.cli", *words])
    megabytes = []
    while process.poll() is None:
        megabytes.append(measure_memory(process))
        time.sleep(2)
    if process.returncode:
        raise RuntimeError(f"recommend ended with status {process.returncode}")
    minutes = (time.perf_counter() - begin) / 60
    after = os.times()
    cpu_seconds = after.children_user + after.children_system
    cpu_seconds -= before.children_user + before.children_system
    return {
        "minutes": round(minutes, 2),
        "cpu_seconds": round(cpu_seconds),
        "peak_mb": round(max(megabytes)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        log = make_log(options.items, options.users, 5 * options.users)
        folder = export(make_model(log, exact_to=50_000), Path(place) / "shop")
        del log
        found = make_lists(folder, Path(place) / "lists", options.workers)
        lists = ds.dataset(Path(place) / "lists", format="parquet")
        row = {
            "items": options.items,
            "users": len(lists.to_table(columns=["user_id"])["user_id"].unique()),
            "k": K,
            "rows": lists.count_rows(),
            "workers": options.workers,
            **found,
            "load_average": os.getloadavg()[0],
        }
    print(row)
    keep(options.out, [row], ("items", "users", "workers"))


if __name__ == "__main__":
    main()
