"Features at a point in time: no leak, serving equals batch, and the same numbers from every engine; engines that are not there are skipped."
import numpy as np
import pandas as pd
import pytest
from conftest import put
from ibis import _ as col
from pandas.testing import assert_frame_equal

from recsys_nb.features import Feature, item_features, learn_priors, point_in_time, standard_features, user_features

KEYS = ["user_id", "item_id"]
FEATURES = [f for key in KEYS for f in standard_features(key, price="price")] + [
    Feature("user_dear_2d", "user_id", col.price > 20, window=2, dtype="int64", null=0), Feature("item_types", "item_id", col.event_type, "distinct", .5, "int64")]


def world(seed, n=400, users=12, items=8, days=50):
    "A small shop with many events at the same time, and moments at, just after and far from events, some of strangers."
    rng = np.random.default_rng(seed)
    at = lambda n: (pd.Timestamp("2024-03-01") + pd.to_timedelta(rng.integers(0, days * 24, n), "h")).astype("datetime64[us]")
    ids = lambda kind, size, n: [f"{kind}{i}" for i in rng.integers(0, size, n)]
    events = pd.DataFrame({"user_id": ids("u", users, n), "item_id": ids("i", items, n), "event_type": rng.choice(["view", "click", "purchase", "share"], n, p=[.6, .2, .1, .1]),
        "timestamp": at(n)})
    moments = pd.DataFrame({"user_id": ids("u", users + 2, 80), "item_id": ids("i", items + 1, 80), "as_of": at(80)})
    moments.loc[:19, "as_of"] = events.timestamp[:20] + pd.to_timedelta(rng.choice([0, 1, 86400 * 10**6, 7 * 86400 * 10**6, 7 * 86400 * 10**6 + 1], 20), "us")
    prices = pd.DataFrame({"item_id": [f"i{i}" for i in range(items - 1)], "price": rng.lognormal(3, 1, items - 1)}) # the last has none
    return events, moments.sample(frac=1, random_state=seed), prices


def by_hand(events, moments, prices):
    "The same by filters of a frame, one moment and one feature after the other."
    events, rows = events.merge(prices, how="left"), []
    for r in moments.itertuples():
        row = {}
        for f in FEATURES:
            what = f.name.split("_", 1)[1]
            h = events[(events[f.key] == getattr(r, f.key)) & (events.timestamp < r.as_of)]
            since = lambda t: (r.as_of.floor("s") - t.max()) / pd.Timedelta(days=1)
            last = lambda days: (h.timestamp >= r.as_of - pd.Timedelta(days=days)).sum() / days
            if what == "trend_7d": row[f.name] = last(7) - last(30)
            if f.window: h = h[h.timestamp >= r.as_of - pd.Timedelta(days=f.window)]
            of = lambda kind: (h.event_type == kind).sum()
            ratio = lambda k, n: k / n if n else np.nan
            for start, value in {"events": lambda: len(h), "views": lambda: of("view"), "clicks": lambda: of("click"), "purchases": lambda: of("purchase"),
                    "distinct_items": lambda: h.item_id.nunique(), "distinct_users": lambda: h.user_id.nunique(), "types": lambda: h.event_type.nunique(),
                    "ctr": lambda: ratio(of("click"), of("view")), "conversion": lambda: ratio(of("purchase"), len(h)), "price_sum": lambda: h.price.sum(),
                    "prices": lambda: h.price.notna().sum(), "price_mean": lambda: h.price.mean(), "price_min": lambda: h.price.min(),
                    "price_max": lambda: h.price.max(), "dear": lambda: (h.price > 20).sum(), "days_since_event": lambda: since(h.timestamp),
                    "days_since_purchase": lambda: since(h[h.event_type == "purchase"].timestamp)}.items():
                if what.startswith(start): row[f.name] = value()
        rows.append(row)
    return pd.concat([moments, pd.DataFrame(rows, index=moments.index)], axis=1)


def close(a, b): assert_frame_equal(a, b, check_dtype=False, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_as_by_hand(seed):
    events, moments, prices = world(seed)
    got, want = point_in_time(events, moments, FEATURES, prices), by_hand(events, moments, prices)
    assert set(want) == set(got) and {f.name: f.dtype for f in FEATURES} == {f.name: str(got[f.name].dtype) for f in FEATURES}
    close(got, want[got.columns])


@pytest.mark.parametrize("seed", range(3))
def test_no_leak(seed):
    "Each moment by itself: later events removed, shuffled, retyped or multiplied change nothing, and neither does the order of rows."
    events, moments, prices = world(seed)
    batch, rng = point_in_time(events, moments, FEATURES, prices), np.random.default_rng(seed)
    for j in rng.choice(len(moments), 2, replace=False):
        moment = moments.iloc[[j]]
        late = events.timestamp >= moment.as_of.iloc[0]
        mixed = events[late].assign(**{c: rng.permutation(events.loc[late, c]) for c in KEYS}, event_type="purchase")
        for other in [events[~late], pd.concat([events[~late], mixed]), pd.concat([events, mixed, mixed]), events.sample(frac=1, random_state=seed)]:
            close(point_in_time(other, moment, FEATURES, prices), batch.iloc[[j]])
    early = events.timestamp < moments.as_of.max() # and the test can fail: an earlier event does show
    assert not point_in_time(events[early].iloc[1:], moments, FEATURES, prices).equals(batch)


@pytest.mark.parametrize("key", KEYS)
def test_serving_equals_batch(key):
    "At serving time there are the events of one user or item only, up to now."
    events, moments, prices = world(7)
    features = learn_priors([f for f in FEATURES if f.key == key], events, moments.as_of.min() + pd.Timedelta(days=20))
    moments = moments[moments.as_of >= moments.as_of.min() + pd.Timedelta(days=20)]
    batch = point_in_time(events, moments, features, prices)
    for j in range(4):
        now = moments.iloc[[j]]
        own = events[(events[key] == now[key].iloc[0]) & (events.timestamp < now.as_of.iloc[0])]
        close(point_in_time(own, now, features, prices), batch.iloc[[j]])


def test_zones_and_index():
    "Times with a zone are the same moments; the rows keep order, index and other columns."
    events, moments, prices = world(3)
    tokyo = lambda t: t.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    got = point_in_time(events.assign(timestamp=tokyo(events.timestamp)), moments.assign(as_of=tokyo(moments.as_of), note="x"), FEATURES, prices)
    assert got.index.equals(moments.index) and (got.note == "x").all()
    close(got.assign(as_of=moments.as_of).drop(columns="note"), point_in_time(events, moments, FEATURES, prices))
    assert len(point_in_time(events, moments.iloc[:0], FEATURES, prices)) == 0
    assert (point_in_time(events.iloc[:0], moments, FEATURES, prices).user_events_all == 0).all()


@pytest.mark.parametrize("engine", ["duckdb", "postgres", "pyspark"])
def test_every_engine(engine, request):
    "Numbers equal to 1e-9 those of the frame, for both kinds of feature functions."
    con = request.getfixturevalue(engine)
    fetch = lambda expression: con.to_pyarrow(expression).to_pandas() # Ibis' to_pandas reads an option that pandas 3 deprecates
    events, moments, prices = world(5)
    moments = moments.assign(row=range(len(moments)))
    features = learn_priors(FEATURES, events, "2024-03-10")
    moments = moments[moments.as_of >= "2024-03-10"]
    table = {}
    for name, frame in {"events": events, "moments": moments, "prices": prices}.items():
        table[name] = put(con, name, frame)
    got = fetch(point_in_time(table["events"], table["moments"], features, table["prices"])).sort_values("row")
    want = point_in_time(events, moments, features, prices)
    close(got[[f.name for f in features]].reset_index(drop=True), want[[f.name for f in features]].reset_index(drop=True))
    for f in [user_features, item_features]: close(fetch(f(table["events"], "2024-03-20")), f(events, "2024-03-20"))
    again = learn_priors(features, table["events"], "2024-03-10")
    np.testing.assert_allclose([f.prior[:2] for f in again if f.how == "rate"], [f.prior[:2] for f in features if f.how == "rate"], rtol=1e-9)
