"An exported folder answers as the trained model does, without torch and pandas."

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cache

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from recsys_nb.data import Dataset, World  # noqa: E402
from recsys_nb.recommenders import (  # noqa: E402
    ALS,
    BPR,
    EASE,
    BaseRecommender,
    BoostedRanker,
    Catalogue,
    DLRMRanker,
    GraphFilter,
    ItemKNN,
    LogisticRanker,
    Popularity,
    Recommender,
    Repeats,
    TwoTowerRetriever,
    make_examples,
    split_head,
    with_tables,
)
from recsys_nb.recommenders.context import ContextError  # noqa: E402
from recsys_nb.recommenders.gate import Verdict  # noqa: E402
from recsys_nb.recommenders.outcome import Outcome  # noqa: E402
from recsys_nb.recommenders.trial import Answer  # noqa: E402
from recsys_nb.serving import Exported, Service, export  # noqa: E402
from recsys_nb.serving.files import FolderError, QuestionError  # noqa: E402

ROUNDING = 2e-4  # scores closer than this may swap where a network is asked
SMALL = {"dim": 8, "epochs": 1, "n_negatives": 16, "history_length": 12}
ALONE = {
    "Popularity": lambda: Popularity(trend_half_life=30),
    "Repeats": Repeats,
    "ItemKNN": lambda: ItemKNN(neighbours=20),
    "EASE": EASE,
    "sparse EASE": lambda: EASE(neighbours=20),
    "GraphFilter": GraphFilter,
    "BPR": lambda: BPR(factors=8, iterations=5),
}


@pytest.fixture(scope="module")
def train():
    return World(n_users=1_000, n_items=120, seed=1).sample(6_000)


@pytest.fixture(scope="module")
def towers(train):
    "Both history encoders, and a large catalogue with an index."
    kinds = {
        "mean": {"profile": "noisy"},
        "attention": {"profile": "sequential"},
        "index": {"profile": "noisy", "exact_to": 20},
    }
    return {
        name: TwoTowerRetriever(**SMALL, **options).fit(train.positives())
        for name, options in kinds.items()
    }


@pytest.fixture(scope="module")
def sources(train, towers):
    positives = train.positives()
    plain = {
        "Popularity": Popularity(),
        "ItemKNN": ItemKNN(),
        "EASE": EASE(),
        "Repeats": Repeats(),
    }
    fitted = {name: source.fit(positives) for name, source in plain.items()}
    return fitted | {"Two-Tower": towers["mean"]}


def make_questions(train, n_visitors=200):
    "Every user and a stranger, by id; visitors, a third of them users, with events."
    users = train.user_ids.tolist()
    strangers = [f"stranger {number}" for number in range(n_visitors)]
    if isinstance(users[0], int):
        strangers = list(range(-n_visitors, 0))
    rng = np.random.default_rng(0)
    visits = []
    for visitor in range(n_visitors):
        drawn = rng.choice(train.item_ids, rng.integers(1, 20))
        who = (strangers if visitor % 3 else users)[visitor]
        visits.append(pd.DataFrame({"user_id": who, "item_id": drawn}))
    return [*users, strangers[0]], pd.concat(visits, ignore_index=True)


def by_user(lists):
    "The lists of a frame, by user, in the form of an answer."
    found = {}
    for user, item, score, source in zip(
        lists.user_id, lists.item_id, lists.score, lists.source, strict=True
    ):
        answer = found.setdefault(user, {"source": source, "items": []})
        answer["items"].append({"item_id": item, "score": score})
    return found


def by_visitor(visits):
    "The events of each visitor, in the order of their rows."
    names = [name for name in ("item_id", "timestamp") if name in visits]
    groups = visits.groupby("user_id", sort=False)
    return {visitor: rows[names].to_dict("records") for visitor, rows in groups}


def pick(answer, field="item_id"):
    return [one[field] for one in answer["items"]]


def is_close(expected, found):
    "The same list, but for items whose scores lie within rounding."
    if pick(expected) == pick(found):
        return True
    both = [np.array(pick(answer, "score")) for answer in (expected, found)]
    if len(both[0]) != len(both[1]) or not np.allclose(*both, atol=ROUNDING):
        return False
    last = both[0][-1] + 2 * ROUNDING
    lists = zip((expected, found), both, strict=True)
    sure = [set(np.array(pick(answer))[own > last]) for answer, own in lists]
    return sure[0] == sure[1]


NOTHING = {"source": "none", "items": []}


def compare(model, exported, train, **options):
    "Shares of identical lists, and of lists that are the same within rounding."
    users, visits = make_questions(train)
    events = by_visitor(visits)
    by_id = by_user(model.recommend(users, **options))
    by_events = by_user(model.recommend(events=visits, **options))
    pairs = [
        (by_id.get(user, NOTHING), exported.recommend(user, **options))
        for user in users
    ]
    pairs += [
        (by_events.get(one, NOTHING), exported.recommend(one, events=his, **options))
        for one, his in events.items()
    ]
    assert len(pairs) >= len(train.user_ids) + 200
    for expected, found in pairs:
        assert found["source"] == expected["source"]
        assert pick(found, "rank") == list(range(1, len(expected["items"]) + 1))
        assert ("reason" in found) == (len(found["items"]) < options.get("k", 10))
    identical = [pick(expected) == pick(found) for expected, found in pairs]
    close = [is_close(expected, found) for expected, found in pairs]
    asked = [(user, ()) for user in users[::50]] + list(events.items())[::20]
    compare_answers(model, exported, asked, **options)
    return np.mean(identical), np.mean(close)


def compare_answers(model, exported, questions, **options):
    "As `compare`, one by one through a service: all that an answer says."
    service = Service(model, name=exported.name)
    identical, close = [], []
    for user, events in questions:
        expected = service.recommend(user, events=events, **options)
        found = exported.recommend(user, events=events, **options)
        assert list(found) == list(expected)
        for name in ("user_id", "model", "source", "unknown_items"):
            assert found[name] == expected[name], (name, user)
        assert pick(found, "rank") == pick(expected, "rank")
        identical.append(pick(found) == pick(expected))
        close.append(is_close(expected, found))
    return np.mean(identical), np.mean(close)


@pytest.mark.parametrize("name", ALONE)
def test_a_source_alone_gives_identical_lists(train, tmp_path, name):
    model = ALONE[name]().fit(train.positives())
    exported = Exported(export(model, tmp_path / "shop"))
    for exclude_seen in (True, False):
        same, _ = compare(model, exported, train, exclude_seen=exclude_seen)
        assert same == 1


def test_als_solves_for_the_same_users(train, tmp_path):
    pytest.importorskip("implicit")
    model = ALS(factors=16, iterations=3).fit(train.positives())
    exported = Exported(export(model, tmp_path / "shop"))
    same, close = compare(model, exported, train)
    assert close == 1 and same > 0.99


@pytest.fixture(scope="module")
def folder_of(towers, sources, tmp_path_factory):
    "Writes the exported folder of a model, by its name, once."
    home, models = tmp_path_factory.mktemp("exported"), {**sources, **towers}

    @cache
    def write(name):
        return export(models[name], home / name)

    return write


@pytest.mark.parametrize("name", ["mean", "attention"])
@pytest.mark.parametrize("options", [{"k": 7}, {"exclude_seen": False}])
def test_a_tower_gives_the_same_lists(train, towers, folder_of, name, options):
    exported = Exported(folder_of(name))
    same, close = compare(towers[name], exported, train, **options)
    assert close == 1 and same > 0.97


def test_a_tower_with_an_index_gives_the_same_lists(train, towers, folder_of):
    "One by one: for many users at once, faiss rounds the distances to cells otherwise."
    exported = Exported(folder_of("index"))
    users, visits = make_questions(train)
    asked = [(user, ()) for user in users] + list(by_visitor(visits).items())
    same, close = compare_answers(towers["index"], exported, asked, k=7)
    assert close == 1 and same > 0.97
    some = asked[::20]
    same, close = compare_answers(towers["index"], exported, some, exclude_seen=False)
    assert close == 1 and same > 0.95


def test_vectors_of_users_and_items(train, tmp_path):
    rng = np.random.default_rng(0)
    tables = []
    for table in (train.users, train.items):
        vectors = rng.normal(size=(len(table), 5)).astype(np.float32)
        tables.append(table.assign(emb=list(vectors)))
    log = Dataset(train.interactions, *tables, positive=train.positive)
    tower = TwoTowerRetriever(**SMALL, profile="noisy").fit(log.positives())
    ranker = DLRMRanker(epochs=1).fit(log, tower)
    stages = Answer(("Two-Tower",), None, ranker)
    model = build(log, {"Two-Tower": tower}, stages, Answer(("Two-Tower",)))
    exported = Exported(export(model, tmp_path / "shop"))
    same, close = compare(model, exported, log)
    assert close == 1 and same > 0.95


def test_questions_at_the_same_time_do_not_mix(train, exported_blend):
    users, visits = make_questions(train)
    questions = [(user, ()) for user in users[::3]] + list(by_visitor(visits).items())

    def ask(question):
        user, events = question
        return exported_blend.recommend(user, events=events)

    alone = [ask(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, questions)) == alone


def test_a_log_of_ids_alone_with_numbers_of_64_bits(train, tmp_path):
    pairs = train.positives().interactions[["user_id", "item_id"]]
    numbers = pairs.apply(lambda ids: 2**60 + 1 + pd.factorize(ids)[0])
    log = Dataset(numbers.drop_duplicates(ignore_index=True))
    model = TwoTowerRetriever(**SMALL, profile="noisy").fit(log)
    exported = Exported(export(model, tmp_path / "shop"))
    same, close = compare(model, exported, log)
    assert close == 1 and same > 0.97
    answer = exported.recommend(str(2**60 + 1))
    assert answer["user_id"] == 2**60 + 1 and answer["source"] == "history"
    assert all(type(one) is int for one in pick(answer))
    assert exported.recommend("007")["source"] == "popular"
    assert exported.item(2**60 + 1) == {"item_id": 2**60 + 1}


def build(train, sources, answer, again):
    "A Recommender with a given answer, as if a gate had chosen it."
    columns = ["ndcg", "low", "high", "difference", "difference_low", "difference_high"]
    row = {"task": "new items", "answer": "given"} | dict.fromkeys(columns, np.nan)
    verdict = Verdict(pd.DataFrame([row | {"chosen": True}]), "given", 10, 0, [])
    model = Recommender(candidates=30)
    positives = with_tables(train).positives()
    model.adopt(Catalogue.of(positives))
    popularity = model.popularity_
    model.take_over(Outcome(answer, again, sources, verdict, popularity, None))
    return model


@pytest.fixture(scope="module")
def blend(train, sources):
    answer = Answer(("Popularity", "EASE", "Two-Tower"), (1, 3, 5))
    again = Answer(("Repeats", "ItemKNN"), (4, 1))
    return build(train, sources, answer, again)


@pytest.fixture(scope="module")
def exported_blend(blend, tmp_path_factory):
    return Exported(export(blend, tmp_path_factory.mktemp("models") / "shop-7"))


def test_a_blend_and_its_second_answer(train, blend, exported_blend):
    same, close = compare(blend, exported_blend, train)
    assert close == 1 and same > 0.97
    same, _ = compare(blend, exported_blend, train, exclude_seen=False)
    assert same == 1


def test_rules_leave_full_lists(train, blend, exported_blend):
    items = train.item_ids.tolist()
    categories = train.items.category.unique().tolist()
    rules = [
        {"where": {"category": categories[:2]}},
        {"where": {"price": (None, float(train.items.price.median()))}},
        {"where": {"category": categories[0], "price": (5, None)}},
        {"candidates": items[::4]},
        {"exclude": items[:60]},
        {"candidates": items[:40], "exclude": items[:10], "where": {"price": (1, 300)}},
    ]
    for rule in rules:
        same, close = compare(blend, exported_blend, train, k=8, **rule)
        assert close == 1 and same > 0.97, rule


def test_a_wrong_rule_is_a_sentence(exported_blend):
    for rule in (
        {"where": {"prize": 3}},
        {"where": {"price": "cheap"}},
        {"where": {}},
        {"candidates": {"a": 1}},
    ):
        with pytest.raises(QuestionError):
            exported_blend.recommend("user_1", **rule)
    answer = exported_blend.recommend("user_1", candidates=["item of tomorrow"])
    assert answer["source"] == "none" and "1 of the candidates" in answer["reason"]


def test_similar_item_and_health(train, blend, exported_blend):
    service = Service(blend, name="shop-7")
    for item in train.item_ids[:20].tolist():
        expected = service.similar(item, 6)
        found = exported_blend.similar(item, 6)
        assert is_close(expected, found)
        assert (found["item_id"], found["model"]) == (item, "shop-7")
    row = train.items.set_index("item_id").iloc[3]
    found = exported_blend.item(train.item_ids[3])
    assert found["category"] == row.category and found["price"] == row.price
    with pytest.raises(KeyError, match="item of tomorrow"):
        exported_blend.item("item of tomorrow")
    health = exported_blend.health()
    assert list(health) == list(service.health())
    assert (health["n_users"], health["n_items"]) == (1_000, 120)


STAGES = {  # the sources of two stages, and their ranker
    "dlrm, isotonic": (
        ("Popularity", "EASE", "Two-Tower"),
        lambda: DLRMRanker(epochs=1, calibration="isotonic"),
    ),
    "logistic, platt": (
        ("ItemKNN", "EASE"),
        lambda: LogisticRanker(calibration="platt"),
    ),
    "boosted, isotonic": (
        ("Popularity", "EASE"),
        lambda: BoostedRanker(trees=10, calibration="isotonic"),
    ),
}


def make_two_stages(train, sources, names, ranker, seed=0):
    "Two stages of some sources, without a gate."
    known = {name: sources[name] for name in names}
    head, held = split_head(with_tables(train), 0.2, seed)
    examples = make_examples(head, held, known, 20, "candidates", seed)
    ranker.learn(examples, with_tables(train))
    return build(train, sources, Answer(names, None, ranker), Answer(("Repeats",)))


@pytest.mark.parametrize("name", STAGES)
def test_two_stages_with_both_calibrations(train, sources, tmp_path, name):
    names, make = STAGES[name]
    if "Two-Tower" not in names:
        sources = {n: s for n, s in sources.items() if n != "Two-Tower"}
    model = make_two_stages(train, sources, names, make())
    exported = Exported(export(model, tmp_path / "shop"))
    same, close = compare(model, exported, train)
    assert close == 1 and same > 0.95


@pytest.mark.parametrize("seed", range(2))
def test_a_log_of_ids_and_times_with_isotonic_calibration(train, seed, tmp_path):
    columns = ["user_id", "item_id", "timestamp"]
    log = Dataset(train.interactions[columns].drop_duplicates(ignore_index=True))
    known = {"ItemKNN": ItemKNN(), "Repeats": Repeats(), "EASE": EASE()}
    known = {name: source.fit(log) for name, source in known.items()}
    ranker = LogisticRanker(seed=seed, calibration="isotonic")
    model = make_two_stages(log, known, ("ItemKNN", "EASE"), ranker, seed)
    exported = Exported(export(model, tmp_path / "shop", seed=seed))
    same, close = compare(model, exported, log)
    assert close == 1 and same > 0.95


VISITS = {
    "no times": lambda rng, n: None,
    "times in order": lambda rng, n: np.arange(n),
    "times in any order": lambda rng, n: rng.permutation(n),
}  # name -> the hour of each of n events, if they have times


def draw_visits(train, draw_hours, n_visitors=200):
    "Visitors who come with events, one after the other: a frame of all of them."
    rng = np.random.default_rng(7)
    frames = []
    for number in range(n_visitors):
        n = int(rng.integers(2, 20))
        visit = pd.DataFrame({"item_id": rng.choice(train.item_ids, n)})
        hours = draw_hours(rng, n)
        if hours is not None:
            begin = pd.Timestamp("2024-06-01", tz="UTC")
            visit["timestamp"] = begin + pd.to_timedelta(hours, "h")
        frames.append(visit.assign(user_id=f"visitor {number:03d}"))
    return pd.concat(frames, ignore_index=True)


def post(exported, visits, k=10):
    "The answers to the events of each visitor."
    return {
        visitor: exported.recommend(visitor, k, events=events)
        for visitor, events in by_visitor(visits).items()
    }


def ask_in_a_frame(model, visits, k=10):
    "The answers of a trained model to a frame."
    return by_user(model.recommend(events=visits, k=k))


@pytest.mark.parametrize("way", VISITS)
@pytest.mark.parametrize("kind", ["mean", "attention", "Repeats"])
def test_events_have_one_order_in_a_frame_and_in_a_question(
    way, kind, train, towers, sources, folder_of
):
    model = {**sources, **towers}[kind]
    exported = Exported(folder_of(kind))
    visits = draw_visits(train, VISITS[way])
    expected, found = ask_in_a_frame(model, visits), post(exported, visits)
    assert len(expected) == len(found) == 200
    assert all(is_close(expected[one], found[one]) for one in found)
    if way == "no times" and kind == "attention":  # which reads the order
        turned = post(exported, visits[::-1])
        assert any(pick(turned[one]) != pick(found[one]) for one in found)


def test_the_order_of_events_is_nothing_to_a_log_without_times(train, tmp_path):
    plain = train.positives().interactions.drop(columns="timestamp")
    log = Dataset(plain)
    again = Dataset(plain.sample(frac=1, random_state=3))
    options = SMALL | {"profile": "noisy"}
    models = [TwoTowerRetriever(**options).fit(one) for one in (log, again)]
    visits = draw_visits(train, VISITS["no times"])
    first = ask_in_a_frame(models[0], visits)
    for other in (
        ask_in_a_frame(models[0], visits[::-1]),
        ask_in_a_frame(models[1], visits),  # nor is the order of the log itself
        post(Exported(export(models[0], tmp_path / "shop")), visits),
    ):
        assert all(is_close(first[one], other[one]) for one in first)


def test_events_of_a_kind_that_training_left_out_do_not_count(train, tmp_path):
    log = train.replace(train.interactions)
    kinds = log.positives().interactions.event_type.unique().tolist()
    model = ItemKNN().fit(log.positives())
    assert model.catalogue_.positive == tuple(log.positive)
    exported = Exported(export(model, tmp_path / "shop"))
    item = train.item_ids[0]
    seen = [{"item_id": item, "event_type": "view", "timestamp": datetime(2024, 1, 1)}]
    assert "view" not in kinds
    assert exported.recommend("visitor", events=seen)["source"] == "popular"
    taken = [{"item_id": item, "event_type": kinds[0]}]
    assert exported.recommend("visitor", events=taken)["source"] == "events"


class Cheapest(BaseRecommender):
    "A source that nothing here knows."

    def learn(self, train):
        self.price_ = -train.items.price.to_numpy(np.float32)

    def score_all(self, histories):
        return np.tile(self.price_, (len(histories), 1))


MOMENTS = [{"hour": 8}, {"hour": 20, "weekday": 5}, {"position": 3}, {}]


@pytest.fixture(scope="module")
def shown_twice_a_day():
    "A log of exposures with positions and times; what suits the hour is clicked."
    rng = np.random.default_rng(0)
    n = 24_000
    user, item = rng.integers(400, size=n), rng.integers(40, size=n)
    hours = np.sort(rng.integers(60, size=n)) * 24 + rng.choice([8, 20], n)
    frame = pd.DataFrame({"user_id": user, "item_id": item})
    frame["timestamp"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(hours, "h")
    frame["event_type"] = "impression"
    frame["position"] = rng.integers(1, 5, n)
    fits = (item < 20) == (frame.timestamp.dt.hour < 12)
    taken = rng.random(n) < np.where(fits, 0.5, 0.1) / np.sqrt(frame.position)
    later = frame.timestamp + pd.Timedelta("1s")
    clicks = frame[taken].assign(event_type="click", timestamp=later)
    log = pd.concat([frame, clicks]).sort_values("timestamp", ignore_index=True)
    items = pd.DataFrame({"item_id": range(40)})
    items["kind"] = np.where(items.item_id < 20, "morning", "evening")
    return Dataset(log, items=items, positive=["click"])


@pytest.fixture(scope="module")
def model_of_hours(shown_twice_a_day):
    sources = {"Popularity": Popularity(), "ItemKNN": ItemKNN()}
    settings = {"candidates": 25, "answer": "two stages"}
    ranker = DLRMRanker(epochs=4)
    return Recommender(sources, ranker, **settings).fit(shown_twice_a_day)


@pytest.fixture(scope="module")
def exported_hours(model_of_hours, tmp_path_factory):
    return Exported(export(model_of_hours, tmp_path_factory.mktemp("hours") / "shop"))


def test_a_list_for_another_moment_is_the_same_in_both(model_of_hours, exported_hours):
    exported = exported_hours
    assert exported.answers.inputs.context_names[:3] == ("position", "hour", "weekday")
    questions = [(user, ()) for user in model_of_hours.user_ids_[:60].tolist()]
    questions += [("visitor", [{"item_id": item}]) for item in range(0, 40, 4)]
    questions.append(("stranger", ()))
    lists = {}
    for moment in MOMENTS:
        asked = model_of_hours, exported, questions
        same, close = compare_answers(*asked, context=moment)
        assert close == 1 and same > 0.95
        answers = [
            exported.recommend(u, events=e, context=moment) for u, e in questions
        ]
        lists[str(moment)] = [pick(answer) for answer in answers]
    usual = [
        pick(exported.recommend(user, events=events)) for user, events in questions
    ]
    assert lists["{}"] == usual
    in_the_morning = [
        np.mean([np.array(found[:3]) < 20 for found in lists[str(moment)][:-1]])
        for moment in MOMENTS[:2]
    ]
    assert in_the_morning[0] > 0.8 and in_the_morning[1] < 0.2
    assert {str(found[-1]) for found in lists.values()} == {str(usual[-1])}  # popular


@pytest.mark.parametrize("moment", [{"hour": 24}, {"device": 1}, {"shown": 1}])
def test_a_wrong_moment_is_named_in_both(model_of_hours, exported_hours, moment):
    said = []
    for model in (Service(model_of_hours), exported_hours):
        with pytest.raises(ContextError, match=next(iter(moment))) as error:
            model.recommend(1, context=moment)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_moment_needs_a_ranker(exported_blend):
    with pytest.raises(ContextError, match="no ranker"):
        exported_blend.recommend("stranger", context={"hour": 8})


def test_a_source_without_an_entry_leaves_and_says_what_is_missing(train, tmp_path):
    exported = Exported(export(Cheapest().fit(train), tmp_path / "shop"))
    user = train.interactions.user_id[0]
    said = r"Cheapest.*SOURCE_FORMS, in nbs/49d_serving\.sources\.ipynb"
    with pytest.raises(QuestionError, match=said):
        exported.recommend(user)
    assert exported.recommend("stranger")["source"] == "popular"


def test_every_changed_file_is_refused_by_name(exported_blend, tmp_path):
    files = list(exported_blend.manifest["files"])
    assert len(files) > 8
    for name in files:
        copy = shutil.copytree(exported_blend.folder, tmp_path / name)
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(FolderError, match=name.replace(".", r"\.")):
            Exported(copy)
        shutil.rmtree(copy)


@pytest.mark.parametrize("edit", ["n_items", "answer", "files"])
def test_an_edited_manifest_is_refused(exported_blend, tmp_path, edit):
    copy = shutil.copytree(exported_blend.folder, tmp_path / "copy")
    path = copy / "manifest.json"
    about = json.loads(path.read_text())
    about[edit] = {} if edit == "files" else "something else"
    path.write_text(json.dumps(about))
    with pytest.raises(FolderError, match=r"manifest\.json was edited"):
        Exported(copy)


WITHOUT = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "pandas", "scipy", "sklearn", "pyarrow"):
            raise ImportError(f"{name} is not installed here")


sys.meta_path.insert(0, Refuse())
from recsys_nb.serving.runtime import Exported

shop = Exported(sys.argv[1])
for user in ("user_1", "stranger"):
    events = [{"item_id": "item_3"}]
    for answer in (shop.recommend(user), shop.recommend(user, events=events)):
        assert len(answer["items"]) == 10, answer
shop.recommend("user_1", exclude_seen=False, where={"price": (None, 50)})
shop.similar("item_3")
shop.item("item_3")
print(sorted(set(sys.modules) & {"torch", "pandas", "scipy", "sklearn", "faiss"}))
"""


def test_nothing_heavy_is_imported(exported_blend):
    command = [sys.executable, "-c", WITHOUT, str(exported_blend.folder)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"
