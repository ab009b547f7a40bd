"A Recommender that goes on: what is kept, what joins, and that nothing else changes."

from copy import copy, deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_nb.data import Dataset, MissingColumnError, simulate
from recsys_nb.recommenders import (
    EASE,
    ActionRanker,
    DLRMRanker,
    ItemKNN,
    Recommender,
    TwoTowerRetriever,
)
from recsys_nb.recommenders.ranker_again import RANKER_WAYS, Lesson, grow_features
from recsys_nb.recommenders.ranker_data import pick_rows
from recsys_nb.recommenders.trial import Trial, collect_examples, split_learners
from recsys_nb.recommenders.warm_start import hold_newer, lengthen_log
from recsys_nb.training.checkpoints import CheckpointError

FEW = {"answer": "two stages", "candidates": 20}
TOWER = {"profile": "sparse", "dim": 16, "batch_size": 64, "epochs": 2}
FUNNEL = ("click", "add_cart", "purchase")


def cut(log, days=3):
    "The log before its last days, and these days."
    frame = log.interactions
    end = frame.timestamp.max() - np.timedelta64(days, "D")
    return tuple(
        log.replace(frame[rows])
        for rows in (frame.timestamp < end, frame.timestamp >= end)
    )


def add_vectors(log):
    "The log whose items have a vector each."
    rng = np.random.default_rng(0)
    items = log.items.assign(emb=list(rng.normal(size=(len(log.items), 4))))
    return Dataset(log.interactions, log.users, items, log.positive)


@pytest.fixture(scope="module")
def shop():
    return add_vectors(simulate(500, 120, 16_000, seed=3))


@pytest.fixture(scope="module")
def parts(shop):
    return cut(shop, days=5)


@pytest.fixture(scope="module")
def previous(parts):
    sources = {"ItemKNN": ItemKNN(), "Two-Tower": TwoTowerRetriever(**TOWER)}
    ranker = DLRMRanker(epochs=1)
    return Recommender(sources, ranker=ranker, **FEW).fit(parts[0])


def go_on(previous, more, **changes):
    changes = FEW | {"retriever": {"epochs": 1}} | changes
    return Recommender(**changes).fit(more, start=previous)


@pytest.fixture(scope="module")
def model(parts, previous):
    return go_on(previous, parts[1])


def test_every_part_goes_on(shop, previous, model):
    assert set(model.sources_) == {"ItemKNN", "Two-Tower"}
    towers = previous.retriever_, model.retriever_
    assert towers[1].settings_.dim == 16 and len(towers[1].result_.epochs) == 1
    old = towers[1].item_ids_.get_indexer(previous.item_ids_)
    known = previous.retriever_.popularity_ > 0
    before, after = towers[0].item_vectors_[known], towers[1].item_vectors_[old[known]]
    likeness = (before * after).sum(1)
    assert likeness.mean() > 0.9 and likeness.min() < 1 - 1e-6
    counts = model.sources_["ItemKNN"].popularity_
    assert counts.sum() == len(shop.positives())
    assert set(model.rankers_.ranker) == {"as it was", "goes on", "learnt again"}


def test_the_joined_log_is_the_whole_one(shop, previous, model):
    whole = Recommender([ItemKNN()], ranker=None).fit(shop)
    assert set(model.user_ids_) == set(whole.user_ids_)
    for user in whole.user_ids_[:40]:
        lists = []
        for one in (model, whole):
            past = one.histories_.take(one.user_ids_.get_indexer([user]))
            lists.append(one.item_ids_[past.items].tolist())
        assert lists[0] == lists[1]
    assert len(previous.log_) + 1 < len(model.log_) == len(shop)


def test_saved_and_loaded_it_answers_and_goes_on_alike(
    parts, previous, model, tmp_path
):
    folder = previous.save(tmp_path / "previous")
    question = {"user_ids": previous.user_ids_[:60], "k": 5}
    loaded = Recommender.load(folder)
    same = go_on(loaded, parts[1])
    pd.testing.assert_frame_equal(
        same.recommend(**question), model.recommend(**question)
    )
    back = Recommender.load(same.save(tmp_path / "model"))
    pd.testing.assert_frame_equal(
        back.recommend(**question), model.recommend(**question)
    )
    states = [m.retriever_.model_.state_dict() for m in (same, model)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_new_users_and_items_join_and_rules_hold(parts, previous):
    more = parts[1]
    frame = more.interactions
    newest = frame[more.is_positive()].iloc[-1:]
    newest = newest.assign(user_id="user_new", item_id="item_new")
    items = pd.concat([more.items, more.items.iloc[:1].assign(item_id="item_new")])
    users = pd.concat([more.users, more.users.iloc[:1].assign(user_id="user_new")])
    rows = pd.concat([frame, newest], ignore_index=True)
    model = go_on(previous, Dataset(rows, users, items, more.positive))
    assert "user_new" in model.user_ids_ and "item_new" in model.item_ids_
    lists = model.recommend(["user_new", *previous.user_ids_[:20]], k=5)
    assert lists.groupby("user_id").size().eq(5).all()
    category = model.items_.set_index("item_id").category
    rules = {"where": {"category": [category["item_new"]]}}
    rules["exclude"] = previous.item_ids_[:3]
    ruled = model.recommend(previous.user_ids_[:20], k=5, **rules)
    assert (ruled.item_id.map(category) == category["item_new"]).all()
    assert not ruled.item_id.isin(previous.item_ids_[:3]).any()
    assert model.ranker_.features_.items.sparse.shape[0] == len(model.item_ids_)
    assert (
        model.ranker_.features_.vector_blocks
        == previous.ranker_.features_.vector_blocks
    )


def test_a_log_without_tables_keeps_the_attributes(parts, previous):
    bare = Dataset(parts[1].interactions, positive=parts[1].positive)
    model = go_on(previous, bare, ranker=None, answer=None)
    before = previous.items_.set_index("item_id").category
    after = model.items_.set_index("item_id").category
    assert after[before.index].equals(before)
    assert model.ranker_ is None


def test_actions_go_on(parts):
    earlier, more = parts
    ranker = ActionRanker(actions=FUNNEL, epochs=1)
    several = Recommender([ItemKNN(), EASE()], ranker=ranker, candidates=20)
    several.fit(earlier)
    model = Recommender(candidates=20).fit(more, start=several)
    assert model.actions_ == FUNNEL and model.chosen_ == "two stages"
    users = several.user_ids_[np.diff(several.histories_.offsets) > 0][:5]
    worth = {"click": 1, "purchase": "price"}
    lists = model.recommend(users, k=3, value=worth)
    chances = model.score(None, lists[["user_id", "item_id"]])
    assert (chances.purchase <= chances.click).all()
    prices = chances.item_id.map(model.items_.set_index("item_id").price)
    expected = chances.click + chances.purchase * prices
    assert np.allclose(expected, lists.score, rtol=1e-4)
    with pytest.raises(ValueError, match="actions="):
        Recommender(actions=["click"]).fit(more, start=several)


def test_the_previous_model_stays_as_it_was(parts, previous):
    question = {"user_ids": previous.user_ids_[:40], "k": 5}
    before = previous.recommend(**question)
    moments = {n: m.clone() for n, m in previous.retriever_.moments_.items()}
    go_on(previous, parts[1])
    assert before.equals(previous.recommend(**question))
    now = previous.retriever_.moments_
    assert all(torch.equal(now[name], moments[name]) for name in moments)


def test_another_schema_is_refused(parts, previous):
    rows = parts[1].interactions.drop(columns="event_type")
    bare = Dataset(rows.assign(event_type=1).drop(columns="event_type"))
    bare.positive = previous.log_.positive
    with pytest.raises(MissingColumnError, match="event_type"):
        go_on(previous, bare)
    numbers = parts[1].interactions.assign(user_id=range(len(parts[1])))
    with pytest.raises(ValueError, match="Read both alike"):
        go_on(previous, Dataset(numbers, None, None, parts[1].positive))


@pytest.fixture(scope="module")
def small():
    "The parts of a smaller shop, for what does not ask how good a model is."
    return cut(add_vectors(simulate(400, 100, 12_000, seed=3)), days=5)


@pytest.fixture(scope="module", params=["dlrm", "funnel"])
def network(request, small):
    "Two stages whose ranker is a network, which goes on."
    sources = {"ItemKNN": ItemKNN(), "EASE": EASE()}
    few = {"epochs": 1, "dim": 4, "logistic_start": False}  # something is left to learn
    kinds = {
        "dlrm": DLRMRanker(**few),
        "funnel": ActionRanker(actions=FUNNEL, **few),
    }
    ranker = kinds[request.param]
    return Recommender(sources, ranker=ranker, answer="two stages").fit(small[0])


@pytest.fixture
def always_on(monkeypatch):
    "The ranker goes on, whatever is shown to be better."
    monkeypatch.delitem(RANKER_WAYS, "as it was")
    monkeypatch.delitem(RANKER_WAYS, "learnt again")


def ranker_weights(model):
    return {n: t.clone() for n, t in model.ranker_.model_.state_dict().items()}


def test_the_optimizer_of_a_ranker_goes_on(small, network, tmp_path, always_on):
    start = network.ranker_.moments_
    assert start
    at_first = {name: moment.clone() for name, moment in start.items()}
    first = Recommender().fit(small[1], start=network)
    moved = first.ranker_.moments_
    assert set(moved) == set(start)
    steps = [name for name in start if name.endswith("/step")]
    assert steps and all(moved[name] > start[name] for name in steps)
    assert all(torch.equal(start[name], at_first[name]) for name in start)
    # saved and loaded it goes on alike, and without its moments in another way
    folders = [tmp_path / name for name in ("whole", "small")]
    network.save(folders[0])
    second = Recommender().fit(small[1], start=Recommender.load(folders[0]))
    assert all(torch.equal(second.ranker_.moments_[n], moved[n]) for n in moved)
    weights = ranker_weights(first)
    assert all(torch.equal(t, weights[n]) for n, t in ranker_weights(second).items())
    stored = Recommender.load(network.save(folders[1], training=False))
    assert stored.ranker_.moments_ == {}
    question = {"user_ids": network.user_ids_[:20], "k": 5}
    assert stored.recommend(**question).equals(network.recommend(**question))
    forgetful = Recommender.load(folders[0])
    forgetful.ranker_.moments_ = {}
    third = Recommender().fit(small[1], start=forgetful)
    assert all(third.ranker_.moments_[name] < moved[name] for name in steps)
    others = ranker_weights(third)
    assert not all(torch.equal(t, others[n]) for n, t in weights.items())


def make_lesson(start, parts):
    "The ranker of a recommender, and examples of the newer events."
    newer = lengthen_log(start, parts[1])
    held = hold_newer(newer)
    folds = split_learners(held.users(0))
    trial = Trial(held, start.sources_, folds, 20, start.actions_)
    examples = collect_examples(trial, trial.learners, start.answer_.sources)
    features = grow_features(start.ranker_, newer.whole)
    return Lesson(start.ranker_, features, examples, newer.whole)


def test_an_interrupted_ranker_goes_on_from_its_checkpoint(small, network, tmp_path):
    ranker = network.ranker_
    lesson = make_lesson(network, small)
    prepared = lesson.prepare(lesson.features)
    folder = {"folder": tmp_path, "epochs": 3, "patience": None}
    results = []
    for changes in ({"epochs": 3, "patience": None}, folder, folder):
        one = copy(ranker)
        one.settings = replace(ranker.settings, **changes)
        model = deepcopy(ranker.model_)
        model = model.model if hasattr(model, "calibrator") else model
        rows = pick_rows(prepared.data, 10_000, 0)
        moments = one.train_on(model, prepared.data, rows, ranker.moments_)
        results.append((model.state_dict(), moments))
        checkpoints = sorted(tmp_path.glob("epoch-*"))
        if len(results) == 2:  # as if it had been stopped after an epoch
            checkpoints[-1].unlink()
    first = results[0]
    for weights, moments in results[1:]:
        assert all(torch.equal(weights[n], t) for n, t in first[0].items())
        assert all(torch.equal(moments[n], t) for n, t in first[1].items())
    with pytest.raises(CheckpointError, match="start was"):
        one.train_on(deepcopy(model), prepared.data, rows, ranker.moments_)
