"""What threads cost a small training: a `Recommender` fitted to a small simulated shop,
on one thread and on as many as there are cores, alone and beside a busy process.

    python benchmarks/threads.py [--repeats 3] [--out results/threads.json]

Each fit is a process of its own, all cases in turn; what counts is the least of the
seconds on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import keep, run

BUSY = "while True: pass"


def work(threads: int) -> dict:
    "One fit, in seconds of the clock and of the processor."
    from recsys_nb.data import simulate
    from recsys_nb.recommenders import Recommender
    from recsys_nb.training.threads import use_threads

    use_threads(threads)
    log = simulate(n_users=300, n_items=110, n_interactions=3_000, seed=0)
    start, spent = time.perf_counter(), time.process_time()
    Recommender().fit(log)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_seconds": time.process_time() - spent}


@contextmanager
def others(n: int) -> Iterator[None]:
    "Beside n processes that never rest."
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    cases = [(b, t) for b in (0, 1) for t in (1, os.cpu_count())]
    runs: dict = {case: [] for case in cases}
    for _ in range(given.repeats):
        for n_busy, threads in cases:
            with others(n_busy):
                found = run(__file__, sys.executable, threads)
            runs[n_busy, threads].append(found)
    rows = []
    for (n_busy, threads), found in runs.items():
        beside = "one busy process" if n_busy else "nobody"
        least = {key: round(min(x[key] for x in found), 2) for key in found[0]}
        rows.append({"beside": beside, "threads": threads} | least)
        print(rows[-1])
    keep(given.out, rows, ("beside", "threads"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(work(int(sys.argv[2]))))
    else:
        main()
