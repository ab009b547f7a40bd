"The simulated shop: its pieces, its logs, its experiments, and that seeds keep."

import hashlib

import numpy as np
import pandas as pd
import pytest

import recsys_nb as rn
from recsys_nb.data import (
    CLICK_SEASON,
    EVENTS,
    HOURS_PER_WEEK,
    LOG_HOURS,
    LoggingPolicy,
    MissingColumnError,
    Oracle,
    Shop,
    ShopSettings,
    UnknownIdError,
    World,
    choose_exposures,
    draw_centres,
    draw_exposures,
    draw_items,
    draw_pages,
    draw_traits,
    draw_users,
    join_exposures,
    lay_out_lists,
    mark_first,
    position_effect,
    season_effect,
    simulate,
)
from recsys_nb.data.shop import find_best, find_rows


@pytest.fixture(scope="module")
def shop():
    return Shop(1_000, 500, seed=0)


@pytest.fixture(scope="module")
def oracle(shop):
    return Oracle(shop)


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def popular(world):
    "The same ten items for everybody."
    ids = world.users.user_id.to_numpy()
    items = world.items.item_id[:10].to_numpy()
    lists = pd.DataFrame({"user_id": ids.repeat(10)})
    lists["item_id"] = np.tile(items, len(ids))
    lists["rank"] = np.tile(np.arange(1, 11), len(ids))
    return lists


def digest(frame):
    "A hash of the values of a frame, whatever the dtypes are called."
    text = frame.to_csv(index=False, float_format="%.6g")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_seed_keeps_its_numbers():
    "Logs, truths and experiments of a seed are those of every earlier version."
    small = World(200, 80, seed=7)
    log = small.sample(5_000)
    rows = log.interactions.head(400)
    pairs = (rows.user_id, rows.item_id)
    chance = small.click_probability(*pairs, rows.position, rows.timestamp)
    truth = pd.DataFrame({"chance": chance, "shown": small.propensity(*pairs)})
    lists = small.ideal(small.users.user_id, k=5)
    worst = lists.assign(rank=6 - lists["rank"])
    trial = small.experiment(worst, lists, impressions=3, k=5, seed=2)
    found = {
        "users": digest(log.users),
        "items": digest(log.items),
        "log": digest(log.interactions),
        "another log": digest(small.sample(500, seed=3).interactions),
        "truth": digest(truth.round(6)),
        "lists": digest(lists.drop(columns="score")),
        "trial": digest(trial),
        "simulate": digest(simulate(50, 30, 1_000, seed=1).interactions),
    }
    assert found == DIGESTS


DIGESTS = {
    "users": "0bbc22ac20a9ce1b",
    "items": "8119fde0590b3a47",
    "log": "28f7e0080ce757fe",
    "another log": "7e4a186e23de016e",
    "truth": "6b3603b0dfe8692a",
    "lists": "b6464d8df4f5389b",
    "trial": "89c5147a0c325d90",
    "simulate": "5dafa22763122eb8",
}


def test_the_name_of_the_package_is_the_function():
    assert rn.simulate is simulate and rn.World is World and rn.Shop is Shop
    assert len(rn.simulate(20, 10, 50)) == 50


@pytest.mark.parametrize("name", ["n_users", "n_items", "n_interactions"])
@pytest.mark.parametrize(
    ("n", "kind", "message"),
    [
        (True, TypeError, "must be a whole number, not True"),
        (2.5, TypeError, "must be a whole number, not 2.5"),
        (0, ValueError, "is 0; it must be at least 1"),
    ],
)
def test_what_is_no_count(name, n, kind, message):
    with pytest.raises(kind, match=f"^{name} {message}"):
        simulate(**{name: n})


def test_counts_of_numpy():
    log = simulate(np.int64(20), np.uint8(10), np.int32(50))
    assert (len(log.users), len(log.items), len(log)) == (20, 10, 50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 0}, "slots is 0; it must be at least 1"),
        ({"ceiling": 1.0}, "ceiling must be above 0"),
        ({"ceiling": 0}, "ceiling must be above 0"),
        ({"click_rate": 0.4}, "click_rate must be between 0 and 0.36"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        ShopSettings(**settings)


def test_settings_reach_the_log():
    settings = ShopSettings(slots=3, click_rate=0.1)
    log = World(200, 80, seed=1, settings=settings).sample(20_000)
    assert log.interactions.position.max() == 3
    assert abs(log.labelled().label.mean() - 0.1) < 0.01


def test_users_and_items_do_not_depend_on_each_other(shop):
    pd.testing.assert_frame_equal(shop.items, Shop(7, 500, seed=0).items)
    pd.testing.assert_frame_equal(shop.users, Shop(1_000, 7, seed=0).users)
    assert shop.items.price[0] != Shop(7, 500, seed=1).items.price[0]
    columns = {"item_id", "category", "price", "popularity"}
    assert set(Shop(1, 1).items.columns) == columns


def test_a_page_shows_nothing_twice():
    assert mark_first(np.array([[7, 3, 7, 7], [1, 2, 3, 1]])).sum(1).tolist() == [2, 3]
    rows = np.random.default_rng(0).integers(0, 5, (100, 8))
    for row, first in zip(rows, mark_first(rows), strict=True):
        assert len(set(row[first])) == first.sum() == len(set(row))


def test_pages_are_as_the_policy_says():
    rng = np.random.default_rng(0)
    centres = draw_centres(rng)
    users, items = draw_users(5, rng), draw_items(200, rng)
    policy = LoggingPolicy(draw_traits(users, items, centres, rng, rng, rng), centres)
    propensity = policy.propensity(0, np.arange(200))
    assert propensity.min() > 0 and np.isclose(propensity.sum(), 1)
    page, item, position = draw_pages(policy, np.zeros(50_000, int), 8, rng)
    seen = pd.DataFrame({"page": page, "item": item, "position": position})
    assert not seen.duplicated(["page", "item"]).any()
    assert (seen.groupby("page").cumcount() + 1 == seen.position).all()
    shown = np.bincount(item, minlength=200) / 50_000
    expected = 1 - (1 - propensity) ** 8
    assert (np.abs(shown - expected) < 5 * np.sqrt(expected / 50_000)).all()


def test_the_oracle_agrees_with_itself(shop, oracle):
    ids = shop.users.user_id[:4].to_numpy()
    names = shop.items.item_id.to_numpy()
    table = oracle.click_probability(ids[:, None], names)
    assert table.shape == (4, 500)
    assert table.min() > 0 and table.max() * CLICK_SEASON.max() < 1
    pair = ("user_0", "item_7")
    fourth = oracle.click_probability(*pair, position=4)
    assert np.isclose(fourth, position_effect(4) * table[0, 7])
    night = "2024-03-02 22:10"
    at_night = oracle.click_probability(*pair, timestamp=night)
    assert np.isclose(at_night, season_effect(night) * table[0, 7])
    assert np.allclose(oracle.propensity(ids[:, None], names).sum(1), 1)
    best = oracle.ideal(ids, k=5)
    assert best["rank"].tolist() == [1, 2, 3, 4, 5] * 4
    top = -np.sort(-table)[:, :5]
    assert np.allclose(best.score.to_numpy().reshape(4, 5), top, atol=1e-5)
    in_pairs = oracle.click_probability(best.user_id, best.item_id)
    assert np.allclose(best.score, in_pairs, atol=1e-5)


def test_rows_and_best_columns(shop):
    assert find_rows(shop.users.user_id, [["user_1"], ["user_0"]]).tolist() == [
        [1],
        [0],
    ]
    columns, scores = find_best(np.array([[3.0, 5, 5, 1]]), 2)
    assert columns.tolist() == [[1, 2]] and scores.tolist() == [[5, 5]]


def test_ids_that_the_shop_does_not_have(oracle):
    message = (
        r"item_id 'item_500' is not in this shop \(1 such ids\); its ids are 'item_0' "
        "to 'item_499'"
    )
    with pytest.raises(UnknownIdError, match=message):
        oracle.click_probability("user_0", ["item_7", "item_500"])
    with pytest.raises(UnknownIdError, match="user_id 'Ann' is not in this shop"):
        oracle.probabilities("Ann")
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        oracle.ideal("user_0", k=0)


def test_exposures_follow_each_other(shop):
    rng = np.random.default_rng(0)
    seen = draw_exposures(shop, np.array([3, 4]), np.array([0, 60]), rng)
    mine = seen.user == 3
    assert seen.position[mine].tolist() == list(range(1, mine.sum() + 1))
    assert seen.second[~mine][0] == 60
    assert (np.diff(seen.second[mine]) == seen.dwell[mine][:-1]).all()
    twice = join_exposures([seen, seen]).take(np.arange(len(seen.user)))
    for name, values in vars(seen).items():
        assert (getattr(twice, name) == values).all(), name


def test_a_log_has_the_rows_that_were_asked_for():
    rng = np.random.default_rng(0)
    n_events = rng.choice([1, 2, 3, 4], 400, p=[0.75, 0.13, 0.07, 0.05])
    for n in range(1, n_events.sum() - 100):
        assert n_events[choose_exposures(n_events, n)].sum() == n
    for n in (1, 2, 3, 10, 1_001):
        assert len(World(50, 30, seed=3).sample(n)) == n
    assert len(World(1, 1).sample(20)) == 20
    with pytest.raises(ValueError, match="n_interactions is 0; it must be at least 1"):
        World(50, 30).sample(0)
    with pytest.raises(ValueError, match="n_items is -3; it must be at least 1"):
        simulate(n_items=-3)


def test_the_same_seed_draws_the_same_log(world):
    log = simulate(100, 50, 1_000)
    again = simulate(100, 50, 1_000)
    pd.testing.assert_frame_equal(log.interactions, again.interactions)
    pd.testing.assert_frame_equal(log.items, simulate(100, 50, 10).items)
    assert log.positive == ("click", "add_cart", "purchase")
    events = world.sample().interactions
    pd.testing.assert_frame_equal(World().sample().interactions, events)
    assert not world.sample(seed=1).interactions.equals(events)


def test_the_log_of_the_default_size(world):
    events = world.sample().interactions
    assert len(events) == 100_000
    assert list(events.event_type.value_counts().index) == list(EVENTS)
    assert events.item_id.nunique() > 0.95 * len(world.items)
    assert events.timestamp.is_monotonic_increasing
    assert events.position.between(1, world.shop.settings.slots).all()
    days = (events.timestamp.max() - events.timestamp.min()).days
    assert abs(days / 7 - LOG_HOURS / HOURS_PER_WEEK) < 1


def test_funnels_are_whole_and_rise_in_time(world):
    events = world.sample().interactions
    steps = events.groupby(["user_id", "item_id", "position", "event_type"])
    counts = steps.size().unstack(fill_value=0)[list(EVENTS)]
    assert (counts.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
    first = steps.timestamp.min().unstack()[list(EVENTS)]
    waits = first.diff(axis=1).iloc[:, 1:].stack().dropna()
    assert len(waits) and (waits > pd.Timedelta(0)).all()


def test_the_log_agrees_with_the_truth(world):
    shown = world.sample().labelled()
    pairs = (shown.user_id, shown.item_id)
    shown["truth"] = world.click_probability(*pairs, shown.position, shown.timestamp)
    deciles = shown.groupby(pd.qcut(shown.truth, 10), observed=True)
    found = deciles[["truth", "label"]].mean()
    assert np.allclose(found.label, found.truth, rtol=0, atol=0.02)
    assert abs(shown.label.mean() - world.shop.settings.click_rate) < 0.02


def test_lists_are_laid_out_by_rank(shop):
    frame = pd.DataFrame({"user_id": ["user_0", "user_0", "user_1"]})
    frame["item_id"] = ["item_3", "item_1", "item_4"]
    frame["rank"] = [2, 1, 1]
    rows = lay_out_lists(shop, frame, np.array([1, 0]), 2, "control")
    assert rows.tolist() == [[4, -1], [1, 3]]
    message = "control recommends nothing to 1 of its 3 users, e.g. 'user_2'"
    with pytest.raises(UnknownIdError, match=message):
        lay_out_lists(shop, frame, np.array([0, 1, 2]), 2, "control")
    with pytest.raises(MissingColumnError, match="no column 'rank'"):
        lay_out_lists(shop, frame.drop(columns="rank"), np.array([0]), 2, "control")


def test_an_experiment_follows_the_truth(world, popular):
    ids = world.users.user_id
    trial = world.experiment(popular, world.ideal(ids), n_users=4_000)
    assert sorted(trial.variant.value_counts()) == [2_000, 2_000]
    assert trial.user_id.nunique() == 4_000
    assert (trial.purchases <= trial.clicks).all()
    assert (trial.clicks <= trial.impressions).all()
    assert ((trial.revenue > 0) == (trial.purchases > 0)).all()
    control = trial[trial.variant == "control"]
    items = popular.item_id[:10].to_numpy()
    users = control.user_id.to_numpy()[:, None]
    chance = world.click_probability(users, items, np.arange(1, 11)).mean(1)
    expected = (chance * control.impressions).sum()
    assert abs(control.clicks.sum() / expected - 1) < 0.03


def test_a_recommender_is_an_arm(world, popular):
    class Perfect:
        def recommend(self, user_ids, k):
            return world.ideal(user_ids, k)

    ideal = world.ideal(world.users.user_id)
    once = world.experiment(popular, Perfect(), n_users=300, seed=7)
    again = world.experiment(popular, ideal, n_users=300, seed=7)
    pd.testing.assert_frame_equal(once, again)


def test_equal_arms_differ_by_chance_only(world, popular):
    arms = world.experiment(popular, popular, n_users=10_000).groupby("variant")
    rate = arms.clicks.sum() / arms.impressions.sum()
    assert abs(rate["treatment"] - rate["control"]) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_users": 20_000}, "n_users must be from 2 to the world's 10000"),
        ({"n_users": 1}, "n_users must be from 2 to the world's 10000, got 1"),
        ({"impressions": 20}, "impressions must be from 1 to k=10"),
        ({"sessions": 0.5}, "sessions must be at least 1, got 0.5"),
    ],
)
def test_experiments_that_cannot_be(world, popular, options, message):
    with pytest.raises(ValueError, match=message):
        world.experiment(popular, popular, **options)


def test_an_arm_without_lists(world, popular):
    with pytest.raises(UnknownIdError, match="treatment recommends nothing to"):
        world.experiment(popular, popular.head(10))
