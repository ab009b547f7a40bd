"Baselines: shuffled rows, new users, saved states, heavy users; saved searches."

import time
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
from conftest import processes
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("implicit", reason="the extra [als] is not installed")
pytest.importorskip("optuna", reason="the extra [tune] is not installed")

from recsys_nb.data import Dataset, Histories, simulate
from recsys_nb.recommenders.baselines import (
    EASE,
    ItemKNN,
    Popularity,
    cap_histories,
    repeat_rate,
    solve_ease,
    solve_sparse_ease,
)
from recsys_nb.recommenders.factors import ALS, BPR, solve_users
from recsys_nb.recommenders.filters import BASELINES
from recsys_nb.recommenders.retriever import TwoTowerRetriever
from recsys_nb.recommenders.tuning import SPACES, Range, TuneError, tune

SMALL = {
    **BASELINES,
    "capped": lambda: ItemKNN(max_items=5),
    "sparse": lambda: EASE(neighbours=5),
    "ALS": lambda: ALS(factors=4, iterations=3),
    "BPR": lambda: BPR(factors=4, iterations=5),
}


def random_log(seed, n_events=400):
    "A log without times in which some items are met again."
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 40, n_events)
    items = (rng.beta(1, 3, n_events) * 30).astype(int)
    return pd.DataFrame({"user_id": users, "item_id": items})


@cache
def lists_of(name, seed):
    "What a model recommends that was fitted to the log as it is."
    log = Dataset(random_log(seed, n_events=150))
    return SMALL[name]().fit(log).recommend(k=8, exclude_seen=False)


@pytest.mark.parametrize("name", SMALL)
@given(st.integers(0, 2**32 - 1))
def test_without_times_shuffled_rows_give_the_same_model(name, seed):
    shuffled = random_log(seed % 7, n_events=150).sample(frac=1, random_state=seed)
    lists = SMALL[name]().fit(Dataset(shuffled)).recommend(k=8, exclude_seen=False)
    pd.testing.assert_frame_equal(lists, lists_of(name, seed % 7))


@pytest.mark.parametrize("name", SMALL)
def test_a_state_makes_the_same_model(name):
    model = SMALL[name]().fit(Dataset(random_log(1)))
    saved, arrays = model.state()
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    copy = type(model).from_state(saved, arrays, model.catalogue_)
    events = random_log(2)[:20].assign(user_id=-1)
    for question in ({}, {"events": events}):
        a, b = (m.recommend(k=8, **question) for m in (model, copy))
        pd.testing.assert_frame_equal(a, b)


def test_a_trend_is_saved():
    log = random_log(3)
    log["timestamp"] = 1_600_000_000 + 86_400 * np.arange(len(log)) % 90
    model = Popularity(trend_half_life=3).fit(Dataset(log))
    copy = Popularity.from_state(*model.state(), model.catalogue_)
    pd.testing.assert_frame_equal(copy.recommend([-1]), model.recommend([-1]))


@pytest.mark.parametrize("name", ["Popularity", "ItemKNN", "EASE", "ALS", "sparse"])
def test_somebody_new_with_the_same_events_gets_the_same_list(name):
    log = random_log(4)
    model = SMALL[name]().fit(Dataset(log))
    stored = model.recommend(k=30)
    given = model.recommend(k=30, events=log.assign(user_id=log.user_id + 1000))
    given = given.sort_values(["user_id", "rank"], ignore_index=True)
    assert given.item_id.tolist() == stored.item_id.tolist()
    np.testing.assert_allclose(given.score, stored.score, rtol=1e-5)
    assert set(stored.source) == {"history"} and set(given.source) == {"events"}


@pytest.mark.parametrize("l2", [0.5, 50])
def test_ease_is_a_ridge_regression_on_the_other_items(l2):
    dense = (pd.crosstab(*random_log(5).to_numpy().T).to_numpy() > 0).astype(np.float32)
    n_items = dense.shape[1]
    expected = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = np.arange(n_items) != item
        taken = dense[:, others].astype(float)
        left = taken.T @ taken + l2 * np.eye(n_items - 1)
        expected[others, item] = np.linalg.solve(left, taken.T @ dense[:, item])
    binary = Dataset(random_log(5))
    matrix = EASE().fit(binary).histories_.matrix()
    matrix.data[:] = 1
    np.testing.assert_allclose(solve_ease(matrix, l2), expected, atol=1e-4)
    common = dense.T @ dense
    if (common > 0).all():
        everything = solve_sparse_ease(matrix, l2, n_items).toarray()
        np.testing.assert_allclose(everything, expected, atol=1e-4)


def test_an_item_that_nobody_took_scores_zero():
    log = random_log(6)
    wider = pd.DataFrame({"item_id": [*range(31), 99]})
    plain = EASE().fit(Dataset(log))
    more = EASE().fit(Dataset(log, items=wider))
    np.testing.assert_array_equal(more.weights_, plain.weights_)
    assert more.score([0], [99]).score[0] == 0


def test_als_users_are_those_of_the_formula():
    log = random_log(7)
    counts = pd.crosstab(log.user_id, log.item_id).to_numpy()
    model = ALS(factors=5, regularization=0.1, alpha=2, iterations=3).fit(Dataset(log))
    items = model.item_factors_.astype(float)
    expected = []
    for taken in counts:
        weighted = items.T * (1 + 2 * taken)
        left = weighted @ items + 0.1 * np.eye(5)
        expected.append(np.linalg.solve(left, weighted @ (taken > 0)))
    matrix = model.histories_.matrix()
    found = solve_users(matrix, model.item_factors_, 0.1, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_two_heavy_users_do_not_stop_item_knn():
    "Two accounts with 30,000 items each among people with five."
    rng = np.random.default_rng(0)
    heavy = pd.DataFrame({"user_id": np.repeat([-1, -2], 30_000)})
    heavy["item_id"] = np.tile(np.arange(30_000), 2)
    people = pd.DataFrame({"user_id": np.repeat(np.arange(2_000), 5)})
    people["item_id"] = rng.integers(0, 30_000, len(people))
    log = Dataset(pd.concat([heavy, people]))
    before = time.process_time()
    model = ItemKNN().fit(log)
    assert time.process_time() - before < 40
    assert len(model.recommend([-1, 0], k=5, exclude_seen=False)) == 10
    capped = cap_histories(model.histories_, 2000, ordered=False)
    assert np.diff(capped.offsets).max() == 2000


def test_capped_histories_are_the_latest_or_a_sample():
    offsets = np.array([0, 2, 10])
    past = Histories(np.arange(10, dtype=np.int32), offsets, np.arange(2), 10)
    latest = cap_histories(past, 3, ordered=True)
    assert latest.items.tolist() == [0, 1, 7, 8, 9]
    samples = [cap_histories(past, 3, ordered=False, seed=s).items for s in range(40)]
    assert {len(sample) for sample in samples} == {5}
    assert {item for sample in samples for item in sample} == set(range(10))


def test_the_repeat_rate_counts_pairs_met_before():
    log = pd.DataFrame({"user_id": list("aaabb"), "item_id": list("xxxxy")})
    assert repeat_rate(Dataset(log)) == 2 / 5


def search_slowly(file, parent):
    "A search of 50 trials, which tells its parent of each."

    def slow(l2=100.0):
        parent.send("trial")
        time.sleep(0.5)
        return EASE(l2)

    log = simulate(300, 100, 6000, seed=0).positives()
    tune(slow, log, SPACES[EASE], trials=50, file=file, progress=False)


@pytest.fixture(scope="module")
def train():
    return simulate(300, 100, 6000, seed=0).positives()


def search_again(train, file, trials):
    "The trials of a search that was saved on the way, and of those still to be made."

    def slow(l2=100.0):
        return EASE(l2)

    space = SPACES[EASE]
    found = tune(slow, train, space, trials=trials, file=file, progress=False)
    return found.to_frame().drop(columns="seconds")


def test_a_killed_search_goes_on_as_if_it_had_not_been(train, tmp_path):
    file = tmp_path / "made" / "on the way.db"
    theirs, mine = processes.Pipe()
    process = processes.Process(target=search_slowly, args=(str(file), theirs))
    process.start()
    for _ in range(3):
        assert mine.poll(60) and mine.recv() == "trial"
    time.sleep(0.1)  # in the third trial
    process.kill()
    process.join(60)
    continued = search_again(train, file, 8)
    assert continued.equals(search_again(train, None, 8)) and len(continued) == 8


def test_a_trial_that_is_interrupted_does_not_count(train, tmp_path):
    "Neither the defaults of the first trial nor the budget is lost."
    calls = []

    def breaks(l2=100.0):
        calls.append(l2)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return EASE(l2)

    ask = {"space": SPACES[EASE], "trials": 4, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        tune(breaks, train, file=tmp_path / "a.db", **ask)
    again = tune(breaks, train, file=tmp_path / "a.db", **ask).to_frame()
    assert again.l2.tolist() == tune(EASE, train, **ask).to_frame().l2.tolist()


def test_a_file_that_is_no_search_stays_as_it_was(train, tmp_path):
    file = tmp_path / "notes.txt"
    text = "milk, bread, " * 100
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TuneError, match="is no saved search"):
        tune(EASE, train, trials=2, file=file, progress=False)
    assert file.read_text(encoding="utf-8") == text


def test_the_two_tower_retriever_is_searched_like_a_baseline(train):
    space = {
        "dim": Range(8, 32, log=True),
        "temperature": Range(0.1, 1.0, log=True),
        "hidden_dims": [(), (16,)],
    }
    quick = partial(TwoTowerRetriever, epochs=1, profile="dense")
    found = tune(quick, train, space, trials=3, progress=False)
    assert found.name.startswith("TwoTowerRetriever(epochs=1")
    assert found.score == found.to_frame().score.max() > 0
    assert found.model.settings.temperature == found.best["temperature"]
    assert found.model.settings.epochs == 1
    assert set(found.to_frame().hidden_dims) <= {(), (16,)}
