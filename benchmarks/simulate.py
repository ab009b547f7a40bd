"""Drawing an event log: a list comprehension per column against `simulate`, side by
side; then a large log in memory.

    OMP_NUM_THREADS=1 python benchmarks/simulate.py [--large 10_000_000] [--repeat 5]

Seconds are CPU seconds of one thread, medians of interleaved runs. `World.sample` draws
the log, as the comprehensions do; `simulate` makes the tables and the hidden truth too.
The comprehensions are timed in two readings: event types by np.random.choice(types,
p=...) for each row, and by the faster random.choices. Their events carry no signal.
"""

import argparse
import random
import resource
import statistics
import time

import numpy as np
import pandas as pd

from recsys_nb.data import EVENTS, World, simulate

SHARES = [0.5, 0.3, 0.15, 0.05]  # of the event types


def comprehend_log(draw_event, n=100_000, n_users=10_000, n_items=5_000):
    "A log without signal, drawn value by value."
    users = [f"user_{random.choice(range(n_users))}" for _ in range(n)]
    items = [f"item_{min(np.random.zipf(2), n_items) - 1}" for _ in range(n)]
    return pd.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "event_type": [draw_event() for _ in range(n)],
            "timestamp": pd.date_range("2024-01-01", periods=n, freq="min"),
        }
    )


def comprehend_with_numpy():
    "The comprehensions with np.random.choice."
    return comprehend_log(lambda: np.random.choice(EVENTS, p=SHARES))


def comprehend_with_random():
    "The comprehensions with random.choices."
    return comprehend_log(lambda: random.choices(EVENTS, SHARES)[0])


def measure_cpu(function):
    "CPU seconds of a call, and the rows of what it returns."
    start = time.process_time()
    rows = len(function())
    return time.process_time() - start, rows


def peak_memory():
    "Of this process so far, in MB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(world, repeat):
    "Print the medians of all ways to draw 100,000 events."
    ways = {
        "np.random.choice(p)": comprehend_with_numpy,
        "random.choices": comprehend_with_random,
        "World.sample": world.sample,
        "simulate": simulate,
    }
    times = {name: [] for name in ways}
    for _ in range(repeat):
        for name, function in ways.items():
            seconds, rows = measure_cpu(function)
            assert rows == 100_000
            times[name].append(seconds)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        to_sample = median / medians["World.sample"]
        to_simulate = median / medians["simulate"]
        print(
            f"{name:22s} 100,000 events {median:7.3f} s "
            f"{to_sample:6.1f} x World.sample {to_simulate:6.1f} x simulate"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--large", type=int, default=10_000_000, help="rows; 0: leave it out"
    )
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    world = World()
    world.sample(500)
    compare(world, options.repeat)
    if options.large:
        before = peak_memory()
        seconds, rows = measure_cpu(lambda: world.sample(options.large))
        print(
            f"World.sample {rows:,} events {seconds:.1f} s, peak memory "
            f"{peak_memory():,.0f} MB (before: {before:,.0f} MB)"
        )


if __name__ == "__main__":
    main()
