r"""The service of the first edition (0.1), for a comparison: two stages of its own are
trained on the shop of serving.py with 500 candidates, and served by its own command. It
has one source, a Two-Tower model. Runs with the first edition's tree first on the path:

    PYTHONPATH=TREE python benchmarks/first_service.py FOLDER EXACT_TO

FOLDER holds log.parquet, users.parquet and items.parquet; the model goes into `model`.
"""

import sys
from pathlib import Path

import pandas as pd
from recsys_nb.recommend import DLRMRanker, Recommender, TwoTowerRetriever

from recsys_nb.data import Dataset


def main() -> None:
    folder, exact_to = Path(sys.argv[1]), int(sys.argv[2])
    tables = [
        pd.read_parquet(folder / f"{n}.parquet") for n in ("log", "users", "items")
    ]
    retriever = TwoTowerRetriever(dim=64, epochs=1, exact_to=exact_to)
    model = Recommender(retriever, DLRMRanker(epochs=1), candidates=500)
    model.fit(Dataset(*tables)).save(folder / "model")


if __name__ == "__main__":
    main()
