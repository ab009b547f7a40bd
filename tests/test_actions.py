"""A ranker with a head for each action: order of the probabilities, expected value,
files, and the same lists out of an exported folder."""

import json

import numpy as np
import pandas as pd
import pytest

from recsys_nb.data import DataError, MissingColumnError, World, count_actions
from recsys_nb.evaluation import reliability
from recsys_nb.recommenders import EASE, Popularity, Recommender
from recsys_nb.recommenders.actions import ActionRanker, calibrate_step
from recsys_nb.recommenders.base import BaseRecommender
from recsys_nb.recommenders.explain import why
from recsys_nb.recommenders.two_stage import predict_actions, predict_shown
from recsys_nb.recommenders.values import ItemValueError

FUNNEL = ("click", "add_cart", "purchase")
VALUE = {"click": 1, "purchase": "price"}


@pytest.fixture(scope="module")
def world():
    return World(900, 150, seed=5)


@pytest.fixture(scope="module")
def log(world):
    return world.sample(40_000)


def make(log, **options):
    ranker = ActionRanker(actions=FUNNEL, **{"epochs": 2} | options)
    sources = {"EASE": EASE(l2=200.0), "Popularity": Popularity()}
    return Recommender(sources, ranker=ranker, answer="two stages").fit(log)


@pytest.fixture(scope="module")
def model(log):
    return make(log)


@pytest.fixture(scope="module")
def small(world):
    "A log for what does not ask how good a model is."
    return world.sample(12_000)


@pytest.fixture(scope="module")
def models(small, model):
    return {"platt": model, "isotonic": make(small, calibration="isotonic", epochs=1)}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    "Calibration -> the exported model."
    pytest.importorskip("onnxruntime")
    from recsys_nb.serving import export

    place = tmp_path_factory.mktemp("exported")
    return {name: export(model, place / name) for name, model in models.items()}


@pytest.fixture(scope="module")
def shown(world):
    return world.sample(15_000, seed=9)


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
def test_a_purchase_is_never_likelier_than_a_click(shown, models, calibration):
    model = models[calibration]
    chances = predict_actions(model, shown.labelled())
    assert list(chances) == list(FUNNEL)
    steps = chances.to_numpy()
    assert (np.diff(steps, axis=1) <= 0).all()
    assert (steps > 0).all() and (steps < 1).all()
    users = model.user_ids_[:30]
    scored = model.score(users, model.item_ids_[:20])
    assert list(scored) == ["user_id", "item_id", "score", *FUNNEL]
    assert (np.diff(scored[list(FUNNEL)].to_numpy(), axis=1) <= 0).all()


def test_every_head_is_calibrated_on_fresh_exposures(shown, model):
    steps = count_actions(shown, FUNNEL)
    examples = shown.labelled()
    chances = predict_actions(model, examples)
    for number, action in enumerate(FUNNEL):
        taken = (steps > number).astype(int)
        found = reliability(taken, chances[action], examples.user_id, n_boot=0)
        assert found["predicted"] == pytest.approx(found["observed"], rel=0.35)
        assert found["ece"] < 0.07


def test_the_first_action_is_what_one_head_predicts(shown, model):
    examples = shown.labelled().head(500)
    chances = predict_actions(model, examples)
    assert np.array_equal(chances["click"], predict_shown(model, examples))


def test_lists_are_ordered_by_expected_value(log, model):
    users = model.user_ids_[:40]
    lists = model.recommend(users, value=VALUE)
    lists = lists[lists.source != "popular"]
    price = log.items.set_index("item_id").price
    scored = model.score(None, lists[["user_id", "item_id"]])
    worth = scored.click + scored.purchase * scored.item_id.map(price)
    assert np.allclose(worth, lists.score.to_numpy(), rtol=1e-5)
    assert (lists.groupby("user_id").score.diff().dropna() <= 0).all()
    plain = model.recommend(users)
    assert not plain.item_id.equals(model.recommend(users, value=VALUE).item_id)


def test_a_value_of_clicks_alone_weighs_nothing_else(model):
    users = model.user_ids_[:40]
    lists = model.recommend(users, value={"click": 5.0})
    lists = lists[lists.source != "popular"]
    scored = model.score(None, lists[["user_id", "item_id"]])
    assert np.allclose(5 * scored.click, lists.score.to_numpy(), rtol=1e-5)


def test_lists_are_worth_more_by_the_truth(world, model):
    users = model.user_ids_[np.diff(model.histories_.offsets) > 0]
    price = world.items.set_index("item_id").price

    def worth(lists):
        rows = world.users.set_index("user_id").index.get_indexer(lists.user_id)
        items = price.index.get_indexer(lists.item_id)
        ones = np.ones(len(lists))
        chances = world.shop.click_model.chances(rows, items, ones)
        values = chances[0] + chances.prod(0) * price.to_numpy()[items]
        return pd.Series(values).groupby(lists.user_id.to_numpy()).sum()

    gain = worth(model.recommend(users, value=VALUE)) - worth(model.recommend(users))
    error = gain.std() / np.sqrt(len(gain))
    assert gain.mean() - 3 * error > 0


def test_rules_hold_under_a_value(log, model):
    users, cheap = model.user_ids_[:20], {"price": (None, 40)}
    lists = model.recommend(users, value=VALUE, where=cheap, k=5)
    price = log.items.set_index("item_id").price
    assert (lists.item_id.map(price) <= 40).all()
    assert (lists.groupby("user_id").size() == 5).all()
    again = model.recommend(users, value=VALUE, exclude_seen=False)
    assert (again.groupby("user_id").size() == 10).all()


def test_what_cannot_be_valued_is_named(log, model):
    with pytest.raises(ItemValueError, match="'buy'.*click, add_cart, purchase"):
        model.recommend(value={"buy": 1})
    with pytest.raises(MissingColumnError, match="'cost'"):
        model.recommend(value={"purchase": "cost"})
    with pytest.raises(ItemValueError, match="holds text"):
        model.recommend(value={"purchase": "category"})
    with pytest.raises(ItemValueError, match="give a number"):
        model.recommend(value={"purchase": np.inf})
    with pytest.raises(ItemValueError, match="maps actions"):
        model.recommend(value={})
    with pytest.raises(DataError, match="Popularity orders items.*actions"):
        Popularity().fit(log.positives()).recommend(value=VALUE)
    with pytest.raises(ValueError, match="one head"):
        Recommender(ranker="logistic", actions=FUNNEL)
    with pytest.raises(DataError, match="no event 'buy'"):
        Recommender([Popularity()], actions=["buy"]).fit(log)


def test_an_item_without_a_price_is_named_or_left_out(small):
    items = small.items.copy()
    items.loc[3, "price"] = np.nan
    holes = small.replace(small.interactions)
    holes.items = items
    model = make(holes, epochs=1)
    users = model.user_ids_[:20]
    missing = items.item_id[3]
    with pytest.raises(ItemValueError, match=f"'{missing}'.*price.*1 such"):
        model.recommend(users, value=VALUE)
    priced = model.recommend(users, value=VALUE, where={"price": (0, None)})
    assert len(priced) == 200 and missing not in set(priced.item_id)
    assert len(model.recommend(users, value={"click": 1})) == 200


def test_a_saved_model_gives_the_same_lists(model, tmp_path):
    model.save(tmp_path / "model")
    again = BaseRecommender.load(tmp_path / "model")
    users = model.user_ids_[:50]
    for value in (None, VALUE):
        pd.testing.assert_frame_equal(
            again.recommend(users, value=value), model.recommend(users, value=value)
        )
    assert again.actions_ == FUNNEL


def test_an_explanation_is_of_the_first_action(model):
    known = model.user_ids_[np.diff(model.histories_.offsets) > 2]
    lists = model.recommend(known[:1])
    found = why(model, known[0], lists.item_id[0])
    assert np.isfinite(found.to_frame().select_dtypes("number")).all(axis=None)
    assert found.score == pytest.approx(lists.score[0], abs=1e-4)


def test_a_step_that_orders_nothing_gets_its_share():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=2000)
    label = rng.random(2000) < 1 / (1 + np.exp(logits))  # the wrong way round
    curve = calibrate_step("platt", label, logits)
    assert np.allclose(curve.transform([0.1, 0.9]), label.mean())
    few = calibrate_step("platt", np.arange(2000) < 3, logits)
    assert np.allclose(few.transform([0.1, 0.9]), [0.1, 0.9])
    right = rng.random(2000) < 1 / (1 + np.exp(1 - 2 * logits))
    curve = calibrate_step("platt", right, logits)
    assert curve.a == pytest.approx(2, abs=0.3)
    assert curve.b == pytest.approx(-1, abs=0.2)


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
def test_an_exported_folder_gives_the_same_lists(models, folders, calibration):
    from recsys_nb.serving import Exported
    from recsys_nb.serving.files import QuestionError

    model, folder = models[calibration], folders[calibration]
    exported = Exported(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["answer"]["actions"] == list(FUNNEL)
    questions = [
        {},
        {"value": VALUE},
        {"value": {"purchase": 1}, "exclude_seen": False},
        {"value": VALUE, "where": {"price": (10, 60)}},
    ]
    users = model.user_ids_[:25]
    for question in questions:
        lists = model.recommend(users, **question)
        for user, expected in lists.groupby("user_id"):
            answer = pd.DataFrame(exported.recommend(user, **question)["items"])
            assert answer.item_id.tolist() == expected.item_id.tolist()
            assert np.allclose(answer.score, expected.score, rtol=1e-3, atol=1e-4)
    with pytest.raises(QuestionError, match="'buy'"):
        exported.recommend(users[0], value={"buy": 1})
    with pytest.raises(QuestionError, match="no column of numbers"):
        exported.recommend(users[0], value={"purchase": "category"})


def test_a_log_without_positions_is_calibrated_too(small, shown):
    bare = small.replace(small.interactions.drop(columns="position"))
    model = make(bare, epochs=1)
    assert "position" not in model.ranker_.features_.usual
    examples = shown.labelled().drop(columns="position")
    taken = (count_actions(shown, FUNNEL) > 0).mean()
    chances = predict_actions(model, examples)["click"]
    assert chances.mean() == pytest.approx(taken, rel=0.35)


def test_values_over_http(model, folders, log, tmp_path):
    from fastapi.testclient import TestClient

    from recsys_nb.serving import Exported, export
    from recsys_nb.serving.http import create_app

    folder = folders["platt"]
    user = model.user_ids_[0]
    want = Exported(folder).recommend(user, value=VALUE)["items"]
    question = {"user_id": user, "value": VALUE}
    with TestClient(create_app(folder)) as client:
        answer = client.post("/recommend", json=question)
        assert answer.status_code == 200
        assert answer.json()["items"] == want
        wrong = client.post("/recommend", json=question | {"value": {"share": 1}})
        assert wrong.status_code == 422
    plain = export(EASE().fit(log.positives()), tmp_path / "plain")
    with TestClient(create_app(plain)) as client:
        assert client.post("/recommend", json=question).status_code == 422


def test_lists_for_everyone_take_values(model, folders, tmp_path, capsys):
    from recsys_nb.cli import main
    from recsys_nb.serving import Exported

    folder = folders["platt"]
    words = ["recommend", "--model", str(folder), "--users", "all", "--k", "5"]
    words += ["--value", "click=1,purchase=price", "--out", str(tmp_path / "lists")]
    assert main(words) == 0
    lists = pd.read_parquet(tmp_path / "lists")
    exported = Exported(folder)
    value = {"click": 1, "purchase": "price"}
    for user in model.user_ids_[:10]:
        answer = exported.recommend(user, k=5, value=value)["items"]
        found = lists[lists.user_id == user].sort_values("rank")
        assert found.item_id.tolist() == [item["item_id"] for item in answer]
    assert main([*words[:-3], "buy=1", "--out", str(tmp_path / "none")]) != 0
    assert "'buy'" in capsys.readouterr().err
