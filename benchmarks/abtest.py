"""Four metrics of a large experiment, each with CUPED: recsys_nb.experiments.analyze
beside tea-tasting's own Experiment, each in its own process.

    python benchmarks/abtest.py [--users 1000000] [--repeats 3]

Both get the same frame in memory, a row a user: one ratio metric with a ratio covariate
and three means with a covariate each. recsys_nb also checks the split, that no user is
in two arms and
that every count is plausible, corrects for four comparisons and adds Fieller's
intervals. CPU seconds on one thread, the best of --repeats, contenders in turn; "MB
extra" is what the process grew by
beyond the frame; "ratio" is to recsys_nb's. The p-values must agree to nine digits.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import time

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np
import pandas as pd
import psutil

MEANS = ("revenue", "orders", "minutes")


def make(n: int, seed: int = 0) -> pd.DataFrame:
    "A row a user: arm, counts, three positive measures, and all of them from before."
    rng = np.random.default_rng(seed)
    rate, m, before = rng.beta(2, 30, n), rng.geometric(0.1, n), rng.geometric(0.1, n)
    d = {
        "user_id": rng.permutation(n),
        "variant": rng.choice(["control", "treatment"], n),
        "impressions": m,
        "clicks": rng.binomial(m, rate),
        "impressions_before": before,
        "clicks_before": rng.binomial(before, rate),
    }
    for name in MEANS:
        base = rng.lognormal(0, 1, n)
        d |= {
            name: base * rng.lognormal(0, 0.5, n),
            f"{name}_before": base * rng.lognormal(0, 0.5, n),
        }
    return pd.DataFrame(d)


def ours(d, strata=None):
    from recsys_nb.experiments import analyze

    t = analyze(
        d,
        metrics={"ctr": "clicks/impressions", **{m: m for m in MEANS}},
        covariates={
            "ctr": "clicks_before/impressions_before",
            **{m: f"{m}_before" for m in MEANS},
        },
        strata=strata,
    ).table
    return t.p_value.tolist()


def tea(d):
    import tea_tasting as tt

    e = tt.Experiment(
        {
            "ctr": tt.RatioOfMeans(
                "clicks", "impressions", "clicks_before", "impressions_before"
            ),
            **{m: tt.Mean(m, f"{m}_before") for m in MEANS},
        }
    )
    return [r.pvalue for r in e.analyze(d, control="control").values()]


CONTENDERS = {
    "recsys_nb": ours,
    "tea-tasting": tea,
    "recsys_nb, 20 strata": lambda d: ours(d, "stratum"),
}


def child(name: str, users: int, repeats: int) -> None:
    "Run one contender here and print its figures as JSON."
    d = make(users)
    d["stratum"] = d.impressions_before.clip(upper=20)
    CONTENDERS[name](d.head(2_000))  # imports
    process, done = psutil.Process(), threading.Event()
    base = peak = process.memory_info().rss

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    thread, seconds = threading.Thread(target=watch), []
    thread.start()
    for _ in range(repeats):
        t = time.process_time()
        p = CONTENDERS[name](d)
        seconds.append(time.process_time() - t)
    done.set()
    thread.join()
    print(json.dumps({"seconds": min(seconds), "peak_mb": (peak - base) / 1e6, "p": p}))


def compare_p_values(name: str, mine: list[float], first: list[float]) -> str:
    "In words whether the p-values of a contender are the first one's; else an exit."
    if "strata" in name:
        return "other, as it stratifies"
    if not np.allclose(mine, first, rtol=1e-9, atol=0):
        sys.exit(f"{name}: p-values differ, {mine} and {first}")
    return "the same"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        return child(a.child, a.users, a.repeats)
    print(
        f"{a.users:,} users, 4 metrics with CUPED\n\n"
        f"{'':<24}{'CPU s':>8}{'ratio':>8}{'MB extra':>10}  p-values"
    )
    first = None
    for name in CONTENDERS:
        size = ["--users", str(a.users), "--repeats", str(a.repeats)]
        command = [sys.executable, __file__, "--child", name, *size]
        r = subprocess.run(command, capture_output=True, text=True)
        if r.returncode:
            sys.exit(f"{name} failed:\n{r.stderr}")
        d = json.loads(r.stdout.splitlines()[-1])
        first = first or d
        same = compare_p_values(name, d["p"], first["p"])
        ratio = d["seconds"] / first["seconds"]
        figures = f"{d['seconds']:>8.2f}{ratio:>8.2f}{d['peak_mb']:>10.0f}"
        print(f"{name:<24}{figures}  {same}")
    libraries = ("numpy", "pandas", "tea-tasting")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in libraries]
    print("\n" + ", ".join(versions))


if __name__ == "__main__":
    main()
