"""What a user writes, for the checker of types (.ci/type_errors.py): it is read, and
never run."""

from pathlib import Path

import numpy as np
import pandas as pd

import recsys_nb as rn
from recsys_nb.data import Dataset, split_by_time, split_by_user
from recsys_nb.evaluation import (
    compare,
    compute_metrics,
    evaluate,
    ranker_metrics,
    reliability,
)
from recsys_nb.experiments import analyze, power, two_proportion_test
from recsys_nb.models.dlrm import DLRM, DLRMConfig
from recsys_nb.models.two_tower import TwoTowerConfig, TwoTowerModel
from recsys_nb.recommenders import (
    EASE,
    DLRMRanker,
    ItemKNN,
    Popularity,
    Recommender,
    TwoTowerRetriever,
)


def first_hit(evidence, k: int) -> np.ndarray:
    "A metric of one's own."
    return evidence.sum_hits(k) > 0


def read(path: Path) -> Dataset:
    frame = pd.read_csv(path)
    items = pd.DataFrame({"item_id": frame["item"].unique()})
    log = Dataset.from_frame(frame, user="user", item="item", items=items)
    assert len(log) == len(frame)
    return rn.load(path, positive=["buy"])


def fit(log: Dataset, folder: Path) -> None:
    train, test = split_by_time(log, test=0.2)
    strangers, _ = split_by_user(log, seed=1)
    truth = test.positives().interactions
    lists = {}
    for model in (Popularity(), ItemKNN(), EASE(), TwoTowerRetriever(seed=1)):
        lists[repr(model)] = model.fit(train).recommend(k=10)
    product = Recommender(candidates=50, seed=0).fit(train)
    frame = product.recommend(truth["user_id"].unique(), k=10, exclude_seen=False)
    report = evaluate(frame, truth, k=(5, 10), metrics=["ndcg", first_hit])
    other = evaluate(lists.popitem()[1], test, k=10, name="baseline")
    print(report, report["ndcg@10"] + 1, report.to_frame().head(), len(strangers))
    print(compare(other, report), product.summary())
    product.save(folder / "model")
    again = Recommender.load(folder / "model")
    again.recommend(events=truth.head(3), candidates=truth["item_id"].unique())
    DLRMRanker(seed=0).fit(train, TwoTowerRetriever().fit(train)).predict(truth)


def judge_ranker(labels: np.ndarray, chances: pd.Series, users: pd.Series) -> float:
    report = ranker_metrics(labels, chances, users)
    print(reliability(labels, chances.to_numpy(), user_ids=users), report)
    return compute_metrics([0, 1, 1], labels, k=3)["auc"] + report["auc"]


def draw(vectors: np.ndarray, frame: pd.DataFrame) -> None:
    drawn = rn.tsne_map(vectors, ids=frame["item_id"], labels=frame["category"])
    print(drawn.alt_text())


def experiment(rows: pd.DataFrame) -> float:
    test = two_proportion_test(1_250, 50_000, 1_400, 50_000, alpha=0.05)
    found = analyze(rows, metrics={"ctr": "clicks/impressions"}, control="a")
    plan = power(baseline=0.025, mde=0.05)
    print(found.to_frame(), plan)
    return test.p_value + test.lift


def models() -> None:
    towers = TwoTowerModel(
        TwoTowerConfig(
            user_categorical_cardinalities=[100, 3, 5],
            item_categorical_cardinalities=[5, 100],
            user_embedding_dim=64,
            item_embedding_dim=64,
            output_embedding_dim=128,
        )
    )
    ranker = DLRM(DLRMConfig(num_dense_features=13, sparse_embedding_dim=64))
    for network in (towers, ranker):
        count = sum(weight.numel() for weight in network.parameters())
        print(f"{count:,} parameters")
