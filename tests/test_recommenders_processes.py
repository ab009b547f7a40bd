"Both models of a recommender, trained by two processes and by one."

import numpy as np
from test_training_processes import start_two

from recsys_nb.data import simulate
from recsys_nb.recommenders import DLRMRanker, TwoTowerRetriever

SEEDS = 3


def measure_seeds():
    "The best NDCG of a retriever and log loss of a ranker, a row for each seed."
    log = simulate(300, 100, 5_000, seed=1)
    rows = []
    for seed in range(SEEDS):
        options = {"seed": seed, "epochs": 3, "device": "cpu"}
        retriever = TwoTowerRetriever(**options, profile="noisy")
        retriever.fit(log.positives())
        ranker = DLRMRanker(**options).fit(log, retriever)
        ndcg = max(row["ndcg"] for row in retriever.result_.epochs)
        rows.append([ndcg, ranker.valid_log_loss_])
    return np.array(rows)


def save_seeds(folder, rank):
    np.save(folder / f"seeds {rank}.npy", measure_seeds())


def test_metrics_are_within_the_spread_of_seeds(tmp_path):
    assert start_two(save_seeds, tmp_path) == [0, 0]
    both, other = (np.load(tmp_path / f"seeds {rank}.npy") for rank in (0, 1))
    np.testing.assert_array_equal(both, other)
    one = measure_seeds()
    gap = np.abs(one.mean(0) - both.mean(0))
    assert (gap <= np.ptp(one, axis=0)).all(), (one, both)
