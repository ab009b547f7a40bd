"Columns of vectors: read, refused, encoded, learnt from, saved and exported."

import argparse
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_nb.data import DataError, Dataset, World
from recsys_nb.features import FeatureEncoder
from recsys_nb.models import DLRM, DLRMConfig
from recsys_nb.options import add_data
from recsys_nb.recommenders import DLRMRanker, Recommender, TwoTowerRetriever
from recsys_nb.recommenders.base import BaseRecommender
from recsys_nb.recommenders.baselines import Popularity
from recsys_nb.recommenders.columns import (
    ROLES,
    ColumnLimits,
    guess_roles,
)
from recsys_nb.recommenders.continuing import rescale_vectors
from recsys_nb.recommenders.explain import group_inputs
from recsys_nb.recommenders.feature_tables import FeatureTable
from recsys_nb.recommenders.ranker import RANKERS
from recsys_nb.serving.networks import describe_ranker, describe_tower, write_network

QUICK = "--quick --no-ranker --baselines Popularity".split()
SMALL = {"dim": 8, "epochs": 2, "profile": "sparse", "valid_positives": 100}


def make_log(n_users=200, n_items=80, n_events=4_000, seed=1):
    "A small shop whose items and users have vectors."
    world = World(n_users=n_users, n_items=n_items, seed=seed)
    log = world.sample(n_events)
    traits = world.shop.traits
    log.items = log.items.assign(emb=list(traits.vectors.astype(np.float32)))
    log.users = log.users.assign(taste=list(traits.tastes.astype(np.float32)))
    return log


@pytest.fixture(scope="module")
def log():
    return make_log()


@pytest.fixture(scope="module")
def retriever(log):
    return TwoTowerRetriever(**SMALL).fit(log.positives())


def table_of(vectors, **roles):
    "A feature table of vectors."
    frame = pd.DataFrame({"item_id": range(len(vectors))})
    frame["emb"] = pd.Series(vectors, dtype=getattr(vectors, "dtype", object))
    n = len(frame)
    return FeatureTable(frame, "item_id", torch.arange(n), n, roles or None)


# what may stand in a cell, or how a column may be stored
FORMS = {
    "lists": lambda array: [row.tolist() for row in array],
    "tuples": lambda array: [tuple(row.tolist()) for row in array],
    "rows of an array": list,
    "half precision": lambda array: list(array.astype(np.float16)),
    "arrow lists": lambda array: pd.Series(
        [row.tolist() for row in array], dtype=pd.ArrowDtype(pa.list_(pa.float32()))
    ),
    "arrow lists of fixed size": lambda array: pd.Series(
        [row.tolist() for row in array],
        dtype=pd.ArrowDtype(pa.list_(pa.float32(), array.shape[1])),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_block(form):
    array = (np.arange(60).reshape(12, 5) % 7 / 4).astype(np.float32)
    table = table_of(FORMS[form](array))
    assert table.columns.role.tolist() == ["vector"]
    assert (table.dense.dtype, tuple(table.dense.shape)) == (torch.float32, (12, 6))
    assert torch.equal(table.dense, table_of(list(array)).dense)


def test_files_hold_vectors(tmp_path):
    array = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(array.ravel(), 4)
    table = pa.table({"item_id": range(9), "emb": fixed})
    pq.write_table(table, tmp_path / "items.parquet")
    frame = pd.read_parquet(tmp_path / "items.parquet")
    read = FeatureTable(frame, "item_id", torch.arange(9), 9)
    assert torch.equal(read.dense, table_of(list(array)).dense)


@given(
    n_rows=st.integers(1, 40),
    length=st.integers(1, 20),
    missing=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_blocks_have_the_shape_of_the_vectors(n_rows, length, missing, seed):
    rng = np.random.default_rng(seed)
    array = rng.normal(3, 2, (n_rows, length)).astype(np.float32)
    known = rng.random(n_rows) >= missing
    column = [row if there else None for row, there in zip(array, known, strict=True)]
    frame = pd.DataFrame({"emb": pd.Series(column, dtype=object)})
    encoder = FeatureEncoder(vector=["emb"]).fit(frame)
    dense = encoder.transform(frame).dense
    width = length if known.any() else 0
    assert tuple(dense.shape) == (n_rows, 1 + width)
    assert dense.dtype == torch.float32
    assert dense.isfinite().all()
    assert (dense[:, 0].numpy() == known).all()
    assert not dense[~torch.from_numpy(known)].any()
    if width and known.sum() > 1:
        # one length on average, and differences keep their directions
        block = dense[torch.from_numpy(known), 1:].numpy()
        assert np.square(block).sum(1).mean() == pytest.approx(1, rel=1e-3)
        before, after = array[known][0] - array[known][1], block[0] - block[1]
        lengths = np.linalg.norm(before) * np.linalg.norm(after)
        assert before @ after == pytest.approx(lengths, rel=1e-3)


@pytest.mark.parametrize(
    "cell, why",
    [
        ([0.1, 0.2], "has 2 numbers, not 3 as row 0"),
        ([0.1, float("nan"), 0.3], "missing (NaN) at place 1"),
        ([0.1, None, 0.3], "missing (NaN) at place 1"),
        ([0.1, 0.2, float("inf")], "infinite at place 2"),
        ([0.1, 0.2, 1e300], "infinite at place 2"),
        ("0.1 0.2 0.3", "holds no list of numbers"),
        ([], "has 0 numbers"),
    ],
)
def test_a_row_that_does_not_fit_is_named(cell, why):
    vectors = [[0.1, 0.2, 0.3], None, cell, [0.3, 0.2, 0.1]]
    frame = pd.DataFrame({"item_id": ["a", "b", "c", "d"], "emb": vectors})
    with pytest.raises(DataError, match=re.escape(why)) as error:
        FeatureTable(frame, "item_id", torch.arange(4), 4, {"emb": "vector"})
    assert "row 2 (item_id 'c')" in str(error.value)
    assert "roles={'emb': 'ignore'}" in str(error.value)
    # a guess leaves the column out instead, and says why
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        guess = guess_roles(frame, "item_id")
    assert guess.role.tolist() == ["ignore"]
    assert "row 2" in guess.why[0] or "type" in guess.why[0]
    assert any("'emb' is left out" in str(w.message) for w in caught)


def test_roles_are_guessed_by_what_lists_hold():
    n = 30
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"item_id": range(n)})
    frame["floats"] = list(rng.normal(size=(n, 3)))
    frame["counts"] = list(rng.integers(0, 9, (n, 12)))
    frame["tags"] = [["a", "b"][: 1 + i % 2] for i in range(n)]
    frame["codes"] = [[i % 3, 5] for i in range(n)]
    guess = guess_roles(frame, "item_id").set_index("column").role
    assert guess.to_dict() == {
        "floats": "vector",
        "counts": "vector",
        "tags": "tags",
        "codes": "tags",
    }


def test_memory_is_bounded_and_said():
    vectors = list(np.random.default_rng(0).normal(size=(500, 100)))
    frame = pd.DataFrame({"item_id": range(500), "emb": vectors})
    small = ColumnLimits(max_gib=500 * 8 * 25 / 2**30)
    with pytest.warns(UserWarning, match="projected to 25 numbers"):
        table = FeatureTable(frame, "item_id", torch.arange(500), 500, limits=small)
    assert table.dense.shape == (500, 26)
    narrow = ColumnLimits(vector_width=16)
    table = FeatureTable(frame, "item_id", torch.arange(500), 500, limits=narrow)
    assert table.dense.shape == (500, 17)
    assert table.vector_blocks == [(1, 17)]


def test_an_encoder_is_the_same_after_loading(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"emb": list(rng.normal(size=(50, 40))), "n": range(50)})
    encoder = FeatureEncoder(numeric=["n"], vector={"emb": 8}).fit(frame)
    encoder.save(tmp_path)
    again = FeatureEncoder.load(tmp_path)
    assert again.vector_blocks == {"emb": (2, 10)}
    assert torch.equal(again.transform(frame).dense, encoder.transform(frame).dense)


def test_a_dlrm_projects_vectors_and_multiplies_them():
    torch.manual_seed(0)
    shape = {
        "sparse_cardinalities": [5, 7],
        "sparse_embedding_dim": 4,
        "num_dense_features": 9,
        "bottom_mlp_dims": (8, 4),
        "top_mlp_dims": (6, 1),
    }
    dense, sparse = torch.randn(3, 9), torch.randint(0, 5, (3, 2))
    config = DLRMConfig(**shape, vector_blocks=[(2, 5), (6, 9)])
    model = DLRM(config)
    assert (config.num_vectors, config.number_columns) == (5, [0, 1, 5])
    assert [tuple(p.weight.shape) for p in model.projections] == [(4, 3), (4, 3)]
    assert DLRMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    logits = model(dense, sparse)
    moved = dense.clone()
    moved[:, 3] += 1
    assert not torch.allclose(model(moved, sparse), logits)
    logits.sum().backward()
    assert all(p.weight.grad.abs().sum() > 0 for p in model.projections)
    # vectors alone
    alone = DLRMConfig(
        num_dense_features=6,
        vector_blocks=[(0, 3), (3, 6)],
        sparse_embedding_dim=4,
        top_mlp_dims=(1,),
    )
    assert DLRM(alone)(torch.randn(2, 6)).shape == (2,)
    for blocks in ([(0, 3), (2, 5)], [(3, 3)], [(5, 10)]):
        with pytest.raises(ValueError, match="vector_blocks"):
            DLRMConfig(**shape, vector_blocks=blocks)


def test_a_model_reads_vectors_of_both_sides(retriever):
    config = retriever.model_.config
    assert config.num_item_dense == 1 + 8
    assert config.num_user_dense == 1 + 8
    assert retriever.settings_.id_dropout > 0
    roles = retriever.item_features_.columns.set_index("column").role
    assert roles["emb"] == "vector"


def test_shuffled_rows_give_the_same_model(log):
    train = log.positives()
    shuffled = train.replace(train.interactions.sample(frac=1, random_state=0))
    first, second = (
        TwoTowerRetriever(**SMALL).fit(part).item_vectors_ for part in (train, shuffled)
    )
    assert np.array_equal(first, second)


def test_an_ignored_vector_gives_the_model_without_it(log):
    train = log.positives()
    roles = {"emb": "ignore", "taste": "ignore"}
    tables = {"users": train.users, "items": train.items}
    ignored = Dataset(train.interactions, **tables, roles=roles)
    without = train.replace(train.interactions)
    without.items = train.items.drop(columns="emb")
    without.users = train.users.drop(columns="taste")
    one, other = (TwoTowerRetriever(**SMALL).fit(part) for part in (ignored, without))
    assert np.array_equal(one.item_vectors_, other.item_vectors_)
    assert one.settings_ == other.settings_


def test_new_items_are_found_by_their_vectors():
    log = make_log(400, 150, 16_000, seed=3).positives()
    log.users = log.users.drop(columns="taste")
    events = log.interactions
    rng = np.random.default_rng(0)
    new = rng.permutation(np.sort(log.item_ids))[:30]
    known = log.replace(events[~events.item_id.isin(new)])
    truth = events[events.item_id.isin(new)]
    users = truth.user_id[truth.user_id.isin(known.interactions.user_id)].unique()
    pairs = truth[["user_id", "item_id"]].drop_duplicates()
    hits = {}
    for name in ("vectors", "ids"):
        part = known.replace(known.interactions)
        part.items = log.items[["item_id", "emb"] if name == "vectors" else ["item_id"]]
        model = TwoTowerRetriever(dim=16, epochs=8, profile="noisy").fit(part)
        lists = model.recommend(users, k=5, candidates=new)
        hits[name] = len(lists.merge(pairs, on=["user_id", "item_id"]))
        if name == "vectors":
            anything = model.recommend(users, k=10)
            assert anything.item_id.isin(new).any()
    assert hits["vectors"] > 1.5 * hits["ids"]


def test_features_stand_for_ids_that_were_never_learnt(log):
    events = log.positives().interactions
    new = log.item_ids[:10]
    known = log.replace(events[~events.item_id.isin(new)])
    twins = known.items.copy()
    twins["emb"] = twins.emb.where(~twins.item_id.isin(new[:2]), None)
    same = twins.emb[twins.item_id == new[5]].iloc[0]
    twins.loc[twins.item_id == new[6], "emb"] = pd.Series([same], index=[6])
    known.items = twins[["item_id", "emb"]]
    model = TwoTowerRetriever(**SMALL).fit(known)
    vectors = model.item_vectors_
    np.testing.assert_allclose(vectors[5], vectors[6], atol=1e-6)  # the same vector
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)  # none at all
    assert not np.allclose(vectors[5], vectors[7])
    tower = model.model_.item_tower
    rows = tower.table.weight[:10]  # where a history reads them
    expected = tower.dense(model.item_features_.dense[:10])
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(rows[5], rows[6])
    assert not torch.allclose(rows[5], rows[7])


def test_loaded_models_answer_as_before(log, retriever, tmp_path):
    retriever.save(tmp_path / "retriever")
    again = BaseRecommender.load(tmp_path / "retriever")
    pd.testing.assert_frame_equal(again.recommend(k=5), retriever.recommend(k=5))
    both = Recommender([Popularity(), retriever.fresh()], ranker="dlrm")
    both.answer = "two stages"
    both.fit(log)
    both.save(tmp_path / "both")
    loaded = BaseRecommender.load(tmp_path / "both")
    pd.testing.assert_frame_equal(loaded.recommend(k=5), both.recommend(k=5))


@pytest.mark.parametrize("name", ["dlrm", "logistic", "boosted"])
def test_rankers_read_vectors_and_are_exported(name, log, retriever, tmp_path):
    changes = {"dlrm": {"epochs": 1}, "boosted": {"trees": 10}}.get(name, {})
    ranker = RANKERS[name](candidates=20, **changes).fit(log, retriever)
    features = ranker.features_
    assert len(features.vector_blocks) == 2
    for start, stop in features.vector_blocks:
        scales = features.scale_[start:stop]
        assert torch.allclose(scales, scales[0].expand_as(scales))
    if isinstance(ranker, DLRMRanker):
        assert len(ranker.model_.projections) == 2
        assert ranker.model_.config.vector_blocks == tuple(features.vector_blocks)
    names, groups = group_inputs(features)
    assert len(groups[0]) == len(features.mean_)
    assert "item: emb" in names and "user: taste" in names
    rng = np.random.default_rng(0)
    pytest.importorskip("onnxruntime")
    made = write_network(describe_ranker(ranker, rng), tmp_path)
    assert made["largest_difference_to_torch"] < 1e-4
    settings, arrays = ranker.state()
    state = json.loads(json.dumps(settings)), arrays
    again = type(ranker).from_state(*state, retriever.catalogue_)
    pairs = log.interactions[["user_id", "item_id"]][:50]
    again.retriever_ = retriever
    np.testing.assert_array_equal(again.predict(pairs), ranker.predict(pairs))


def test_a_user_tower_with_vectors_is_exported(retriever, tmp_path):
    pytest.importorskip("onnxruntime")
    network = describe_tower(retriever, np.random.default_rng(0))
    made = write_network(network, tmp_path)
    assert made["inputs"]["dense"]["shape"] == ["batch", 9]
    assert made["largest_difference_to_torch"] < 1e-4


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_run_takes_the_roles(ending, tmp_path, monkeypatch, say):
    log = make_log(150, 60, 4_000)
    write = {
        "parquet": lambda frame, path: frame.to_parquet(path),
        "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    }[ending]
    items = log.items.assign(title=[f"thing {n}" for n in range(60)])
    log.positives().interactions.to_csv(tmp_path / "log.csv", index=False)
    write(items, tmp_path / f"items.{ending}")
    monkeypatch.chdir(tmp_path)
    words = ["--data", "log.csv", "--items", f"items.{ending}", "--out", "out"]
    words += ["--roles", "emb=vector,title=ignore", "--epochs", "1"]
    status, said, notes = say("run", *words, *QUICK)
    assert status == 0, notes[-2000:]
    assert "emb=vector" in said
    assert "title=ignore" in said
    folder = next(Path(tmp_path / "out").rglob("recommender.json"))
    assert BaseRecommender.load(folder.parent).items_.attrs["roles"]["emb"] == "vector"


def test_the_flag_names_every_role():

    parser = argparse.ArgumentParser()
    add_data(parser)
    text = parser.format_help()
    assert all(role in text for role in ROLES)


@pytest.mark.parametrize("length", [6, 200])
def test_training_goes_on_where_mean_and_scale_have_moved(length):
    rng = np.random.default_rng(0)
    early = pd.DataFrame({"emb": list(rng.normal(1, 1, (30, length)))})
    late = pd.DataFrame({"emb": list(rng.normal(3, 2, (40, length)))})
    both = pd.concat([early, late], ignore_index=True)
    roles = {"emb": 16} if length > 16 else ["emb"]
    old = FeatureEncoder(vector=roles).fit(early)
    new = FeatureEncoder(vector=roles).fit(both)
    weight = torch.randn(4, len(old.dense_names))
    expected = old.transform(both).dense @ weight.T
    rescale_vectors(weight, new, old)
    found = new.transform(both).dense @ weight.T
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    shorter = FeatureEncoder(vector=["emb"]).fit(
        pd.DataFrame({"emb": list(rng.normal(size=(9, 3)))})
    )
    weight = torch.randn(4, 4)
    rescale_vectors(weight, shorter, old)
    assert not weight.any()


def test_a_dataset_notes_the_roles():
    frame = pd.DataFrame({"u": ["a", "b", "a"], "i": [1, 2, 2]})
    items = pd.DataFrame({"i": [1, 2], "emb": [[0.1, 0.2], [0.3, 0.4]]})
    names = {"user": "u", "item": "i", "items": items}
    log = Dataset.from_frame(frame, **names, roles={"emb": "ignore"})
    assert log.items.attrs["roles"] == {"emb": "ignore"}
    assert "roles" not in items.attrs
    assert log.positives().items.attrs == log.items.attrs
    assert guess_roles(log.items, "item_id").role.tolist() == ["ignore"]
    with pytest.raises(DataError, match="roles names column 'embb'"):
        Dataset.from_frame(frame, **names, roles={"embb": "ignore"})
