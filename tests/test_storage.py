"Every recommender answers after loading as before saving; a damaged folder is refused."

import datetime
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from recsys_nb.data import DataError, Dataset, simulate
from recsys_nb.recommenders.base import BaseRecommender
from recsys_nb.recommenders.baselines import EASE, ItemKNN, Popularity, Repeats
from recsys_nb.recommenders.factors import ALS, BPR
from recsys_nb.recommenders.retriever import TwoTowerRetriever
from recsys_nb.recommenders.two_stage import Recommender

MODELS = {
    "popularity": lambda: Popularity(trend_half_life=5.0),
    "item-kNN": lambda: ItemKNN(neighbours=20),
    "EASE": lambda: EASE(l2=50.0),
    "sparse EASE": lambda: EASE(neighbours=10),
    "ALS": lambda: ALS(factors=8),
    "BPR": lambda: BPR(factors=8, iterations=5),
    "repeats": lambda: Repeats(),
    "two-tower": lambda: TwoTowerRetriever(dim=8, epochs=1, profile="sparse"),
    "blend": lambda: Recommender([Popularity(), EASE()], ranker=None, answer="blend"),
    "two stages": lambda: Recommender(
        [Popularity(), EASE()], ranker="dlrm", answer="two stages"
    ),
}


@pytest.fixture(scope="module")
def log():
    return simulate(n_users=300, n_items=80, n_interactions=6_000, seed=1)


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_answers_as_the_saved_one(name, log, tmp_path):
    if name in ("ALS", "BPR"):
        pytest.importorskip("implicit")
    model = MODELS[name]()
    model.fit(log if isinstance(model, Recommender) else log.positives())
    folder = model.save(tmp_path / "model")
    back = BaseRecommender.load(folder)
    assert type(back) is type(model)
    new = pd.DataFrame({"user_id": "new", "item_id": log.item_ids[:3]})
    questions = [
        {"user_ids": log.user_ids[:50], "k": 7},
        {"events": new},
        {"user_ids": log.user_ids[:9], "exclude_seen": False},
        {"user_ids": log.user_ids[:9], "candidates": log.item_ids[5:30]},
    ]
    for question in questions:
        ours, theirs = model.recommend(**question), back.recommend(**question)
        pd.testing.assert_frame_equal(ours, theirs)
    suffixes = {path.suffix for path in folder.iterdir()}
    assert suffixes == {".json", ".parquet", ".safetensors"}


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("harm", [change_a_byte, remove])
@pytest.mark.parametrize("name", ["arrays.safetensors", "item_ids.parquet"])
def test_a_damaged_folder_is_refused(name, harm, log, tmp_path):
    folder = EASE().fit(log.positives()).save(tmp_path / "model")
    harm(folder / name)
    with pytest.raises(DataError, match=name):
        BaseRecommender.load(folder)


@pytest.mark.parametrize("part", ["class", "settings", "catalogue", "files", None])
def test_a_description_that_lacks_a_part_is_damaged(part, log, tmp_path):
    folder = tmp_path / "model"
    Popularity().fit(log).save(folder)
    about = json.loads((folder / "recommender.json").read_text())
    left = {name: value for name, value in about.items() if name != part}
    (folder / "recommender.json").write_text(json.dumps(left if part else [left]))
    with pytest.raises(DataError, match="recommender.json is damaged"):
        BaseRecommender.load(folder)


CELLS = {
    "numbers and text": [1, "a", None],
    "objects and text": [{"x": 1}, "a"],
    "empty objects": [{}],
    "lists of several types": [[1], ["a"]],
    "tuples": [(1, "a")],
    "days and text": [datetime.date(2024, 1, 1), "a"],
    "complex": [1j],
    "long": [2**80, 3],
    "intervals": [pd.Interval(0, 1), pd.Interval(1, 2)],
}


@pytest.mark.filterwarnings("ignore:column 'x' is left out")
@pytest.mark.parametrize("role", [None, "category", "ignore"])
@pytest.mark.parametrize("cells", CELLS)
def test_any_column_of_a_table_can_be_saved(cells, role, log, tmp_path):
    ids = log.positives().item_ids
    cells = [CELLS[cells][row % len(CELLS[cells])] for row in range(len(ids))]
    items = pd.DataFrame({"item_id": ids, "x": pd.Series(cells, dtype=object)})
    columns = ["user_id", "item_id", "timestamp"]
    frame = log.positives().interactions[columns]
    made = Dataset.from_frame(frame, items=items, timestamp="timestamp")
    made.items.attrs["roles"] = {"x": role} if role else {}
    model = TwoTowerRetriever(epochs=1).fit(made)
    back = BaseRecommender.load(model.save(tmp_path / "model"))
    users = made.user_ids[:9]
    pd.testing.assert_frame_equal(model.recommend(users), back.recommend(users))


def test_another_class_is_refused(log, tmp_path):
    folder = EASE().fit(log.positives()).save(tmp_path / "model")
    with pytest.raises(DataError, match="no ItemKNN here"):
        ItemKNN.load(folder)
    about = json.loads((folder / "recommender.json").read_text())
    about["class"] = "os.system"
    (folder / "recommender.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"holds a os\.system"):
        BaseRecommender.load(folder)


@pytest.mark.parametrize("room", ["baselines", "elsewhere"])
def test_a_model_is_read_after_its_class_has_moved(room, log, tmp_path):
    "A class is found by its name in its part, in whichever module it stands."
    made = ALS(factors=4, iterations=2).fit(log.positives())
    folder = made.save(tmp_path / "model")
    about = json.loads((folder / "recommender.json").read_text())
    about["class"] = f"recsys_nb.recommenders.{room}.ALS"
    (folder / "recommender.json").write_text(json.dumps(about))
    back = BaseRecommender.load(folder)
    assert isinstance(back, ALS)
    users = log.user_ids[:9]
    pd.testing.assert_frame_equal(back.recommend(users), made.recommend(users))


def test_a_failed_save_leaves_what_was_there(log, tmp_path, monkeypatch):
    model = EASE().fit(log.positives())
    folder = model.save(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr("recsys_nb.recommenders.storage.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        model.save(folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_moved_folder_is_the_same_model(log, tmp_path):
    model = ItemKNN().fit(log.positives())
    shutil.move(model.save(tmp_path / "here"), tmp_path / "there")
    back = ItemKNN.load(tmp_path / "there")
    np.testing.assert_array_equal(back.weights_.toarray(), model.weights_.toarray())
