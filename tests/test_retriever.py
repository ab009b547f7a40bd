"The retriever: no order where there is none, memory, races, large catalogues."

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import slow
from hypothesis import given
from hypothesis import strategies as st

from recsys_nb.data import Dataset, Histories
from recsys_nb.models import sampled_softmax
from recsys_nb.recommenders.index import ItemIndex
from recsys_nb.recommenders.positives import (
    SLICE_CELLS,
    Positives,
    choose_held_out,
    put_in_random_order,
    rank_held_out,
)
from recsys_nb.recommenders.retriever import TwoTowerRetriever
from recsys_nb.training.checkpoints import CheckpointError


def make_frame(seed=0, n_users=60, n_items=24):
    rng = np.random.default_rng(seed)
    same = np.arange(n_users)[:, None] % 3 == np.arange(n_items) % 3
    users, items = np.nonzero(rng.random((n_users, n_items)) < 0.05 + 0.4 * same)
    return pd.DataFrame({"user_id": users, "item_id": items})


def make_small(**changes):
    options = {"dim": 8, "epochs": 2, "profile": "dense", "batch_size": 64}
    return TwoTowerRetriever(**(options | changes))


@pytest.fixture(scope="module")
def frame():
    return make_frame()


@pytest.fixture(scope="module")
def fitted(frame):
    return make_small().fit(Dataset(frame))


@slow(8)
@given(seed=st.integers(0, 1000))
def test_shuffled_rows_give_the_same_model(frame, fitted, seed):
    shuffled = frame.sample(frac=1, random_state=seed)
    other = make_small().fit(Dataset(shuffled))
    assert np.array_equal(other.item_vectors_, fitted.item_vectors_)
    users = fitted.user_ids_
    lists = [r.recommend(users, k=5) for r in (fitted, other)]
    pd.testing.assert_frame_equal(*lists)


def test_rows_sorted_by_item_do_not_change_the_race(frame):
    race = [
        TwoTowerRetriever(dim=8, epochs=2).fit(Dataset(rows)).race_
        for rows in (frame, frame.sort_values("item_id"))
    ]
    pd.testing.assert_frame_equal(*race)
    assert len(race[0]) > 1


def test_the_winner_of_a_race_is_the_model_of_its_settings(frame):
    raced = TwoTowerRetriever(dim=8, epochs=3).fit(Dataset(frame))
    alone = raced.fresh().fit(Dataset(frame))
    assert alone.race_.empty
    assert alone.settings_ == raced.settings_
    assert np.array_equal(alone.item_vectors_, raced.item_vectors_)


def test_a_race_that_keeps_no_training_is_the_same_race(frame, monkeypatch):
    "As for models so large that several at once would not fit."
    kept = TwoTowerRetriever(dim=8, epochs=3).fit(Dataset(frame))
    monkeypatch.setattr("recsys_nb.recommenders.race.KEPT_WEIGHTS", 0)
    anew = TwoTowerRetriever(dim=8, epochs=3).fit(Dataset(frame))
    pd.testing.assert_frame_equal(anew.race_, kept.race_)
    assert anew.settings_ == kept.settings_
    assert np.array_equal(anew.item_vectors_, kept.item_vectors_)


def test_a_killed_training_runs_no_second_race(frame, tmp_path, monkeypatch):
    "It goes on from its last whole epoch and ends where it would have ended."
    log, settings = Dataset(frame), {"dim": 8, "epochs": 4}

    def kill(row):
        if list(tmp_path.glob("epoch-*.safetensors")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TwoTowerRetriever(folder=tmp_path, on_epoch=kill, **settings).fit(log)
    monkeypatch.setattr("recsys_nb.recommenders.choices.run_race", None)
    epochs = []
    again = TwoTowerRetriever(folder=tmp_path, on_epoch=epochs.append, **settings)
    again.fit(log)
    monkeypatch.undo()
    whole = TwoTowerRetriever(**settings).fit(log)
    assert 0 < len(epochs) < len(whole.result_.epochs)
    assert np.array_equal(again.item_vectors_, whole.item_vectors_)
    pd.testing.assert_frame_equal(again.race_, whole.race_)


def test_a_race_on_other_data_is_not_taken_over(frame, tmp_path):
    TwoTowerRetriever(dim=8, epochs=2, folder=tmp_path).fit(Dataset(frame))
    other = Dataset(make_frame(seed=1))
    with pytest.raises(CheckpointError, match="is of another run: data was"):
        TwoTowerRetriever(dim=8, epochs=2, folder=tmp_path).fit(other)


def test_times_are_an_order(frame):
    timed = frame.assign(
        timestamp=pd.to_datetime(1_700_000_000 + np.arange(len(frame)), unit="s")
    )
    model = make_small().fit(Dataset(timed))
    assert model.model_.config.recency
    past = model.histories_
    reverse = Histories(past.items[::-1].copy(), past.offsets, past.rows, past.n_items)
    assert not np.allclose(model.user_vectors(past), model.user_vectors(reverse))


@given(seed=st.integers(0, 10_000), n_cells=st.integers(1, 400))
def test_ranks_do_not_depend_on_the_slices(monkeypatch_module, seed, n_cells):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 8, 15)
    items = [rng.permutation(30)[:n] for n in counts]
    offsets = np.concatenate([[0], counts.cumsum()])
    past = Histories(
        np.concatenate([*items, []]).astype(np.int32), offsets, np.arange(15), 30
    )
    held = choose_held_out(put_in_random_order(past, seed), 100, seed)
    places, positives = torch.from_numpy(held), Positives.of(past, held)
    users = torch.from_numpy(rng.normal(size=(len(held), 4)).astype(np.float32))
    vectors = torch.from_numpy(rng.normal(size=(30, 4)).astype(np.float32))
    parts = users, vectors, torch.zeros(30), positives, places
    if not len(held):
        return
    whole = rank_held_out(*parts)
    monkeypatch_module.setattr("recsys_nb.recommenders.positives.SLICE_CELLS", n_cells)
    assert torch.equal(rank_held_out(*parts), whole)
    monkeypatch_module.setattr(
        "recsys_nb.recommenders.positives.SLICE_CELLS", SLICE_CELLS
    )


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_validation_of_a_large_catalogue_stays_small():
    n_items, n_users = 400_000, 200
    items = np.random.default_rng(0).integers(0, n_items, 2 * n_users)
    past = Histories(
        items.astype(np.int32),
        np.arange(n_users + 1) * 2,
        np.arange(n_users),
        n_items,
    )
    held = past.offsets[1:] - 1
    sizes, places = [], set()
    plain = torch.addmm

    def watch(*parts, out):
        sizes.append(out.numel())
        places.add(out.data_ptr())
        return plain(*parts, out=out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "addmm", watch)
        ranks = rank_held_out(
            torch.randn(n_users, 2),
            torch.randn(n_items, 2),
            torch.zeros(n_items),
            Positives.of(past, held),
            torch.from_numpy(held),
        )
    assert len(ranks) == n_users
    assert max(sizes) <= SLICE_CELLS  # 64 MB at a time; all at once are 320 MB
    assert len(sizes) > 1 and len(places) == 1  # slices that come and go leave holes


def test_5000_of_120000_items_from_cells():
    vectors = np.random.default_rng(0).normal(size=(120_000, 8)).astype(np.float32)
    index = ItemIndex(vectors, n_probe=4)
    assert not index.is_exact
    items, scores = index.search(vectors[:2], 5_000)
    assert (items >= 0).all()
    assert [len(np.unique(row)) for row in items] == [5_000, 5_000]
    assert (np.diff(scores, axis=1) <= 0).all()


def test_cells_answer_only_what_is_allowed_and_unseen(frame):
    model = make_small(exact_to=5).fit(Dataset(frame))
    lists = model.recommend(k=24, candidates=list(range(0, 24, 2)))
    assert (lists.item_id % 2 == 0).all()
    seen = set(zip(frame.user_id, frame.item_id, strict=True))
    assert not seen & set(zip(lists.user_id, lists.item_id, strict=True))
    n_seen = frame[frame.item_id % 2 == 0].groupby("user_id").size()
    n_left = 12 - n_seen.reindex(lists.user_id.unique()).fillna(0)
    assert (lists.groupby("user_id").size() == n_left.sort_index()).all()


def test_state_survives_json(frame, fitted):
    users = frame.drop_duplicates("user_id")[["user_id"]]
    users = users.assign(group=[f"g{u % 3}" for u in users.user_id])
    items = pd.DataFrame(
        {"item_id": range(24), "kind": [f"k{i % 3}" for i in range(24)]}
    )
    model = make_small(hidden_dims=(8,)).fit(Dataset(frame, users=users, items=items))
    stored, arrays = model.state()
    loaded = TwoTowerRetriever.from_state(
        json.loads(json.dumps(stored)), arrays, model.catalogue_
    )
    lists = [r.recommend(k=5) for r in (model, loaded)]
    pd.testing.assert_frame_equal(*lists)


def test_long_histories_are_read_in_bounded_rows(fitted):
    past = fitted.histories_
    tracemalloc.start()
    fitted.user_vectors(past)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26


def test_a_log_of_one_pair_can_be_fitted():
    frame = pd.DataFrame({"user_id": ["a"], "item_id": ["x"]})
    model = TwoTowerRetriever(dim=4, epochs=1).fit(Dataset(frame))
    assert model.recommend(["a"], k=1, exclude_seen=False).item_id.tolist() == ["x"]


def test_settings_are_checked_by_name():
    for name, value in [("dropout", 2), ("lr", 0), ("history", "gru"), ("dim", 0)]:
        with pytest.raises(ValueError, match=name):
            TwoTowerRetriever(**{name: value})
    with pytest.raises(TypeError, match="prior"):
        TwoTowerRetriever(prior=1)


def test_on_epoch_is_told_and_can_stop(frame):
    told = []

    def stop_at_once(row):
        told.append(row)
        return True

    model = make_small(epochs=5, on_epoch=stop_at_once).fit(Dataset(frame))
    assert len(model.result_.epochs) == 1
    assert {"epoch", "loss", "ndcg", "seconds"} <= told[0].keys()


LOSSES = [name for name in sampled_softmax.__all__ if name.endswith("_loss")]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_the_package(frame, name):
    "It trains a retriever, and the item of a row is no negative of that row."
    loss = getattr(sampled_softmax, name)
    model = make_small(loss=loss).fit(Dataset(frame))
    assert np.isfinite(model.item_vectors_).all()
    assert np.ptp(model.item_vectors_, axis=0).max() > 0
    vectors = torch.eye(4)
    same = loss(vectors, vectors[:1].expand(4, -1), 0.1, None, torch.zeros(4).long())
    assert abs(same.item()) < 1e-6
    alone = loss(vectors, vectors, 0.1, None, torch.arange(4), None)
    mixed = loss(vectors, vectors.flip(0), 0.1, None, torch.arange(4), None)
    assert alone < mixed
