"""Features from a Parquet log: the seed's pandas code, native Polars, native DuckDB SQL and recsys_nb, in one run: seconds, peak memory, ratios.

    python benchmarks/features.py [EVENTS]      default 1_000_000; 10_000_000 takes some minutes; 100_000_000 leaves out pandas, and DuckDB's join, for which 6 GB are too few

Two tasks: the two feature tables (all four ways), and the features of users at EVENTS / 10 moments (DuckDB's SQL by a join of moments and events, and
recsys_nb). The tables come from two shops: one as the seed draws it, grown, and one with a milder tail, of which the moments are taken too.
The same features, which must agree. Each way runs in a process of its own, three times, interleaved; the fastest counts.
Polars is a peer and no requirement: pip install polars.
"""
import importlib.util, json, subprocess, sys, tempfile, threading, time
from pathlib import Path

import numpy as np
import pandas as pd

LIMIT = "6GB" # of DuckDB's buffers, for both ways that use it; what is larger goes to disk
COLUMNS = ["user_id", "item_id", "event_type", "timestamp"]
WINDOWS = [1, 7, 30, None]


def log(n, total, seed=0, start=0, shop="long tail"):
    "A part of a log of `total` events: of the seed's shop (total / 10 users, total / 20 items, Zipf) or a milder tail (total / 20 users, at most 500,000; 5,000 items)."
    rng = np.random.default_rng(seed)
    users, items = (total // 10, total // 20) if shop == "seed's shop" else (min(total // 20 + 1, 500_000), 5000)
    item = np.minimum(rng.zipf(2, n), items) - 1 if shop == "seed's shop" else (items * rng.random(n) ** 3).astype(int)
    names = lambda kind, codes: pd.Series(codes).astype("str").radd(f"{kind}_")
    return pd.DataFrame({"user_id": names("user", rng.integers(0, users, n)), "item_id": names("item", item),
        "event_type": rng.choice(["view", "click", "add_cart", "purchase"], n, p=[.5, .3, .15, .05]),
        "timestamp": (pd.Timestamp("2024-01-01") + pd.to_timedelta(start + np.arange(n), "s")).astype("datetime64[us]")})


def write(folder, n, shop):
    "events.parquet, a million rows a time, and moments.parquet: every tenth event's user and time."
    import pyarrow as pa, pyarrow.parquet as pq
    writers, size = {}, 1_000_000
    for j in range(0, n, size):
        part = log(min(size, n - j), n, j, j, shop)
        for name, t in {"events": part, "moments": part[::10][["user_id", "timestamp"]].rename(columns={"timestamp": "as_of"})}.items():
            table = pa.Table.from_pandas(t, preserve_index=False)
            if name not in writers: writers[name] = pq.ParquetWriter(f"{folder}/{name}.parquet", table.schema)
            writers[name].write_table(table)
    for w in writers.values(): w.close()


def tables_pandas(folder):
    "As the notebook that this project grew out of."
    events = pd.read_parquet(f"{folder}/events.parquet", columns=COLUMNS[:3])
    u = events.groupby("user_id").agg(total_interactions=("item_id", "count"), total_purchases=("event_type", lambda x: (x == "purchase").sum()))
    u["conversion_rate"] = u.total_purchases / u.total_interactions.clip(lower=1)
    i = events.groupby("item_id").agg(unique_users=("user_id", "nunique"), views=("event_type", lambda x: (x == "view").sum()),
        clicks=("event_type", lambda x: (x == "click").sum()), purchases=("event_type", lambda x: (x == "purchase").sum()))
    i["ctr"] = i.clicks / i.views.clip(lower=1)
    return u.reset_index(), i.reset_index()


def tables_polars(folder):
    import polars as pl
    e, of = pl.scan_parquet(f"{folder}/events.parquet"), lambda kind: (pl.col("event_type") == kind).sum()
    u = e.group_by("user_id").agg(total_interactions=pl.len(), total_purchases=of("purchase")).with_columns(
        conversion_rate=pl.col("total_purchases") / pl.col("total_interactions").clip(1)).sort("user_id")
    i = e.group_by("item_id").agg(unique_users=pl.col("user_id").n_unique(), views=of("view"), clicks=of("click"), purchases=of("purchase")).with_columns(
        ctr=pl.col("clicks") / pl.col("views").clip(1)).sort("item_id")
    return [pd.DataFrame(t.collect(engine="streaming").to_dict(as_series=False)) for t in (u, i)]


def tables_duckdb(folder):
    import duckdb
    con, e = duckdb.connect(config={"memory_limit": LIMIT}), f"FROM '{folder}/events.parquet'"
    of = lambda kind: f"count(*) FILTER (event_type = '{kind}')"
    return (con.sql(f"SELECT *, total_purchases / greatest(total_interactions, 1) conversion_rate FROM "
            f"(SELECT user_id, count(*) total_interactions, {of('purchase')} total_purchases {e} GROUP BY 1) ORDER BY 1").df(),
        con.sql(f"SELECT *, clicks / greatest(views, 1) ctr FROM (SELECT item_id, count(DISTINCT user_id) unique_users, {of('view')} AS views, "
            f"{of('click')} clicks, {of('purchase')} purchases {e} GROUP BY 1) ORDER BY 1").df())


def tables_recsys_nb(folder):
    import ibis
    from recsys_nb.features import item_features, user_features
    con = ibis.duckdb.connect(memory_limit=LIMIT); events = con.read_parquet(f"{folder}/events.parquet")
    return [con.to_pyarrow(f(events)).to_pandas() for f in (user_features, item_features)]


def moments_duckdb(folder):
    import duckdb
    con, columns = duckdb.connect(config={"memory_limit": LIMIT}), []
    for w in WINDOWS:
        end, since = ("all", "TRUE") if w is None else (f"{w}d", f"e.timestamp >= m.as_of - INTERVAL {w} DAY")
        columns += [f"count(e.item_id) FILTER ({since}) user_events_{end}", *[f"count(*) FILTER (e.event_type = '{k}' AND {since}) user_{k}s_{end}"
            for k in ("view", "click", "purchase")], f"count(DISTINCT e.item_id) FILTER ({since}) user_distinct_items_{end}"]
    columns += [f"epoch(m.as_of - max(e.timestamp) FILTER ({k})) / 86400 user_days_since_{n}" for n, k in
        [("event", "TRUE"), ("purchase", "e.event_type = 'purchase'")]]
    return [con.sql(f"SELECT m.user_id, m.as_of, {', '.join(columns)} FROM '{folder}/moments.parquet' m LEFT JOIN '{folder}/events.parquet' e "
        "ON e.user_id = m.user_id AND e.timestamp < m.as_of GROUP BY 1, 2").to_arrow_reader(100_000)]


def moments_recsys_nb(folder):
    import ibis
    from recsys_nb.features import point_in_time, standard_features
    con = ibis.duckdb.connect(memory_limit=LIMIT)
    features = [f for f in standard_features("user_id", WINDOWS) if f.how not in ("rate", "row")]
    table = point_in_time(con.read_parquet(f"{folder}/events.parquet"), con.read_parquet(f"{folder}/moments.parquet"), features)
    return [con.con.sql(con.compile(table)).to_arrow_reader(100_000)]


def summed(result):
    "Rows and the sum of each column of numbers, of a frame, or of Arrow batches as they come: as training reads them, never all at once."
    rows, sums = 0, {}
    for t in [result] if isinstance(result, pd.DataFrame) else (batch.to_pandas() for batch in result):
        rows += len(t)
        for c in t.select_dtypes("number"): sums[c] = sums.get(c, 0.) + float(t[c].sum())
    return rows, sums


def one(way, folder):
    "Runs in a process of its own; memory is what the work adds to the imports, sampled each 10 ms."
    import psutil, duckdb, ibis.backends.duckdb, recsys_nb.features # in all, not timed
    if way.endswith("polars"): import polars
    run, me, done = globals()[way], psutil.Process(), threading.Event()
    rss = [me.memory_info().rss]
    sampler = threading.Thread(target=lambda: [rss.append(me.memory_info().rss) for _ in iter(lambda: done.wait(.01), True)], daemon=True); sampler.start()
    wall, cpu = time.perf_counter(), time.process_time()
    tables = [summed(t) for t in run(folder)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done.set(); sampler.join()
    return dict(seconds=round(wall, 2), cpu_seconds=round(cpu, 2), added_peak_mb=round((max(rss) - rss[0]) / 1e6), peak_mb=round(max(rss) / 1e6),
        rows=[rows for rows, _ in tables], sums={c: x for _, sums in tables for c, x in sums.items()})


def compare(task, ways, n, folder, times):
    "One table of the ways of a task, with ratios to recsys_nb."
    call = lambda way: json.loads(subprocess.run([sys.executable, __file__, f"{task}_{way}", folder], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    runs = [{way: call(way) for way in ways} for _ in range(times)] # interleaved
    best = {way: min((r[way] for r in runs), key=lambda r: r["cpu_seconds"]) for way in ways}; ours = best["recsys_nb"]
    for way, r in best.items():
        assert r["rows"] == ours["rows"] and set(r["sums"]) == set(ours["sums"]), (way, r, ours)
        np.testing.assert_allclose([r["sums"][c] for c in ours["sums"]], list(ours["sums"].values()), rtol=1e-9, err_msg=way)
    t = pd.DataFrame([dict(task=task, way=way, events=n, **{k: v for k, v in r.items() if k not in ("rows", "sums")},
        **{"cpu / ours": round(r["cpu_seconds"] / ours["cpu_seconds"], 2), "wall / ours": round(r["seconds"] / ours["seconds"], 2)}) for way, r in best.items()])
    print(t.to_string(index=False), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2: print(json.dumps(one(*sys.argv[1:3]))); sys.exit()
    n = int(float(sys.argv[1].replace("_", ""))) if len(sys.argv) > 1 else 1_000_000
    peers = ["polars"] if importlib.util.find_spec("polars") else print("polars is not installed: left out") or []
    times = 3 if n <= 1_000_000 else 1
    for shop in ("seed's shop", "long tail"):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            write(folder, n, shop); print(shop)
            compare("tables", [*(["pandas"] if n <= 10_000_000 else []), *peers, "duckdb", "recsys_nb"], n, folder, times)
            if shop == "long tail": compare("moments", [*(["duckdb"] if n <= 10_000_000 else []), "recsys_nb"], n, folder, times)
