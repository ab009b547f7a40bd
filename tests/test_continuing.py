"Training that goes on: what is carried over, what joins, and what is refused."

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_nb.data import DataError, Dataset, MissingColumnError, simulate
from recsys_nb.recommenders import EASE, Popularity, Recommender, TwoTowerRetriever
from recsys_nb.recommenders.continuing import append_log, carry_moments
from recsys_nb.recommenders.towers import make_features
from recsys_nb.training.checkpoints import CheckpointError

SMALL = {"profile": "sparse", "dim": 16, "batch_size": 64, "n_negatives": 32}


def cut(log, tables):
    "The log before its last two days, and these days."
    frame = log.interactions
    is_new = frame.timestamp >= frame.timestamp.max() - np.timedelta64(2, "D")
    users, items = (log.users, log.items) if tables else (None, None)
    return tuple(Dataset(frame[some], users, items) for some in (~is_new, is_new))


@pytest.fixture(scope="module", params=[False, True], ids=["ids", "tables"])
def parts(request):
    log = simulate(300, 150, 6_000, seed=1).positives()
    earlier, today = cut(log, request.param)
    start = TwoTowerRetriever(**SMALL, epochs=2, seed=1).fit(earlier)
    return earlier, today, start


@pytest.fixture(scope="module", params=["mean", "attention"])
def start_of_kind(request):
    earlier, today = cut(simulate(300, 150, 6_000, seed=1).positives(), False)
    start = TwoTowerRetriever(**SMALL, history=request.param, epochs=1, seed=1)
    return start.fit(earlier), today


def go_on(start, today, **changes):
    return TwoTowerRetriever(seed=1, **changes).fit(today, start=start)


def test_a_step_of_no_length_changes_no_vector(parts):
    _, today, start = parts
    after = go_on(start, today, epochs=1, lr=1e-12)
    codes = after.item_ids_.get_indexer(start.item_ids_)
    known = start.popularity_ > 0
    assert (codes >= 0).all() and known.sum() > 50
    mine = after.item_vectors_[codes[known]]
    assert np.allclose(mine, start.item_vectors_[known], atol=1e-4)


def test_both_encoders_go_on(start_of_kind):
    start, today = start_of_kind
    after = go_on(start, today, epochs=2)
    assert after.settings_.history == start.settings_.history
    assert not np.allclose(
        after.item_vectors_[:50], start.item_vectors_[:50], atol=1e-3
    )
    assert len(after.recommend(today.user_ids[:5], k=3)) == 15


def test_new_users_and_items_join(parts):
    earlier, today, start = parts
    frame = today.interactions.copy()
    newest = frame.iloc[-1:].assign(user_id="user_new", item_id="item_new")
    more = Dataset(pd.concat([frame, newest], ignore_index=True))
    after = go_on(start, more, epochs=1)
    assert "user_new" in after.user_ids_ and "item_new" in after.item_ids_
    assert (after.recommend(["user_new"], k=3).source == "history").all()
    seen = set(earlier.interactions.item_id) | set(more.interactions.item_id)
    assert seen <= set(after.item_ids_)
    known = after.histories_.matrix().sum()
    assert known == len(earlier) + len(more)


def test_the_start_stays_as_it_was(parts):
    _, today, start = parts
    before = start.recommend(k=5)
    go_on(start, today, epochs=1)
    assert before.equals(start.recommend(k=5))


def test_the_same_seed_gives_the_same_lists_and_files_too(parts, tmp_path):
    _, today, start = parts
    first, second = (go_on(start, today, epochs=1) for _ in range(2))
    lists = first.recommend(k=5)
    assert lists.equals(second.recommend(k=5))
    first.save(tmp_path / "model")
    assert TwoTowerRetriever.load(tmp_path / "model").recommend(k=5).equals(lists)


def test_a_loaded_model_goes_on(parts, tmp_path):
    _, today, start = parts
    start.save(tmp_path / "model")
    loaded = TwoTowerRetriever.load(tmp_path / "model")
    lists = go_on(start, today, epochs=1).recommend(k=5)
    assert go_on(loaded, today, epochs=1).recommend(k=5).equals(lists)


def test_what_cannot_be_is_refused(parts):
    earlier, today, start = parts
    with pytest.raises(DataError, match="only the newer events"):
        go_on(start, earlier)
    with pytest.raises(TypeError, match="start must be a fitted TwoTowerRetriever"):
        go_on(Popularity().fit(earlier), today)
    with pytest.raises(ValueError, match="dim=8"):
        go_on(start, today, dim=8)
    with pytest.raises(ValueError, match="rehearse"):
        TwoTowerRetriever().fit(today, start=start, rehearse=2.0)


def take_moments(model):
    return {name: np.array(value) for name, value in model.moments_.items()}


def before_all(start):
    return [name for name in start.moments_ if name.endswith("/exp_avg")]


def test_moments_are_those_of_the_start_and_zero_for_new_ids(parts):
    _, today, start = parts
    frame = today.interactions.copy()
    newest = frame.iloc[-1:].assign(user_id="user_new", item_id="item_new")
    more = Dataset(pd.concat([frame, newest], ignore_index=True))
    log = append_log(start.catalogue_, more)
    features = make_features(log.catalogue)
    both = {
        "user": (features[0], start.user_features_),
        "item": (features[1], start.item_features_),
    }
    carried = carry_moments(start.moments_, both, log)
    table = "item_tower.table.weight/exp_avg_sq"
    before, after = start.moments_[table], carried[table]
    old = log.catalogue.item_ids.get_indexer(start.item_ids_)
    known = start.popularity_ > 0
    assert torch.equal(after[old[known]], before[: len(known)][known])
    assert before[: len(known)][known].abs().sum() > 0
    new = log.catalogue.item_ids.get_loc("item_new")
    assert not after[new].any()
    layers = [name for name in before_all(start) if "tower." not in name]
    assert layers
    assert all(torch.equal(carried[name], start.moments_[name]) for name in layers)


def test_moments_make_a_difference_and_may_be_left_out(parts, tmp_path):
    _, today, start = parts
    whole, small = (start.save(tmp_path / name) for name in ("whole", "small"))
    start.save(tmp_path / "small", overwrite=True, training=False)
    with_them = TwoTowerRetriever.load(whole)
    without = TwoTowerRetriever.load(small)
    assert with_them.moments_ and not without.moments_
    first, second = (go_on(m, today, epochs=1) for m in (with_them, without))
    vectors = [m.item_vectors_ for m in (first, second, go_on(start, today, epochs=1))]
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.allclose(vectors[0], vectors[1], atol=1e-4)
    question = {"user_ids": start.user_ids_[:20], "k": 5}
    assert without.recommend(**question).equals(start.recommend(**question))
    sizes = [sum(p.stat().st_size for p in f.iterdir()) for f in (small, whole)]
    assert sizes[0] < sizes[1]


class Stopped(Exception):
    "What ends a training in a test."


def test_an_interrupted_training_goes_on_to_the_same_weights(parts, tmp_path):
    _, today, start = parts

    def stop(row):
        if row["epoch"] == 2:
            raise Stopped

    options = {"epochs": 4, "patience": None}
    whole = go_on(start, today, **options)
    with pytest.raises(Stopped):
        go_on(start, today, folder=tmp_path, on_epoch=stop, **options)
    assert list(tmp_path.glob("epoch-*"))
    resumed = go_on(start, today, folder=tmp_path, **options)
    assert resumed.result_.epochs[0] == whole.result_.epochs[0]
    state, same = (m.model_.state_dict() for m in (whole, resumed))
    assert all(torch.equal(same[name], state[name]) for name in state)
    moments, again = (take_moments(m) for m in (whole, resumed))
    assert all(np.array_equal(again[name], moments[name]) for name in moments)


def test_a_checkpoint_of_another_start_is_refused(parts, tmp_path):
    earlier, today, start = parts
    options = {"epochs": 2, "folder": tmp_path}
    go_on(start, today, **options)
    other = TwoTowerRetriever(**SMALL, epochs=1, seed=1).fit(earlier)
    with pytest.raises(CheckpointError, match="start was"):
        go_on(other, today, **options)


@pytest.mark.parametrize(
    "change, error, said",
    [
        (
            {"price": "cheap"},
            DataError,
            "'price' of the newer.*holds text",
        ),
        (
            {"category": 3},
            DataError,
            "'category'.*numbers.*what was learnt",
        ),
        ("price", MissingColumnError, "has no column 'price'.*leave the table out"),
    ],
)
@pytest.mark.parametrize("kind", ["retriever", "recommender"])
def test_a_table_of_another_schema_is_refused_by_its_column(kind, change, error, said):
    log = simulate(120, 40, 2_000, seed=1)
    earlier, today = cut(log.positives(), True)
    tables = today.items.drop(columns=change) if isinstance(change, str) else None
    tables = today.items.assign(**change) if tables is None else tables
    other = Dataset(today.interactions, today.users, tables)
    if kind == "retriever":
        start = TwoTowerRetriever(**SMALL, epochs=1).fit(earlier)
        fresh = TwoTowerRetriever()
    else:
        start = Recommender([EASE(), Popularity()], ranker=None).fit(earlier)
        fresh = Recommender([EASE(), Popularity()], ranker=None)
    with pytest.raises(error, match=said):
        fresh.fit(other, start=start)
    without = Dataset(today.interactions)
    after = fresh.fit(without, start=start)  # known items keep their rows
    assert after.items_.price.notna().all()
