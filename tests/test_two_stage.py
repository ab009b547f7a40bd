"""The default recommender: never worse than its best part, whatever the order of rows,
with an account of what was compared, and a second answer where people repeat."""

import numpy as np
import pandas as pd
import pytest

from recsys_nb.data import DataError, Dataset, simulate
from recsys_nb.recommenders.baselines import EASE, ItemKNN, Popularity, Repeats
from recsys_nb.recommenders.gate import judge, new_pairs, split_as_served
from recsys_nb.recommenders.trial import split_learners
from recsys_nb.recommenders.two_stage import Recommender


def sources():
    return {"Popularity": Popularity(), "ItemKNN": ItemKNN(), "EASE": EASE(l2=200.0)}


def shop(seed, timed=True, users=500):
    log = simulate(n_users=users, n_items=120, n_interactions=12_000, seed=seed)
    if timed:
        return log
    pairs = log.positives().interactions[["user_id", "item_id"]].drop_duplicates()
    return Dataset(pairs, log.users, log.items, name="pairs")


def fit(log, **settings):
    return Recommender(sources(), **{"ranker": "logistic"} | settings).fit(log)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_never_worse_than_its_best_part(seed, timed):
    train, test, _, _ = split_as_served(shop(seed, timed), seed=seed)
    past = train.positives().interactions
    truth, _ = new_pairs(past, test.positives().interactions)
    users = truth.user_id.unique()
    lists = {
        name: source.fit(train.positives()).recommend(users)
        for name, source in sources().items()
    }
    lists["chosen"] = fit(train).recommend(users)
    found = judge(lists, truth).to_frame().set_index("answer").loc["chosen"]
    assert found.difference_high >= 0


@pytest.mark.parametrize("timed", [True, False])
def test_rows_in_another_order_make_the_same_recommender(timed):
    log = shop(3, timed)
    rows = log.interactions.sample(frac=1, random_state=7)
    ours, theirs = fit(log), fit(log.replace(rows))
    pd.testing.assert_frame_equal(
        ours.summary().to_frame(), theirs.summary().to_frame()
    )
    users = log.user_ids[:40]
    pd.testing.assert_frame_equal(ours.recommend(users), theirs.recommend(users))


def test_the_summary_accounts_for_everything():
    found = fit(shop(4)).summary()
    table = found.to_frame()
    assert set(sources()) <= set(table.answer[table.task == "new items"])
    assert (table.chosen.groupby(table.task).sum() == 1).all()
    assert found.chosen in table.answer[table.chosen].tolist()
    assert (table.low <= table.ndcg).all() and (table.ndcg <= table.high).all()
    assert found.chosen in repr(found)
    assert found.plot().get_title().endswith(found.chosen)


def test_users_who_teach_do_not_judge():
    for n in (2, 3, 100, 5_000, 50_000):
        folds = split_learners(pd.Index(range(n)))
        for learners, judges in folds:
            assert not learners.isin(judges).any() and len(judges)
        everyone = np.concatenate([judges for _, judges in folds])
        assert len(everyone) == len(set(everyone))


def repeating(seed=0):
    "People take their three favourites again and again."
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(200), 24)
    favourites = rng.integers(0, 60, (200, 3))
    items = favourites[users, rng.integers(0, 3, len(users))]
    other = rng.random(len(users)) < 0.25
    items[other] = rng.integers(0, 60, other.sum())
    seconds = 1_700_000_000 + rng.integers(0, 10**7, len(users))
    times = pd.to_datetime(seconds, unit="s")
    frame = {"user_id": users, "item_id": items, "timestamp": times}
    return Dataset(pd.DataFrame(frame), name="groceries")


def test_where_people_repeat_old_items_are_answered_too():
    log = repeating()
    parts = {"Popularity": Popularity(), "Repeats": Repeats(), "EASE": EASE()}
    model = Recommender(parts, ranker=None).fit(log)
    table = model.summary().to_frame()
    again = table[table.task == "all items"].set_index("answer")
    assert again.ndcg["Repeats"] > 2 * again.ndcg["Popularity"]
    assert "Repeats" in model.answer_again_.sources
    lists = model.recommend(log.user_ids[:50], k=3, exclude_seen=False)
    had = log.interactions[["user_id", "item_id"]].drop_duplicates()
    assert len(lists.merge(had)) > 0.7 * len(lists)
    fresh = model.recommend(log.user_ids[:50], k=3)
    assert not len(fresh.merge(had))


def test_one_source_answers_as_itself():
    log = shop(5)
    model = fit(log, answer="EASE", ranker=None)
    alone = EASE(l2=200.0).fit(log.positives())
    users = log.user_ids[:30]
    pd.testing.assert_frame_equal(
        model.recommend(users)[["user_id", "item_id", "rank"]],
        alone.recommend(users)[["user_id", "item_id", "rank"]],
    )
    assert list(model.sources_) == ["EASE"]


@pytest.mark.parametrize("answer", ["EASE", "blend", "two stages"])
def test_few_candidates_known_and_unknown_users(answer):
    log = shop(6)
    model = fit(log, answer=answer)
    allowed = log.item_ids[[3, 5, 8, 13, 21, 34]]
    users = [*log.user_ids[:20], "nobody"]
    lists = model.recommend(users, k=4, candidates=allowed)
    assert lists.item_id.isin(allowed).all()
    assert (lists.source[lists.user_id == "nobody"] == "popular").all()
    whole = model.recommend(log.user_ids[:5], k=500)
    assert whole.groupby("user_id").size().max() <= 120


def test_what_goes_together_is_counted_once_for_each_part(monkeypatch):
    "By the source, and not again for the features of the ranker."
    counted, learn = [], ItemKNN.learn

    def count(self, train):
        counted.append(len(train))
        return learn(self, train)

    monkeypatch.setattr(ItemKNN, "learn", count)
    log = shop(7)
    model = fit(log, answer="two stages")
    assert model.ranker_ is not None
    assert len(counted) == 2  # the earlier part, and the whole log
    assert counted[1] == len(log.positives())


def test_two_stages_without_a_ranker_are_an_error():
    with pytest.raises(DataError, match="none of those compared"):
        fit(shop(8, users=200), answer="two stages", ranker=None)
