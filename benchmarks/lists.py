"""Users per second for whom one core makes lists from an exported folder, and the
memory of that process: two stages of three sources and a DLRM, k = 20. Rates are per
second of CPU, so that other work on the machine does not count. The times for a
million users are the rate, extrapolated; so is the memory, from what the ids and
histories of a million made-up users add.

    python benchmarks/lists.py --out benchmarks/results/lists.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import keep
from serving import make_log, make_model

from recsys_nb.serving import Exported, export

K = 20  # items of a list
PER_BATCH = 1000  # users
HISTORY = 60  # items of a made-up user
MILLION = 1_000_000


RATE = """
import io, json, re, sys, time
import pyarrow as pa, pyarrow.parquet as pq
from recsys_nb.serving.batches import ListJob, ListMaker
from recsys_nb.serving.runtime import Exported

folder, k, n_users, per_batch = sys.argv[1], *map(int, sys.argv[2:])
exported = Exported(folder)
maker = ListMaker(exported, ListJob(k=k))
known = exported.people.ids.ids
users = [known[i % len(known)] for i in range(n_users)]
maker.make(users[:50])
begin = time.process_time()
batches = []
for start in range(0, n_users, per_batch):
    batches.append(maker.make(users[start : start + per_batch]).rows)
seconds = time.process_time() - begin
n_rows = sum(batch.num_rows for batch in batches)
status = open("/proc/self/status").read()
mb, peak = [int(re.search(w + r":\\s+(\\d+)", status)[1]) / 1024 for w in
            ("VmRSS", "VmHWM")]
file = io.BytesIO()
pq.write_table(pa.Table.from_batches(batches), file)
print(json.dumps({"users": n_users, "rows": n_rows, "cpu_seconds": seconds,
                  "users_per_second": n_users / seconds, "mb": mb, "peak_mb": peak,
                  "bytes_per_row": file.tell() / n_rows}))
"""

PEOPLE = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from recsys_nb.serving.answering import People

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(one.split()[1]) / 1024 for one in lines if "VmRSS" in one)

folder, n_users, length = Path(sys.argv[1]), *map(int, sys.argv[2:])
rng = np.random.default_rng(0)
(folder / "users.json").write_text(json.dumps(list(range(n_users))))
items = rng.integers(100_000, size=n_users * length, dtype=np.int32)
offsets = np.arange(n_users + 1) * length
save_file({"items": items, "offsets": offsets}, folder / "histories.safetensors")
del items, offsets
before = resident()
people = People(folder, "int64")
print(json.dumps({"people_mb": resident() - before}))
"""


def run_alone(
    script: str,  # of Python, which prints JSON
    *words: object,  # its arguments
) -> dict:
    "A measure in a process of its own, which loads only what it needs."
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout)


def run_size(
    folder: Path,  # an exported model
    n_users: int,  # who get lists
) -> dict:  # a row of results
    "All measures of one model."
    found = run_alone(RATE, folder, K, n_users, PER_BATCH)
    with tempfile.TemporaryDirectory() as place:
        people = run_alone(PEOPLE, place, MILLION, HISTORY)
    exported = Exported(folder)
    per_user = 1 / found["users_per_second"]
    own = len(exported.people.ids) / MILLION * people["people_mb"]
    return {
        "items": len(exported.items),
        "k": K,
        **found,
        "minutes_for_a_million": MILLION * per_user / 60,
        "extrapolated": True,
        "people_mb_per_million": people["people_mb"],
        "mb_for_a_million": found["mb"] - own + people["people_mb"],
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="*", default=[5_000, 100_000])
    parser.add_argument("--users", type=int, default=6_000)
    parser.add_argument("--folders", type=Path, nargs="*", help="exports, not trained")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folders = options.folders or [
            export(
                make_model(make_log(n, 3_000, 60 * 3_000), exact_to=50_000),
                Path(place) / f"shop-{n}",
            )
            for n in options.items
        ]
        for folder in folders:
            row = run_size(folder, options.users)
            print(row, flush=True)
            keep(options.out, [row], ("items",))


if __name__ == "__main__":
    main()
