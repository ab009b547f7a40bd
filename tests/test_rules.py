"""Rules before the k best: nothing that a rule forbids, k rows whenever k exist, for
every recommender; and varied lists under the same rules."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import slow
from hypothesis import given
from hypothesis import strategies as st

from recsys_nb.data import (
    SIGNS,
    DataError,
    Dataset,
    MissingColumnError,
    UnknownIdError,
    simulate,
)
from recsys_nb.recommenders import (
    BASELINES,
    EASE,
    Diversity,
    Popularity,
    Recommender,
    TwoTowerRetriever,
)
from recsys_nb.recommenders.base import BaseRecommender
from recsys_nb.recommenders.index import ItemIndex
from recsys_nb.recommenders.rules import RuleError, match_where, parse_conditions
from recsys_nb.serving.sources import SOURCE_FORMS

STRANGER = "somebody"


def make_log():
    "A shop with a category, a price, a brand that some lack, and tags."
    log = simulate(500, 80, 12_000, seed=5)
    items = log.items.copy()
    number = np.arange(len(items))
    items["brand"] = np.where(number % 3, "Aro", np.where(number % 2, "Bix", None))
    items["tags"] = np.where(number % 2, "new|red", np.where(number % 5, "red", "old|"))
    return Dataset(log.interactions, log.users, items, log.positive)


EVENTS = make_log()
LOG = EVENTS.positives()
USERS = [*LOG.user_ids[:6], STRANGER]
SMALL = {"dim": 8, "epochs": 1, "profile": "dense"}
SOURCES = {"Popularity": Popularity, "EASE": EASE}
MODELS = BASELINES | {
    "Two-Tower": lambda: TwoTowerRetriever(**SMALL),
    "Two-Tower in cells": lambda: TwoTowerRetriever(**SMALL, exact_to=10),
    "Recommender": lambda: Recommender(
        {name: make() for name, make in SOURCES.items()}, ranker="logistic"
    ),
    "two stages": lambda: Recommender(
        {name: make() for name, make in SOURCES.items()},
        ranker="logistic",
        answer="two stages",
        candidates=10,
    ),
}
SERVED = [
    name
    for name, make in MODELS.items()
    if type(make()).__name__ in (*SOURCE_FORMS, "Recommender")
]
FITTED = {}


def find_model(name):
    "One of all recommenders, fitted once."
    if name not in FITTED:
        model = MODELS[name]()
        FITTED[name] = model.fit(EVENTS if isinstance(model, Recommender) else LOG)
    return FITTED[name]


def draw_ids(seed):
    "Some items, from one to all."
    rng = np.random.default_rng(seed)
    return list(rng.permutation(LOG.item_ids)[: rng.integers(1, 81)])


def draw_pairs(seed):
    "Some items of some users, each user with a share of its own."
    rng = np.random.default_rng(seed)
    shares = rng.choice([0, 0.1, 0.5, 0.9], (len(USERS), 1))
    user, item = np.nonzero(rng.random((len(USERS), len(LOG.item_ids))) < shares)
    pairs = {"user_id": np.array(USERS)[user], "item_id": LOG.item_ids[item]}
    return pd.DataFrame(pairs)


seeds = st.integers(0, 999)
ids = seeds.map(draw_ids)
pairs = seeds.map(draw_pairs).filter(len)
some_of = st.sampled_from
CONDITIONS = {
    "category": st.lists(some_of(sorted(LOG.items.category.unique())), min_size=1),
    "price": some_of([(None, 40.0), (20, None), (10.0, 80), (5000, None)]),
    "brand": some_of(["Aro", ["Bix", "Aro"], {"Bix"}]),
    "tags": some_of(["red", ["old"], ["new", "old"]]),
}
wheres = st.dictionaries(some_of(sorted(CONDITIONS)), st.just(0), min_size=1).flatmap(
    lambda names: st.fixed_dictionaries({name: CONDITIONS[name] for name in names})
)
series = seeds.map(
    lambda seed: pd.Series(
        np.random.default_rng(seed).random(80) < 0.5, index=LOG.item_ids
    )
)
user_rules = st.lists(wheres, min_size=1, max_size=3).map(
    lambda rules: pd.DataFrame(
        {"user_id": USERS[: len(rules)]}
        | {
            name: pd.Series([rule.get(name) for rule in rules], dtype=object)
            for name in sorted(set().union(*rules))
        }
    )
)
diversities = st.builds(
    Diversity,
    trade_off=some_of([0.0, 0.4, 1.0]),
    caps=some_of([{}, {"category": 1}, {"brand": 3}]),
    pool=some_of([1, 15, 100]),
)


def keeps(row, where):
    "Whether a row of the items table keeps a mapping of conditions; by hand."
    for name, rule in where.items():
        cell = row[name]
        if cell is None or cell != cell:
            return False
        if isinstance(rule, tuple):
            low, high = rule
            if (low is not None and cell < low) or (high is not None and cell > high):
                return False
            continue
        values = {rule} if isinstance(rule, str) else set(rule)
        cells = set(cell.split("|")) if name == "tags" else {cell}
        if not cells & values:
            return False
    return True


def rule_of(user, where):
    "The rules of a user in a frame; by hand."
    own = where[where.user_id == user].drop(columns="user_id").to_dict("records")
    rules = own[0] if own else {}
    return {name: rule for name, rule in rules.items() if rule is not None}


def items_of_rule(user, where):
    "The items that keep a rule; by hand."
    if isinstance(where, pd.Series):
        return set(where.index[where])
    if isinstance(where, pd.DataFrame):
        where = rule_of(user, where)
    rows = LOG.items.to_dict("records")
    return {row["item_id"] for row in rows if keeps(row, where)}


def allowed_to(user, candidates, exclude, where, exclude_seen):
    "The items that a user may get; by hand."
    may = set(LOG.item_ids)
    if isinstance(candidates, pd.DataFrame):
        may &= set(candidates.item_id[candidates.user_id == user])
    elif candidates is not None:
        may &= set(candidates)
    if isinstance(exclude, pd.DataFrame):
        may -= set(exclude.item_id[exclude.user_id == user])
    elif exclude is not None:
        may -= set(exclude)
    if where is not None:
        may &= items_of_rule(user, where)
    if exclude_seen:
        log = LOG.interactions
        may -= set(log.item_id[log.user_id == user])
    return may


def count_under_caps(may, caps):
    "How many of these items a list may have."
    rows = LOG.items[LOG.items.item_id.isin(may)]
    for column, most in caps.items():
        sizes = rows[column].value_counts()
        return int(sizes.clip(upper=most).sum() + rows[column].isna().sum())
    return len(rows)


@pytest.mark.parametrize("name", MODELS)
@slow(12)
@given(
    st.integers(0, 1),
    some_of([1, 5, 20, 90]),
    pairs | ids | st.none(),
    pairs | ids | st.none(),
    wheres | user_rules | series | st.none(),
    st.booleans(),
    st.none() | diversities,
)
def test_rules_hold_and_lists_are_full(
    name, strangers, k, candidates, exclude, where, exclude_seen, diversify
):
    model = find_model(name)
    rules = (candidates, exclude, where, exclude_seen)
    users = USERS[: len(USERS) - 1 + strangers]
    lists = model.recommend(
        users,
        k=k,
        candidates=candidates,
        exclude=exclude,
        where=where,
        exclude_seen=exclude_seen,
        diversify=diversify,
    )
    caps = diversify.caps if diversify else {}
    is_short = False
    for user in users:
        may = allowed_to(user, *rules)
        found = lists[lists.user_id == user]
        assert found.item_id.is_unique and set(found.item_id) <= may
        assert len(found) == min(k, count_under_caps(may, caps))
        assert found["rank"].tolist() == list(range(1, len(found) + 1))
        is_short |= len(found) < k
        for column, most in caps.items():
            kinds = LOG.items.set_index("item_id")[column][found.item_id]
            assert kinds.value_counts().max() <= most or kinds.isna().all()
    assert ("short_lists" in lists.attrs) == is_short


@pytest.fixture(scope="module")
def find_exported(tmp_path_factory):
    "What a service answers with, of each recommender, exported once."
    pytest.importorskip("onnxruntime")
    from recsys_nb.serving import export
    from recsys_nb.serving.runtime import Exported

    made = {}

    def find(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("exported") / "v1"
            made[name] = Exported(export(find_model(name), folder))
        return made[name]

    return find


@pytest.fixture(scope="module")
def find_client(find_exported, tmp_path_factory):
    "The same over HTTP."
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from recsys_nb.serving.http import create_app

    made = {}

    def find(name):
        if name not in made:
            made[name] = TestClient(create_app(find_exported(name)))
        return made[name]

    return find


def write_where(where):
    "Rules as JSON has them."
    if where is None:
        return None
    rules = {}
    for column, rule in where.items():
        rules[column] = rule
        if isinstance(rule, tuple):
            ends = dict(zip(("min", "max"), rule, strict=True))
            rules[column] = {name: end for name, end in ends.items() if end is not None}
        elif isinstance(rule, set):
            rules[column] = sorted(rule)
    return rules


CAPS = [{"category": 1}, {"brand": 3, "category": 2}, {"price": 1}]


@pytest.mark.parametrize("way", ["exported", "http"])
@pytest.mark.parametrize("name", SERVED)
@slow(8)
@given(
    some_of(USERS),
    some_of([1, 5, 20, 90]),
    ids | st.none(),
    ids | st.none(),
    wheres | st.none(),
    st.tuples(st.booleans(), some_of([None, *CAPS])),
)
def test_a_service_keeps_the_same_rules(
    find_exported, find_client, name, way, user, k, candidates, exclude, where, others
):
    seen, caps = others
    question = {"user_id": user, "k": k, "exclude_seen": seen}
    question |= {"caps": caps} if caps else {}
    rules = {"candidates": candidates, "exclude": exclude}
    if way == "http":
        rules["where"] = write_where(where)
        told = {name: rule for name, rule in rules.items() if rule is not None}
        reply = find_client(name).post("/recommend", json=question | told)
        assert reply.status_code == 200, reply.text
        answer = reply.json()
    else:
        answer = find_exported(name).recommend(**question, **rules, where=where)
    may = allowed_to(user, candidates, exclude, where, seen)
    found = [item["item_id"] for item in answer["items"]]
    assert len(set(found)) == len(found) and set(found) <= may
    if caps and len(caps) > 1:  # another choice might fill a place more
        assert len(found) <= min(k, len(may))
    else:
        assert len(found) == min(k, count_under_caps(may, caps or {}))
    for column, most in (caps or {}).items():
        kinds = LOG.items.set_index("item_id")[column][found]
        assert kinds.value_counts().max() <= most or kinds.isna().all()
    assert ("reason" in answer) == (len(found) < k)
    ranks = [item["rank"] for item in answer["items"]]
    assert ranks == list(range(1, len(found) + 1))


@pytest.mark.parametrize("name", SERVED)
def test_an_exported_list_under_caps_is_the_one_of_the_model(find_exported, name):
    for caps in ({"category": 1}, {"category": 2, "brand": 3}):
        diversify = Diversity(0.0, caps)
        lists = find_model(name).recommend(USERS[:4], k=8, diversify=diversify)
        for user in USERS[:4]:
            answer = find_exported(name).recommend(user, k=8, caps=caps)
            found = [item["item_id"] for item in answer["items"]]
            assert found == lists.item_id[lists.user_id == user].tolist()
            is_short = len(found) < 8
            assert is_short == ("reason" in answer)
            assert not is_short or "caps category" in answer["reason"]


@pytest.mark.parametrize(
    "caps, said",
    [
        ({"tags": 1}, "'tags', which holds tags"),
        ({"colour": 1}, "caps names 'colour'.*'category'"),
    ],
)
def test_a_wrong_cap_of_a_service_is_named(find_exported, find_client, caps, said):
    with pytest.raises(ValueError, match=said):
        find_exported("EASE").recommend(USERS[0], caps=caps)
    question = {"user_id": USERS[0], "caps": caps}
    reply = find_client("EASE").post("/recommend", json=question)
    assert reply.status_code == 422 and "QuestionError" in reply.text
    for wrong in ({}, {"category": 0}, {"category": "two"}, ["category"]):
        question["caps"] = wrong
        assert find_client("EASE").post("/recommend", json=question).status_code == 422


@pytest.mark.parametrize("name", MODELS)
def test_a_rule_is_the_order_of_the_whole_list_without_the_rest(name):
    model = find_model(name)
    everything = model.recommend(USERS[:3], k=80)
    where = {"price": (None, 60.0)}
    lists = model.recommend(USERS[:3], k=5, where=where)
    cheap = LOG.items.item_id[LOG.items.price <= 60]
    want = everything[everything.item_id.isin(cheap)].groupby("user_id").head(5)
    if isinstance(model, Recommender):  # other candidates, so other scores
        assert lists.groupby("user_id").size().tolist() == [5] * 3
    else:
        assert lists.item_id.tolist() == want.item_id.tolist()


def test_rules_of_a_saved_model(tmp_path):
    model = Popularity().fit(LOG)
    again = BaseRecommender.load(model.save(tmp_path / "model"))
    where = {"tags": "old", "price": (1, None)}
    ours, theirs = (m.recommend(USERS, k=4, where=where) for m in (model, again))
    pd.testing.assert_frame_equal(ours, theirs)


def test_filters_of_single_queries_are_the_filter_of_each():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(900, 8)).astype(np.float32)
    allowed = rng.random((20, 900)) < rng.choice([0.01, 0.3, 1], (20, 1))
    allowed[3] = allowed[7]
    for exact_to in (0, 1000):
        index = ItemIndex(vectors, exact_to=exact_to)
        items, scores = index.search(vectors[:20], 12, allowed)
        for row in range(20):
            alone = index.search(vectors[row : row + 1], 12, allowed[row])
            np.testing.assert_array_equal(items[row], alone[0][0])
            np.testing.assert_allclose(scores[row], alone[1][0], rtol=1e-5)
    with pytest.raises(ValueError, match="allowed must have one boolean per item"):
        index.search(vectors[:20], 12, allowed[:5])


@pytest.mark.parametrize(
    "where, error, said",
    [
        ({"prize": (1, 2)}, MissingColumnError, "'prize'.*'category', 'price'"),
        ({"price": "cheap"}, RuleError, "where.'price'.*'cheap'.*holds numbers"),
        ({"category": 3}, RuleError, "where.'category'.*3 .int.*holds text"),
        ({"category": ("A", "B")}, RuleError, "is a range.*holds text"),
        ({"price": (3, 1)}, RuleError, "empty"),
        ({"price": (None, None)}, RuleError, "open at both ends"),
        ({"price": (1, 2, 3)}, RuleError, "a tuple is a range"),
        ({"price": []}, RuleError, "where.'price'.* is empty"),
        ({}, RuleError, "where is empty"),
        (["Books"], RuleError, "is no rule"),
        (7, RuleError, "maps columns of the items table"),
        (pd.Series([True], ["nowhere"]), UnknownIdError, "'nowhere'"),
        (pd.Series([1.0] * 80, LOG.item_ids), RuleError, "True or False"),
        (
            pd.Series([True, None] * 40, LOG.item_ids, "boolean"),
            RuleError,
            "in 40 rows, the first of 'item_1'.*fillna",
        ),
    ],
)
def test_a_wrong_rule_is_named(where, error, said):
    with pytest.raises(error, match=f"(?s){said}"):
        Popularity().fit(LOG).recommend(USERS[:1], where=where)


def test_a_log_without_an_items_table_is_told():
    model = Popularity().fit(Dataset(LOG.interactions[["user_id", "item_id"]]))
    with pytest.raises(MissingColumnError, match="no items table"):
        model.recommend(USERS[:1], where={"price": 3})
    mask = pd.Series(True, index=model.item_ids_[:2])
    assert model.recommend([STRANGER], where=mask).item_id.nunique() == 2


def test_a_frame_of_other_ids_is_an_error():
    model = Popularity().fit(LOG)
    frame = pd.DataFrame({"user_id": [1], "item_id": list(LOG.item_ids[:1])})
    with pytest.raises(UnknownIdError, match="user ids"):
        model.recommend(USERS[:2], exclude=frame)
    frame = pd.DataFrame({"user_id": USERS[:1], "item_id": [1]})
    with pytest.raises(UnknownIdError, match="item ids"):
        model.recommend(USERS[:2], candidates=frame)


@given(
    st.sampled_from(["category", "price", "brand"]),
    st.sampled_from(["=", "<=", ">=", "<", ">"]),
    st.lists(st.text(max_size=8), min_size=1, max_size=3),
)
def test_any_text_is_a_rule_or_an_error_that_shows_it(name, sign, values):
    text = f"{name}{sign}{','.join(values)}"
    try:
        rules = parse_conditions([text], LOG.items)
    except DataError as error:
        assert repr(text) in str(error)
        return
    assert list(rules) == [name]


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1))
def test_quoted_values_come_back(values):
    quoted = ",".join(f'"{value}, {value}"' for value in values)
    wanted = [f"{value}, {value}" for value in values]
    assert parse_conditions([f"brand={quoted}"], LOG.items) == {"brand": wanted}


@given(st.integers(0, 100), st.integers(0, 100))
def test_ranges_of_the_command_line(low, high):
    texts = [f"price>={low}", f"price <= {high}"]
    rules = parse_conditions(texts, LOG.items)
    if low > high:
        with pytest.raises(RuleError, match="empty"):
            match_where(rules, LOG.items, LOG.item_ids)
        return
    found = match_where(rules, LOG.items, LOG.item_ids)
    assert (found == LOG.items.price.between(low, high)).all()


@given(st.sampled_from(sorted(SIGNS)), st.integers(0, LOG.items.shape[0] - 1))
def test_a_sign_says_whether_the_end_is_included(sign, place):
    end = LOG.items.price.iloc[place]
    found = match_where([f"price{sign}{end}"], LOG.items, LOG.item_ids)
    assert (found == SIGNS[sign](LOG.items.price, end)).all()
    assert found[place] == ("=" in sign)
    same = match_where({"price": {sign: end}}, LOG.items, LOG.item_ids)
    assert (found == same).all()


def test_rules_on_the_command_line(say, tmp_path):
    model = Popularity().fit(LOG)
    folder = model.save(tmp_path / "model")
    words = ["recommend", "--model", folder, "--user", USERS[0], "--json", "-k", 50]
    rules = ["--where", "category=Books,Sports", "--where", "price<=40"]
    status, out, notes = say(*words, *rules)
    where = {"category": ["Books", "Sports"], "price": (None, 40.0)}
    want = model.recommend(USERS[:1], k=50, where=where)
    assert status == 0
    assert [row["item_id"] for row in json.loads(out)] == want.item_id.tolist()
    assert "the rules leave them" in notes
    status, out, _ = say(*words, "--where", "price<40", "--where", "price>5")
    where = {"price": {"<": 40, ">": 5}}
    want = model.recommend(USERS[:1], k=50, where=where)
    assert status == 0
    assert [row["item_id"] for row in json.loads(out)] == want.item_id.tolist()
    status, _, notes = say(*words, "--where", "price<>40")
    assert status == 2 and "'price<>40' is no rule" in notes
    status, _, notes = say(*words, "--where", "prize<=40")
    assert status == 2 and "'prize'" in notes and "'price'" in notes


def test_variety_on_the_command_line(say, tmp_path):
    model = EASE().fit(LOG)
    folder = model.save(tmp_path / "model")
    words = ["recommend", "--model", folder, "--user", USERS[0], "--json"]
    status, out, _ = say(*words, "--diversify", 0.5, "--cap", "category=2")
    want = model.recommend(USERS[:1], diversify=Diversity(0.5, {"category": 2}))
    assert status == 0
    assert [row["item_id"] for row in json.loads(out)] == want.item_id.tolist()
    for wrong, what in [
        (["--cap", "category"], "a column, an = and"),
        (["--cap", "colour=2"], "colour"),
        (["--diversify", 2], "from 0 to 1"),
    ]:
        status, _, notes = say(*words, *wrong)
        assert status == 2 and what in notes
