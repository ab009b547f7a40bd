"""Features from a Parquet log, in one run: seconds, peak memory and ratios.

    python benchmarks/features.py [EVENTS]

The default is 1_000_000 events; 10_000_000 take some minutes; 100_000_000 leave out
pandas, and DuckDB's join, for which 6 GB are too few.

Two tasks. The two feature tables: the pandas code that one writes first, native Polars,
native DuckDB SQL, and recsys_nb. And the features of users at EVENTS / 10 moments: a
join of moments and events in DuckDB's SQL, recsys_nb, and recsys_nb with a column of
its own for each count. The tables come from two shops: one with a Zipf tail, and one
with a milder tail, of which the moments are taken too.

The features are the same and must agree. Each way runs in a process of its own, three
times, interleaved; the fastest counts. Polars is a peer and no requirement:
pip install polars.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

LIMIT = "6GB"  # of DuckDB's buffers; what is larger goes to disk
COLUMNS = ["user_id", "item_id", "event_type", "timestamp"]
KINDS = ("view", "click", "purchase")
WINDOWS = [1, 7, 30, None]
CHUNK = 1_000_000  # rows written at a time


def name_ids(kind, codes):
    return pd.Series(codes).astype("str").radd(f"{kind}_")


def draw_pairs(rng, n, total, shop):
    "User and item codes of `n` events of a log of `total`."
    if shop == "zipf tail":
        users = rng.integers(0, total // 10, n)
        return users, np.minimum(rng.zipf(2, n), total // 20) - 1
    users = rng.integers(0, min(total // 20 + 1, 500_000), n)
    return users, (5000 * rng.random(n) ** 3).astype(int)


def draw_log(n, total, seed=0, start=0, shop="long tail"):
    "A part of a log, one event per second."
    rng = np.random.default_rng(seed)
    users, items = draw_pairs(rng, n, total, shop)
    kinds = ["view", "click", "add_cart", "purchase"]
    seconds = pd.to_timedelta(start + np.arange(n), "s")
    times = pd.Timestamp("2024-01-01") + seconds
    return pd.DataFrame(
        {
            "user_id": name_ids("user", users),
            "item_id": name_ids("item", items),
            "event_type": rng.choice(kinds, n, p=[0.5, 0.3, 0.15, 0.05]),
            "timestamp": times.astype("datetime64[us]"),
        }
    )


def write_log(folder, n, shop):
    "events.parquet, and moments.parquet: every tenth event's user and time."
    import pyarrow as pa
    import pyarrow.parquet as pq

    writers = {}
    for start in range(0, n, CHUNK):
        part = draw_log(min(CHUNK, n - start), n, start, start, shop)
        moments = part[::10][["user_id", "timestamp"]]
        moments = moments.rename(columns={"timestamp": "as_of"})
        for name, frame in {"events": part, "moments": moments}.items():
            table = pa.Table.from_pandas(frame, preserve_index=False)
            if name not in writers:
                path = f"{folder}/{name}.parquet"
                writers[name] = pq.ParquetWriter(path, table.schema)
            writers[name].write_table(table)
    for writer in writers.values():
        writer.close()


# ---- the two tables


def tables_pandas(folder):
    "Lambdas over groups."
    events = pd.read_parquet(f"{folder}/events.parquet", columns=COLUMNS[:3])

    def count(kind):
        return ("event_type", lambda types: (types == kind).sum())

    users = events.groupby("user_id").agg(
        total_interactions=("item_id", "count"), total_purchases=count("purchase")
    )
    total = users.total_interactions.clip(lower=1)
    users["conversion_rate"] = users.total_purchases / total
    items = events.groupby("item_id").agg(
        unique_users=("user_id", "nunique"),
        views=count("view"),
        clicks=count("click"),
        purchases=count("purchase"),
    )
    items["ctr"] = items.clicks / items.views.clip(lower=1)
    return users.reset_index(), items.reset_index()


def tables_polars(folder):
    "Lazy frames, streamed."
    import polars as pl

    events = pl.scan_parquet(f"{folder}/events.parquet")

    def count(kind):
        return (pl.col("event_type") == kind).sum()

    def ratio(part, whole):
        return pl.col(part) / pl.col(whole).clip(1)

    users = events.group_by("user_id").agg(
        total_interactions=pl.len(), total_purchases=count("purchase")
    )
    conversion = ratio("total_purchases", "total_interactions")
    users = users.with_columns(conversion_rate=conversion).sort("user_id")
    items = events.group_by("item_id").agg(
        unique_users=pl.col("user_id").n_unique(),
        views=count("view"),
        clicks=count("click"),
        purchases=count("purchase"),
    )
    items = items.with_columns(ctr=ratio("clicks", "views")).sort("item_id")
    tables = [table.collect(engine="streaming") for table in (users, items)]
    return [pd.DataFrame(table.to_dict(as_series=False)) for table in tables]


def tables_duckdb(folder):
    "SQL."
    import duckdb

    con = duckdb.connect(config={"memory_limit": LIMIT})
    source = f"FROM '{folder}/events.parquet'"
    views, clicks, purchases = (
        f"count(*) FILTER (event_type = '{kind}')" for kind in KINDS
    )
    users = f"""SELECT *,
            total_purchases / greatest(total_interactions, 1) conversion_rate
        FROM (SELECT user_id, count(*) total_interactions, {purchases} total_purchases
            {source} GROUP BY 1) ORDER BY 1"""
    items = f"""SELECT *, clicks / greatest(views, 1) ctr
        FROM (SELECT item_id, count(DISTINCT user_id) unique_users, {views} AS views,
            {clicks} clicks, {purchases} purchases
            {source} GROUP BY 1) ORDER BY 1"""
    return con.sql(users).df(), con.sql(items).df()


def tables_recsys_nb(folder):
    import ibis

    from recsys_nb.features import item_features, user_features

    con = ibis.duckdb.connect(memory_limit=LIMIT)
    events = con.read_parquet(f"{folder}/events.parquet")
    queries = user_features(events), item_features(events)
    return [con.to_pyarrow(query).to_pandas() for query in queries]


# ---- users at many moments


def window_columns(window):
    "SQL of the counts of a window."
    end, inside = "all", "TRUE"
    if window is not None:
        end = f"{window}d"
        inside = f"e.timestamp >= m.as_of - INTERVAL {window} DAY"
    counts = [
        f"count(*) FILTER (e.event_type = '{kind}' AND {inside}) user_{kind}s_{end}"
        for kind in KINDS
    ]
    return [
        f"count(e.item_id) FILTER ({inside}) user_events_{end}",
        *counts,
        f"count(DISTINCT e.item_id) FILTER ({inside}) user_distinct_items_{end}",
    ]


def moments_duckdb(folder):
    "A join of each moment with every earlier event of its user."
    import duckdb

    con = duckdb.connect(config={"memory_limit": LIMIT})
    columns = [column for window in WINDOWS for column in window_columns(window)]
    last = {"event": "TRUE", "purchase": "e.event_type = 'purchase'"}
    for name, condition in last.items():
        latest = f"max(e.timestamp) FILTER ({condition})"
        columns.append(f"epoch(m.as_of - {latest}) / 86400 user_days_since_{name}")
    query = f"""SELECT m.user_id, m.as_of, {", ".join(columns)}
        FROM '{folder}/moments.parquet' m LEFT JOIN '{folder}/events.parquet' e
        ON e.user_id = m.user_id AND e.timestamp < m.as_of GROUP BY 1, 2"""
    return [con.sql(query).to_arrow_reader(100_000)]


def moments_recsys_nb(folder):
    import ibis

    from recsys_nb.features import point_in_time, standard_features

    con = ibis.duckdb.connect(memory_limit=LIMIT)
    features = standard_features("user_id", WINDOWS)
    features = [f for f in features if f.how not in ("rate", "row")]
    tables = [
        con.read_parquet(f"{folder}/{name}.parquet") for name in ("events", "moments")
    ]
    query = con.compile(point_in_time(*tables, features))
    return [con.con.sql(query).to_arrow_reader(100_000)]


def moments_unpacked(folder):
    "A running column for each count, instead of two counts in one."
    from recsys_nb.features import timeline

    def assign_slots(parts):
        names = {
            text: f"{part.how}_{j}" for j, (text, part) in enumerate(parts.items())
        }
        return {text: timeline.Slot(name) for text, name in names.items()}

    timeline.assign_slots = assign_slots
    return moments_recsys_nb(folder)


# ---- measuring


def sum_columns(result):
    """Rows, and the sum of each column of numbers.

    Of a frame, or of Arrow batches as they come: as training reads them, never all at
    once.
    """
    frames = [result]
    if not isinstance(result, pd.DataFrame):
        frames = (batch.to_pandas() for batch in result)
    rows, sums = 0, {}
    for frame in frames:
        rows += len(frame)
        for name in frame.select_dtypes("number"):
            sums[name] = sums.get(name, 0.0) + float(frame[name].sum())
    return rows, sums


class MemorySampler:
    "The memory of this process, sampled each 10 ms."

    def __init__(self):
        import psutil

        self.process = psutil.Process()
        self.samples = [self.process.memory_info().rss]
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def sample(self):
        while not self.done.wait(0.01):
            self.samples.append(self.process.memory_info().rss)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def run_way(way, folder):
    "Run in this process; memory is what the work adds to the imports."
    import duckdb  # noqa: F401  all imports, not timed
    import ibis.backends.duckdb  # noqa: F401

    import recsys_nb.features.moments  # noqa: F401

    if way.endswith("polars"):
        import polars  # noqa: F401
    with MemorySampler() as memory:
        wall, cpu = time.perf_counter(), time.process_time()
        found = [sum_columns(table) for table in globals()[way](folder)]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "added_peak_mb": round((max(memory.samples) - memory.samples[0]) / 1e6),
        "peak_mb": round(max(memory.samples) / 1e6),
        "rows": [rows for rows, _ in found],
        "sums": {name: value for _, sums in found for name, value in sums.items()},
    }


def call_way(way, folder):
    "Run in a process of its own."
    command = [sys.executable, __file__, way, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def check_agreement(best):
    "All ways give the same rows and sums."
    ours = best["recsys_nb"]
    for way, found in best.items():
        assert found["rows"] == ours["rows"], (way, found["rows"], ours["rows"])
        assert set(found["sums"]) == set(ours["sums"]), (way, found, ours)
        theirs = [found["sums"][name] for name in ours["sums"]]
        expected = list(ours["sums"].values())
        np.testing.assert_allclose(theirs, expected, rtol=1e-9, err_msg=way)


def compare_ways(task, ways, n, folder, times):
    "Print a table of the ways of a task, with ratios to recsys_nb."
    runs = [
        {way: call_way(f"{task}_{way}", folder) for way in ways} for _ in range(times)
    ]
    best = {
        way: min((run[way] for run in runs), key=lambda found: found["cpu_seconds"])
        for way in ways
    }
    check_agreement(best)
    ours = best["recsys_nb"]
    rows = []
    for way, found in best.items():
        row = {"task": task, "way": way, "events": n}
        row |= {
            key: value for key, value in found.items() if key not in ("rows", "sums")
        }
        row["cpu / ours"] = round(found["cpu_seconds"] / ours["cpu_seconds"], 2)
        row["wall / ours"] = round(found["seconds"] / ours["seconds"], 2)
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False), flush=True)


def main(n):
    tables, moments = ["duckdb", "recsys_nb"], ["recsys_nb", "unpacked"]
    if importlib.util.find_spec("polars"):
        tables.insert(0, "polars")
    else:
        print("polars is not installed: left out")
    if n <= 10_000_000:
        tables.insert(0, "pandas")
        moments.insert(0, "duckdb")
    times = 3 if n <= 1_000_000 else 1
    for shop in ("zipf tail", "long tail"):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            write_log(folder, n, shop)
            print(shop)
            compare_ways("tables", tables, n, folder, times)
            if shop == "long tail":
                compare_ways("moments", moments, n, folder, times)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(run_way(*sys.argv[1:3])))
    else:
        main(int(float(sys.argv[1].replace("_", ""))) if len(sys.argv) > 1 else CHUNK)
