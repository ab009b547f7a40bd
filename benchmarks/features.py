"""The two feature tables, plain pandas against recsys_nb, in one run: seconds, peak memory, ratio; the results must agree.

    python benchmarks/features.py [EVENTS]      default 1_000_000; 10_000_000 takes some minutes
"""
import json, subprocess, sys, threading, time

import numpy as np
import pandas as pd


def log(n, seed=0):
    "A log with a long tail: n / 20 users (at most 500,000), 5,000 items."
    rng, users = np.random.default_rng(seed), min(n // 20 + 1, 500_000)
    names = lambda kind, codes, size: pd.Series(pd.Categorical.from_codes(codes, [f"{kind}_{i}" for i in range(size)])).astype("str")
    return pd.DataFrame({"user_id": names("user", rng.integers(0, users, n), users), "item_id": names("item", (5000 * rng.random(n) ** 3).astype(int), 5000),
        "event_type": rng.choice(["view", "click", "add_cart", "purchase"], n, p=[.5, .3, .15, .05]),
        "timestamp": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(n), "s")})


def by_pandas(events):
    u = events.groupby("user_id").agg(total_interactions=("item_id", "count"), total_purchases=("event_type", lambda x: (x == "purchase").sum()))
    u["conversion_rate"] = u.total_purchases / u.total_interactions.clip(lower=1)
    i = events.groupby("item_id").agg(unique_users=("user_id", "nunique"), views=("event_type", lambda x: (x == "view").sum()),
        clicks=("event_type", lambda x: (x == "click").sum()), purchases=("event_type", lambda x: (x == "purchase").sum()))
    i["ctr"] = i.clicks / i.views.clip(lower=1)
    return u.reset_index(), i.reset_index()


def by_recsys_nb(events):
    from recsys_nb.features import item_features, user_features
    return user_features(events), item_features(events)


def one(way, n):
    "Runs in a process of its own; memory is what the work adds to the log and the imports, sampled each 10 ms."
    import psutil, recsys_nb.features # in both, not timed
    events = log(n); run, me, done = globals()[f"by_{way}"], psutil.Process(), threading.Event()
    rss = [me.memory_info().rss]
    sampler = threading.Thread(target=lambda: [rss.append(me.memory_info().rss) for _ in iter(lambda: done.wait(.01), True)]); sampler.start()
    wall, cpu = time.perf_counter(), time.process_time()
    tables = run(events)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done.set(); sampler.join()
    return dict(way=way, events=n, seconds=round(wall, 2), cpu_seconds=round(cpu, 2), added_peak_mb=round((max(rss) - rss[0]) / 1e6),
        rows=[len(t) for t in tables], sums=[float(t.select_dtypes("number").to_numpy().sum()) for t in tables])


if __name__ == "__main__":
    n = int(float(sys.argv[1].replace("_", ""))) if len(sys.argv) > 1 else 1_000_000
    if len(sys.argv) > 2: print(json.dumps(one(sys.argv[2], n))); sys.exit()
    a, b = [json.loads(subprocess.run([sys.executable, __file__, str(n), way], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
            for way in ["pandas", "recsys_nb"]]
    assert a["rows"] == b["rows"] and np.allclose(a["sums"], b["sums"]), (a, b)
    print(pd.DataFrame([a, b]).drop(columns=["rows", "sums"]).to_string(index=False))
    print("recsys_nb / pandas: " + ", ".join(f"{k} ×{b[k] / max(a[k], 1e-9):.3f}" for k in ["seconds", "cpu_seconds", "added_peak_mb"]))
