"""Drawing an event log: the seed notebook's list comprehensions against `simulate`, side by side; then a large log in memory.

    OMP_NUM_THREADS=1 python benchmarks/simulate.py [--large 10_000_000] [--repeat 5]

Seconds are CPU seconds of one thread, medians of interleaved runs. `World.sample` draws the log, as the seed's comprehensions do; `simulate`
makes the tables and the hidden truth too. The seed is timed in two readings: event types by np.random.choice(types, p=...) for each row, and by
the faster random.choices.
"""
import argparse
import random
import resource
import statistics
import time

import numpy as np
import pandas as pd

from recsys_nb.simulate import EVENTS, World, simulate


def seed_log(event_type, n=100_000, n_users=10_000, n_items=5_000):
    return pd.DataFrame({"user_id": [f"user_{random.choice(range(n_users))}" for _ in range(n)],
        "item_id": [f"item_{min(np.random.zipf(2), n_items) - 1}" for _ in range(n)],
        "event_type": [event_type() for _ in range(n)], "timestamp": pd.date_range("2024-01-01", periods=n, freq="min")})


def seed_numpy(): return seed_log(lambda: np.random.choice(EVENTS, p=[.5, .3, .15, .05]))
def seed_random(): return seed_log(lambda: random.choices(EVENTS, [.5, .3, .15, .05])[0])


def cpu(f):
    start = time.process_time(); out = f()
    return time.process_time() - start, len(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=10_000_000, help="rows of the large log; 0: leave it out")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    contenders = {"seed, np.random.choice(p)": seed_numpy, "seed, random.choices": seed_random, "World.sample": (world := World()).sample, "simulate": simulate}
    world.sample(500)
    times = {name: [] for name in contenders}
    for _ in range(args.repeat):
        for name, f in contenders.items():
            seconds, rows = cpu(f); assert rows == 100_000
            times[name].append(seconds)
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, m in medians.items(): print(f"{name:26s} 100,000 events {m:7.3f} s   {m / medians['World.sample']:5.1f} x World.sample   {m / medians['simulate']:5.1f} x simulate")
    if args.large:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds, rows = cpu(lambda: world.sample(args.large))
        print(f"{'World.sample':26s} {rows:,} events {seconds:.1f} s, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB (before: {before:,.0f} MB)")
