"What all recommenders share: lists, pairs, ids, memory, saved states."

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_nb.data import DataError, Dataset, UnknownIdError
from recsys_nb.recommenders.base import (
    BaseRecommender,
    Catalogue,
    check_some_known,
)
from recsys_nb.recommenders.lists import top_k

MIB = 2**20


def random_log(seed, n_events=120, times=True):
    "A log of text or number ids with every interaction a positive."
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 15, n_events)
    items = rng.integers(0, 20, n_events)
    log = pd.DataFrame({"user_id": users, "item_id": items})
    if seed % 2:
        log = "n" + log.astype(str)
    if times:
        log["timestamp"] = rng.integers(1_600_000_000, 1_600_000_500, n_events)
    return Dataset(log)


class Fixed(BaseRecommender):
    "Scores that depend on the user's code and the length of the history."

    def learn(self, train):
        pass

    def score_all(self, histories):
        lengths = np.diff(histories.offsets)[:, None]
        items = np.arange(histories.n_items)
        return ((histories.rows[:, None] * 7 + items * 5 + lengths) % 11).astype(float)


def pairs_of(frame):
    return set(zip(frame.user_id, frame.item_id, strict=True))


@pytest.mark.parametrize("seed", range(30))
def test_top_k_is_a_full_sort(seed):
    rng = np.random.default_rng(seed)
    n, m, k = rng.integers(1, 40, 3)
    dtype = [np.float32, np.float64][seed % 2]
    scores = rng.choice([-np.inf, -1, 0, 0.5, 3], (n, m)).astype(dtype)
    want = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, want, 1)
    columns, got = top_k(scores, k)
    assert (got == best).all()
    assert (columns == np.where(np.isneginf(best), -1, want)).all()


@pytest.mark.parametrize("seed", range(12))
def test_top_k_of_wide_rows(seed):
    "Groups of columns, ties of all kinds, a column left over, rows cut to blocks."
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 60)), int(rng.integers(2_000, 40_000))
    k = int(rng.choice([1, 5, 100, 1_000]))
    scores = [
        rng.normal(size=(n, m)),
        rng.integers(0, 3, (n, m)),
        np.where(rng.random((n, m)) < 0.999, -np.inf, rng.integers(0, 9, (n, m))),
    ][seed % 3].astype(np.float32)
    scores[0, :] = 0
    if seed % 2:
        scores = np.asfortranarray(scores)
    want = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, want, 1)
    columns, got = top_k(scores, k)
    assert (got == best).all()
    assert (columns == np.where(np.isneginf(best), -1, want)).all()
    scores[-1, rng.integers(m)] = np.nan
    with pytest.raises(ValueError, match=f"row {n - 1} hold NaN"):
        top_k(scores, k)


@pytest.mark.parametrize("seed", range(20))
def test_recommend(seed):
    log = random_log(seed)
    model = Fixed().fit(log)
    k = int(np.random.default_rng(seed).integers(1, 20))
    seen = pairs_of(log.interactions)
    lists = model.recommend(k=k)
    assert not seen & pairs_of(lists)
    taken = log.interactions.groupby("user_id").item_id.nunique()
    left = len(log.item_ids) - taken
    rows = lists.groupby("user_id").size().reindex(left.index, fill_value=0)
    assert rows.equals(left.clip(upper=k))
    ranks = lists.groupby("user_id")["rank"].apply(list)
    assert all(ranks == ranks.map(lambda found: list(range(1, len(found) + 1))))
    assert (lists.groupby("user_id").score.diff().dropna() <= 0).all()
    for budget_gib in (1e-9, 0.0626, 0.07):
        same = model.recommend(k=k, budget_gib=budget_gib)
        pd.testing.assert_frame_equal(same, lists)


@pytest.mark.parametrize("seed", range(10))
def test_new_events_extend_the_history(seed):
    log = random_log(seed)
    model = Fixed().fit(log)
    events = log.interactions.sample(5, random_state=seed)
    stranger = events.assign(user_id="zz" if seed % 2 else -1)
    lists = model.recommend(events=pd.concat([events, stranger]), k=99)
    assert set(lists.source) == {"events"}
    assert not pairs_of(log.interactions) & pairs_of(lists)
    of_stranger = lists[lists.user_id == stranger.user_id.iloc[0]]
    assert not set(of_stranger.item_id) & set(stranger.item_id)
    unknown = model.recommend(["never" if seed % 2 else -2], k=3)
    assert set(unknown.source) == {"popular"}
    counts = sorted(log.interactions.item_id.value_counts(), reverse=True)
    assert unknown.score.tolist() == counts[:3]


@pytest.mark.parametrize("seed", range(10))
def test_a_stranger_in_a_batch_changes_nobody_elses_list(seed):
    model = Fixed().fit(random_log(seed))
    users = list(model.user_ids_)
    alone = model.recommend(users, k=5)
    stranger = "zz" if seed % 2 else -1
    batch = model.recommend([*users[:3], stranger, *users[3:]], k=5)
    batch = batch[batch.user_id != stranger].reset_index(drop=True)
    pd.testing.assert_frame_equal(batch, alone)


@given(st.integers(0, 99), st.integers(1, 25), st.data())
def test_candidates_come_before_the_k_best(seed, k, data):
    "Lists have k rows, or as many as there are candidates, and are the full order."
    model = Fixed().fit(random_log(seed))
    items = st.lists(st.sampled_from(list(model.item_ids_)), min_size=1, unique=True)
    candidates = data.draw(st.none() | items)
    exclude = data.draw(st.none() | items)
    exclude_seen = data.draw(st.booleans())
    lists = model.recommend(
        k=k, exclude_seen=exclude_seen, candidates=candidates, exclude=exclude
    )
    everything = model.recommend(k=99, exclude_seen=exclude_seen)
    may = set(model.item_ids_ if candidates is None else candidates)
    may -= set(exclude or [])
    want = everything[everything.item_id.isin(may)].groupby("user_id").head(k)
    columns = ["user_id", "item_id", "score"]
    want = want[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(lists[columns], want)
    short = want.groupby("user_id").size().reindex(model.user_ids_, fill_value=0) < k
    assert ("short_lists" in lists.attrs) == bool(short.any())


def test_an_unknown_candidate_is_counted():
    model = Fixed().fit(random_log(1))
    known = model.item_ids_[0]
    with pytest.warns(UserWarning, match="1 of 2 candidates are not in the training"):
        lists = model.recommend(candidates=[known, "new"], exclude_seen=False)
    assert set(lists.item_id) == {known}


class Forgetful(Fixed):
    "Finds two items for everybody, as an approximate search may."

    def top_items(self, histories, cold, k, exclude_seen=True, allowed=None):
        items, scores = super().top_items(histories, cold, k, exclude_seen, allowed)
        return items[:, :2], scores[:, :2]


def test_a_list_that_is_short_without_need_is_a_warning():
    model = Forgetful().fit(random_log(2))
    with pytest.warns(UserWarning, match="fewer than k=5 rows although candidates"):
        model.recommend(k=5)


@pytest.mark.parametrize("seed", range(6))
def test_score_is_the_score_of_recommend(seed):
    model = Fixed().fit(random_log(seed))
    stranger = "zz" if seed % 2 else -1
    users = [model.user_ids_[2], stranger, model.user_ids_[0]]
    lists = model.recommend(users, k=99, exclude_seen=False)
    scored = model.score(users, model.item_ids_)
    both = scored.merge(lists, on=["user_id", "item_id"], validate="1:1")
    assert len(both) == len(scored) == len(lists)
    assert (both.score_x == both.score_y).all()
    frame = scored.sample(frac=1, random_state=seed).drop(columns="score")
    again = model.score(None, frame)
    assert again[["user_id", "item_id"]].equals(frame.reset_index(drop=True))
    merged = again.merge(scored, on=["user_id", "item_id"])
    assert (merged.score_x == merged.score_y).all()


def test_an_unknown_pair_is_named():
    model = Fixed().fit(random_log(1))
    with pytest.raises(UnknownIdError, match="item 'new' in row 1 of the pairs"):
        model.score([model.user_ids_[0]], [model.item_ids_[0], "new"])


SPELLINGS = {
    "type": (["1", "2"], [1, 2, 3]),
    "number": ([1, 2], ["1", "2", "3"]),
    "blank": ([" a", "b "], ["a", "b"]),
    "padding": (["7"], ["007", "008"]),
    "no padding": (["007"], ["7", "8"]),
    "fixed width": (["ab"], ["ab   ", "abc  "]),
}


@pytest.mark.parametrize("asked, known", SPELLINGS.values(), ids=SPELLINGS)
def test_ids_of_another_spelling_are_an_error_that_shows_both(asked, known):
    log = pd.DataFrame({"user_id": known, "item_id": known})
    model = Fixed().fit(Dataset(log))
    both = f"{asked[0]!r}.*{known[0]!r}"
    with pytest.raises(UnknownIdError, match=f"(?s)user ids.*{both}"):
        model.recommend(asked)
    for option in ("candidates", "exclude"):
        with pytest.raises(UnknownIdError, match=f"(?s)item ids.*{both}"):
            model.recommend(known, **{option: asked})
    events = pd.DataFrame({"user_id": known[:1], "item_id": asked[:1]})
    with pytest.raises(UnknownIdError, match=f"(?s)item ids.*{both}"):
        model.recommend(events=events)


@pytest.mark.parametrize("first", [2**62, 2**63 + 5, 1234567890123456000])
def test_long_ids_are_known(first):
    ids = [first + n for n in range(4)]
    model = Fixed().fit(Dataset(pd.DataFrame({"user_id": ids, "item_id": ids})))
    lists = model.recommend([first + 1], k=2)
    assert set(lists.source) == {"history"} and lists.user_id[0] == first + 1


def test_new_ids_are_no_error():
    assert check_some_known(pd.Index(["Zoe"]), pd.Index(["Ada"]), "user") is None
    assert check_some_known(pd.Index([2**62]), pd.Index([1]), "user") is None


def test_raw_events_count_as_in_training():
    "A model of purchases is told of a view, and its answer stays as it was."
    rows = [("a", "x", "buy"), ("a", "y", "buy"), ("b", "x", "buy"), ("b", "z", "view")]
    rows.append(("c", "z", "buy"))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "event_type"])
    log = Dataset(frame, positive=["buy"])
    bought = Fixed().fit(log.positives())
    seen = pd.DataFrame([("b", "z", "view"), ("b", "y", "buy")], columns=frame.columns)
    lists = bought.recommend(events=seen, k=9)
    assert lists.item_id.tolist() == ["z"]
    only = seen.drop(columns="event_type")  # nothing says what these are: all count
    assert len(bought.recommend(events=only, k=9)) == 0
    everything = Fixed().fit(log)  # learnt from views, too
    assert len(everything.recommend(events=seen, k=9)) == 0
    rated = frame.assign(value=[5.0, 4.0, 5.0, 1.0, 5.0]).drop(columns="event_type")
    liked = Fixed().fit(Dataset(rated, positive=4.0).positives())
    events = pd.DataFrame({"user_id": ["b"], "item_id": ["z"], "value": [2.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # none of the events is a positive
        assert set(liked.recommend(events=events, k=9).item_id) == {"y", "z"}


def test_the_events_are_checked():
    model = Fixed().fit(random_log(1))
    for events in (
        pd.DataFrame({"user_id": ["a"]}),
        pd.DataFrame({"user_id": ["a"], "item_id": [None]}),
        pd.DataFrame({"user_id": ["a"], "item_id": ["n1"], "timestamp": ["soon"]}),
    ):
        with pytest.raises(DataError):
            model.recommend(events=events)


@pytest.mark.parametrize("seed", range(6))
def test_without_times_the_order_of_rows_means_nothing(seed):
    log = random_log(seed, times=False)
    rows = log.interactions.sample(frac=1, random_state=seed)
    a, b = Catalogue.of(log), Catalogue.of(Dataset(rows))
    assert a.user_ids.equals(b.user_ids) and a.item_ids.equals(b.item_ids)
    assert (a.histories.items == b.histories.items).all()
    assert not a.ordered and Catalogue.of(random_log(seed)).ordered


class Stored(BaseRecommender):
    "Hands out its own matrix, which nobody may write into."

    learnt = ("matrix_",)

    def learn(self, train):
        shape = (len(self.user_ids_), len(self.item_ids_))
        matrix = np.random.default_rng(0).integers(0, 9, shape)
        self.matrix_ = matrix.astype(np.float32)

    def score_all(self, histories):
        everybody = len(histories) == len(self.matrix_)
        return self.matrix_ if everybody else self.matrix_[histories.rows]


def test_the_scores_of_a_model_are_not_written_into():
    model = Stored().fit(random_log(3))
    before = model.matrix_.copy()
    model.recommend(k=3)
    assert (model.matrix_ == before).all()


def test_a_state_makes_the_same_recommender():
    model = Stored().fit(random_log(4))
    copy = Stored.from_state(*model.state(), model.catalogue_)
    pd.testing.assert_frame_equal(copy.recommend(k=9), model.recommend(k=9))


class Vectors(BaseRecommender):
    "Random vectors of users and items."

    def learn(self, train):
        rng = np.random.default_rng(0)
        shape = (len(self.user_ids_), 8)
        self.users_vectors_ = rng.normal(size=shape).astype(np.float32)
        shape = (len(self.item_ids_), 8)
        self.items_vectors_ = rng.normal(size=shape).astype(np.float32)

    def score_all(self, histories):
        return self.users_vectors_[histories.rows] @ self.items_vectors_.T


@pytest.mark.parametrize("budget_mib", [100, 400])
def test_a_large_catalogue_stays_in_its_budget(budget_mib):
    "Lists of 3,000 users out of 50,000 items: 600 MB of scores, if made at once."
    n, m, k = 3_000, 50_000, 20
    items = np.random.default_rng(0).integers(0, m, 5 * n)
    log = pd.DataFrame({"user_id": np.repeat(np.arange(n), 5), "item_id": items})
    tables = pd.DataFrame({"user_id": range(n)}), pd.DataFrame({"item_id": range(m)})
    model = Vectors().fit(Dataset(log, *tables))
    tracemalloc.start()
    lists = model.recommend(k=k, budget_gib=budget_mib / 1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget_mib * MIB
    for user in (0, 1, 2_999):
        scores = model.users_vectors_[user] @ model.items_vectors_.T
        scores[log.item_id[log.user_id == user]] = -np.inf
        got = lists[lists.user_id == user]
        np.testing.assert_allclose(got.score, np.sort(scores)[::-1][:k], rtol=1e-5)
        np.testing.assert_allclose(scores[got.item_id], got.score, rtol=1e-5)


class Arrow:
    "A frame that is no pandas frame, and can become one."

    def __init__(self, frame):
        self.frame = frame
        self.columns = list(frame.columns)

    def to_pandas(self):
        return self.frame


def test_frames_of_other_packages_are_taken():
    model = Fixed().fit(random_log(1))
    frame = model.recommend(k=3)[["user_id", "item_id"]]
    pd.testing.assert_frame_equal(
        model.recommend(events=Arrow(frame), k=2), model.recommend(events=frame, k=2)
    )
    pd.testing.assert_frame_equal(
        model.score(None, Arrow(frame)), model.score(None, frame)
    )
