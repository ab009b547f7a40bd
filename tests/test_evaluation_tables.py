"""Tables of any library in every function of evaluation, and ids that cannot meet."""

import importlib.util

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_nb.data import IdMismatchError
from recsys_nb.evaluation import (
    IsotonicCalibrator,
    MetricsError,
    PlattCalibrator,
    ProtocolError,
    by_segment,
    compare,
    compare_all,
    compute_metrics,
    evaluate,
    neighbours,
    ranker_metrics,
    reliability,
    tsne_map,
)


def to_nullable(frame):
    return frame.convert_dtypes()


def to_pyarrow_columns(frame):
    return frame.convert_dtypes(dtype_backend="pyarrow")


def to_categories(frame):
    names = [name for name in frame if name.endswith("_id")]
    return frame.astype(dict.fromkeys(names, "category"))


def to_objects(frame):
    return frame.astype(object).infer_objects() if len(frame) else frame


def to_polars(frame):
    import polars

    return polars.from_arrow(pa.Table.from_pandas(frame, preserve_index=False))


def to_lazy_polars(frame):
    return to_polars(frame).lazy()


def to_arrow(frame):
    return pa.Table.from_pandas(frame, preserve_index=False)


def to_batch(frame):
    return pa.RecordBatch.from_pandas(frame, preserve_index=False)


LIBRARIES = {
    "nullable": to_nullable,
    "pyarrow columns": to_pyarrow_columns,
    "categories": to_categories,
    "objects": to_objects,
    "arrow": to_arrow,
    "arrow batch": to_batch,
}
if importlib.util.find_spec("polars"):
    LIBRARIES |= {"polars": to_polars, "polars lazy": to_lazy_polars}
libraries = st.sampled_from(tuple(LIBRARIES))
WRITINGS = {
    "small": lambda n: n,
    "large": lambda n: 2**60 + 7 * n,
    "text": lambda n: f"id_{n}",
    "padded": lambda n: f"{n:05d}",
}


@st.composite
def cases(draw, writings=tuple(WRITINGS)):
    "Lists, a truth, a past and attributes of items, with ids of one writing."
    seed = draw(st.integers(0, 2**32 - 1))
    write = WRITINGS[draw(st.sampled_from(writings))]
    n_users, n_items = draw(st.integers(2, 9)), draw(st.integers(3, 12))
    rng = np.random.default_rng(seed)
    users = [write(n) for n in range(n_users)]
    items = [write(n) for n in range(n_items)]
    length = draw(st.integers(1, n_items))
    rows = [
        (user, items[item], rank)
        for user in users
        for rank, item in enumerate(rng.permutation(n_items)[:length], 1)
    ]
    lists = pd.DataFrame(rows, columns=["user_id", "item_id", "rank"])

    def draw_pairs(n):
        pick = (rng.integers(n_users, size=n), rng.integers(n_items, size=n))
        user = [users[n] for n in pick[0]]
        return pd.DataFrame({"user_id": user, "item_id": [items[n] for n in pick[1]]})

    about = pd.DataFrame({"item_id": items, "kind": rng.choice(["a", "b"], n_items)})
    vectors = pd.DataFrame(rng.normal(size=(n_items, 3)), columns=["x", "y", "z"])
    return {
        "lists": lists,
        "truth": draw_pairs(12).assign(value=rng.integers(1, 4, 12)),
        "past": draw_pairs(15),
        "sales": about[["item_id"]].assign(sales=rng.integers(1, 9, n_items)),
        "about": about,
        "vectors": pd.concat([about[["item_id"]], vectors], axis=1),
        "items": about.item_id,
        "users": pd.Series(users[: n_users // 2 + 1]),
    }


def judge(case, convert, name="model", k=(2, 4)):
    "A report with everything that takes a table."
    column = pd.DataFrame({"x": case["items"], "y": case["items"]})
    converted = convert(column)
    if hasattr(converted, "collect"):
        converted = converted.collect()
    return evaluate(
        convert(case["lists"]),
        convert(case["truth"]),
        k=k,
        items=converted["x"],
        popularity=convert(case["sales"]),
        train=convert(case["past"]),
        categories=convert(case["about"]),
        vectors=convert(case["vectors"]),
        gain="linear",
        n_boot=20,
        name=name,
    )


def check_same(one, other):
    pd.testing.assert_series_equal(one.values, other.values)
    pd.testing.assert_frame_equal(one.draws, other.draws)
    assert one.counts == other.counts and one.protocol == other.protocol


@given(libraries, cases())
def test_evaluate_of_any_table(library, case):
    plain = judge(case, lambda frame: frame)
    check_same(judge(case, LIBRARIES[library]), plain)


@given(libraries, cases())
def test_comparisons_of_any_table(library, case):
    lists, truth = case["lists"], case["truth"]
    backwards = lists.assign(rank=lists["rank"].max() + 1 - lists["rank"])
    both = []
    for convert in (lambda frame: frame, LIBRARIES[library]):
        both.append(
            {
                name: evaluate(
                    convert(frame), convert(truth), k=2, n_boot=20, name=name
                )
                for name, frame in {"backwards": backwards, "lists": lists}.items()
            }
        )
    plain, other = both
    pairs = [compare(*reports.values()) for reports in both]
    pairs.append(compare(plain["backwards"], other["lists"]))
    for pair in pairs[1:]:
        pd.testing.assert_frame_equal(pair.to_frame(), pairs[0].to_frame())
    families = [compare_all(reports, ["ndcg@2", "mrr@2"]) for reports in both]
    pd.testing.assert_frame_equal(*(family.to_frame() for family in families))


@st.composite
def examples(draw):
    "Labels of both classes, probabilities, users and segments, as a frame."
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    write = WRITINGS[draw(st.sampled_from(tuple(WRITINGS)))]
    n = draw(st.integers(6, 40))
    label = rng.random(n) < 0.5
    label[:2] = True, False
    p = np.clip(np.where(label, 0.6, 0.4) + rng.normal(0, 0.15, n), 0.01, 0.99)
    user = [write(u) for u in rng.integers(0, 5, n)]
    segment = rng.choice(["x", "y"], n)
    kinds = [bool, int, float]
    label = label.astype(kinds[draw(st.integers(0, 2))])
    return pd.DataFrame({"label": label, "p": p, "user": user, "segment": segment})


def columns_of(frame, convert):
    table = convert(frame)
    if hasattr(table, "collect"):
        table = table.collect()
    return [table[name] for name in ("label", "p", "user", "segment")]


@given(libraries, examples())
def test_columns_of_any_library(library, frame):
    found = []
    for convert in (lambda frame: frame, LIBRARIES[library]):
        label, p, user, segment = columns_of(frame, convert)
        report = ranker_metrics(label, p, user, n_boot=10)
        bins = reliability(label, p, user, n_bins=2, n_boot=10)
        parts = by_segment(label, p, segment, user, n_bins=2, n_boot=10)
        curve = IsotonicCalibrator().fit(label, p)
        found.append(
            [
                report.to_frame(),
                pd.DataFrame(bins.values, index=[0]),
                bins.to_frame(),
                parts,
                pd.DataFrame(compute_metrics(label, p, 3), index=[0]),
                pd.DataFrame({"p": curve.transform(p)}),
            ]
        )
    for one, other in zip(*found, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("library", LIBRARIES)
def test_maps_of_any_library(library):
    rng = np.random.default_rng(0)
    names = pd.DataFrame(
        {"name": [f"i{n}" for n in range(40)], "kind": list("ab") * 20}
    )
    vectors = pd.DataFrame(rng.normal(size=(40, 3)), columns=["x", "y", "z"])
    tables = [LIBRARIES[library](frame) for frame in (names, vectors)]
    tables = [t.collect() if hasattr(t, "collect") else t for t in tables]
    near = neighbours(tables[1], tables[0]["name"], "i3", 5)
    pd.testing.assert_frame_equal(near, neighbours(vectors, names["name"], "i3", 5))
    settings = {"perplexity": 5, "engine": "sklearn"}
    found = tsne_map(tables[1], tables[0]["name"], tables[0]["kind"], **settings)
    plain = tsne_map(vectors, names["name"], names["kind"], **settings)
    pd.testing.assert_frame_equal(found.to_frame(), plain.to_frame())


SPOILED = {
    "blank behind": lambda ids: ids + " ",
    "blank before": lambda ids: " " + ids,
    "zeros lost": lambda ids: ids.str.lstrip("0").replace("", "0"),
    "zeros added": lambda ids: "00" + ids,
    "as floats were written": lambda ids: ids + ".0",
    "numbers": lambda ids: ids.astype(int),
}


PLACES = [(t, c) for t in ("lists", "truth", "past") for c in ("user_id", "item_id")]
PLACES += [(table, "item_id") for table in ("sales", "about", "vectors")]


@given(st.sampled_from(tuple(SPOILED)), st.sampled_from(PLACES), cases(("padded",)))
def test_ids_that_cannot_meet_are_shown(spoil, where, case):
    place, column = where
    frame = case[place]
    spoiled = frame.assign(**{column: SPOILED[spoil](frame[column])})
    one = case["lists"][column].iloc[0] if place != "lists" else None
    with pytest.raises(MetricsError) as caught:
        judge(case | {place: spoiled}, lambda frame: frame)
    assert isinstance(caught.value, IdMismatchError)
    text = str(caught.value)
    assert column in text and ("e.g." in text or "differ by" in text)
    assert one is None or "'" in text


@pytest.mark.parametrize("table", ["items", "popularity", "train"])
@pytest.mark.parametrize("spoiled", ["truth", "table"])
def test_truths_are_compared_with_the_catalogue(table, spoiled):
    "No list names an item of the truth, so that lists and truth alone tell nothing."
    lists = pd.DataFrame({"user_id": ["a"], "item_id": "00000", "rank": 1})
    truth = pd.DataFrame({"user_id": ["a"], "item_id": "00001"})
    log = pd.DataFrame({"user_id": "a", "item_id": ["00000", "00001", "00002"]})
    tables = {
        "items": lambda ids: ids,
        "popularity": lambda ids: pd.Series(1, index=ids),
        "train": lambda ids: log.assign(item_id=ids),
    }
    ids = log.item_id
    evaluate(lists, truth, **{table: tables[table](ids)}, n_boot=0)
    if spoiled == "truth":
        truth = truth.assign(item_id="00001 ")
    else:
        ids = ids.replace("00001", "1")
    with pytest.raises(IdMismatchError, match="item_id of the truth '00001 ?'.*'0*1'"):
        evaluate(lists, truth, **{table: tables[table](ids)}, n_boot=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_some_spoiled_ids_are_enough(share):
    "One id in ten with a blank, where the others meet."
    rng = np.random.default_rng(0)
    truth = pd.DataFrame({"user_id": [f"u{n}" for n in range(100)], "item_id": "i"})
    lists = truth.assign(rank=1)
    some = rng.random(100) < share
    spoiled = lists.assign(user_id=lists.user_id.where(~some, lists.user_id + " "))
    with pytest.raises(IdMismatchError, match="blanks"):
        evaluate(spoiled, truth)
    upper = lists.assign(user_id=lists.user_id.where(~some, lists.user_id.str.upper()))
    with pytest.raises(IdMismatchError, match="capitals"):
        evaluate(upper, truth)


def test_capitals_may_name_other_items():
    "Ids of letters of both cases: two of many that differ by capitals are two items."
    items = [f"{a}{b}{c}" for a in "aAbB" for b in "cCdD" for c in "eEfF"]
    truth = pd.DataFrame({"user_id": range(64), "item_id": items})
    lists = truth.assign(item_id=items[1:] + items[:1], rank=1)
    assert evaluate(lists, truth, k=1, n_boot=0)["hit_rate@1"] == 0
    known = [f"item{n}" for n in range(300)]
    truth = pd.DataFrame({"user_id": range(300), "item_id": known})
    lists = truth.assign(item_id=["Item7", *known[1:]], rank=1)
    found = evaluate(lists, truth, k=1, n_boot=0)
    assert found["hit_rate@1"] == pytest.approx(299 / 300)


def test_users_that_the_lists_tell_apart_are_two():
    truth = pd.DataFrame({"user_id": ["7", "8"], "item_id": "i"})
    users = pd.Series(["7", "07", "8"])
    lists = pd.DataFrame({"user_id": users, "item_id": "i", "rank": 1})
    assert evaluate(lists, truth, k=1, n_boot=0)["hit_rate@1"] == 1
    with pytest.raises(IdMismatchError, match="'07'.*'7'"):
        evaluate(lists[1:], truth)


def test_many_rows_do_not_make_capitals_few():
    "Ten users with 20 rows each, one of them in capitals: a tenth is not few."
    truth = pd.DataFrame({"user_id": [f"u{n}" for n in range(10)], "item_id": 0})
    users = truth.user_id.replace("u3", "U3").repeat(20)
    lists = pd.DataFrame({"user_id": users, "item_id": [*range(20)] * 10})
    lists["rank"] = lists.item_id + 1
    with pytest.raises(IdMismatchError, match="'U3'.*'u3'"):
        evaluate(lists, truth, k=20)


def test_reports_of_ids_that_cannot_meet():
    truth = pd.DataFrame({"user_id": ["a", "b"], "item_id": "i"})
    padded = truth.assign(user_id=truth.user_id + " ")
    reports = [evaluate(t.assign(rank=1), t, n_boot=10) for t in (truth, padded)]
    with pytest.raises(IdMismatchError, match="'a ?'.*'a ?'"):
        compare(*reports)
    numbers = truth.assign(user_id=[1, 2])
    with pytest.raises(MetricsError) as caught:
        compare(reports[0], evaluate(numbers.assign(rank=1), numbers, n_boot=10))
    assert isinstance(caught.value, (ProtocolError, IdMismatchError))


def test_calibrators_of_arrow_columns():
    label, p = [0, 1, 1, 0, 1], [0.2, 0.4, 0.9, 0.1, 0.7]
    plain = PlattCalibrator().fit(label, p)
    arrow = PlattCalibrator().fit(pa.array(label), pa.array(p))
    assert (arrow.a, arrow.b) == (plain.a, plain.b)
    assert arrow.transform(pa.array(p)) == pytest.approx(plain.transform(p))


@pytest.mark.parametrize("value", [1.5, True, "a"])
def test_ids_that_identify_nothing(value):
    truth = pd.DataFrame({"user_id": pd.Series([value, 1], dtype=object), "item_id": 1})
    with pytest.raises(MetricsError, match="user_id"):
        evaluate(truth.assign(rank=1), truth)


PAIRS = pd.DataFrame({"user_id": [1, 1], "item_id": [5, 6]})


@pytest.mark.parametrize("column", ["rank", "score"])
def test_what_orders_a_list_is_numbers(column):
    lists = PAIRS.assign(**{column: ["2", "10"]})
    if column == "score":
        found = evaluate(lists, PAIRS[1:], k=1, n_boot=0)
        assert found["hit_rate@1"] == 1
    for bad in ("best", "0,5"):
        with pytest.raises(MetricsError, match=f"{column} is '{bad}' in row 1"):
            evaluate(PAIRS.assign(**{column: ["1", bad]}), PAIRS)


@pytest.mark.parametrize("value", [3000, float("inf")])
def test_a_gain_without_end_is_named(value):
    lists, truth = PAIRS.assign(rank=[1, 2]), PAIRS.assign(value=[1, value])
    with pytest.raises(MetricsError, match="in row 1 of the truth"):
        evaluate(lists, truth, gain="exponential")
    assert evaluate(lists, truth, n_boot=0)["recall@10"] == 1


@pytest.mark.parametrize(
    "wrong", [{"n_boot": -1}, {"n_boot": 1.5}, {"level": 95}, {"level": 0}]
)
def test_resamples_and_levels_that_cannot_be(wrong):
    label, p = [0, 1, 1, 0], [0.2, 0.4, 0.9, 0.1]
    lists = PAIRS.assign(rank=[1, 2])
    for judge in (
        lambda: evaluate(lists, PAIRS, **wrong),
        lambda: ranker_metrics(label, p, **wrong),
        lambda: reliability(label, p, n_bins=2, **wrong),
    ):
        with pytest.raises(MetricsError, match=next(iter(wrong))):
            judge()


def test_lists_and_truth_without_a_common_item_are_told():
    truth = PAIRS.assign(item_id=[50, 60])
    with pytest.warns(UserWarning, match="no item of the truth"):
        report = evaluate(PAIRS.assign(rank=[1, 2]), truth, n_boot=0)
    assert report["recall@10"] == 0
