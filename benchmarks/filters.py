"""Rules inside the search: the 100 best of the items that a rule leaves, out of a
million vectors in clusters.

    python benchmarks/filters.py [--items 1000000] [--dim 128] [--queries 100]
    [--cells FILE] [--out benchmarks/results/filters.json]

Three searches: `exact` compares all items, `cells` is `ItemIndex` as the retriever
uses it for large catalogues (more cells where a rule leaves few items, and more again
until k are found), `fixed cells` begins with the same number of cells for any rule and
takes more only where k are not found. Two kinds of rules: items `at random`, and items
`of whole clusters` drawn without a look at the query, as a category may be, which lie
far from most queries. Recall is the share of the exact answer that is found;
milliseconds are CPU time per query on one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import faiss
import numpy as np
from _common import keep

from recsys_nb.recommenders.cells import IndexPart, search_cells
from recsys_nb.recommenders.index import ItemIndex, add_dimension

SHARES = (0.5, 0.05, 0.005, 0.0005)
K = 100
PER_CLUSTER = 500  # items


def draw_vectors(n_items, n_queries, dim, seed=0):
    "Unit vectors around the centres of clusters, and the cluster of each."
    rng = np.random.default_rng(seed)
    n_clusters = max(1, n_items // PER_CLUSTER)
    centres = rng.normal(size=(n_clusters, dim)).astype(np.float32)
    clusters = rng.integers(0, n_clusters, n_items + n_queries)
    vectors = centres[clusters]
    vectors += 0.6 * rng.standard_normal(vectors.shape, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:n_items], vectors[n_items:], clusters[:n_items]


def draw_rules(clusters, share, seed=1):
    "Which items each kind of rule leaves."
    rng = np.random.default_rng(seed)
    at_random = np.zeros(len(clusters), bool)
    n_left = max(K, round(share * len(clusters)))
    at_random[rng.choice(len(clusters), n_left, replace=False)] = True
    names = np.unique(clusters)
    n_whole = max(1, round(share * len(names)))
    whole = np.isin(clusters, rng.choice(names, n_whole, replace=False))
    return {"at random": at_random, "of whole clusters": whole}


def search_fixed(part: IndexPart, queries, n_probe, allowed):
    "Cells that do not depend on how much the rule leaves."
    selector, n_allowed = part.make_selector(allowed)
    points = add_dimension(queries, 1.0)
    _, places = search_cells(part.index, points, min(K, n_allowed), n_probe, selector)
    return np.where(places < 0, -1, part.codes[places])


def measure(search, allowed):
    "What a search finds, and its CPU milliseconds."
    start = time.process_time()
    found = search(allowed)
    return found, 1000 * (time.process_time() - start)


def count_found(found, truth):
    "The share of the true items that are found."
    pairs = zip(found, truth, strict=True)
    hits = [np.isin(right[right >= 0], some).mean() for some, right in pairs]
    return float(np.mean(hits))


def build_or_read(vectors, path: Path | None) -> ItemIndex:
    "An index in cells; kept in a file, so that a second run need not build it."
    if path is None or not path.exists():
        start = time.process_time()
        cells = ItemIndex(vectors, exact_to=0)
        print(f"cells built in {time.process_time() - start:.0f} s", flush=True)
        if path is not None:
            faiss.write_index(cells.parts[0].index, str(path))
        return cells
    cells = ItemIndex(vectors[:1])
    cells.n_items, cells.is_exact = len(vectors), False
    cells.parts = [IndexPart(np.arange(len(vectors)), faiss.read_index(str(path)))]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--cells", type=Path, help="file that keeps the index")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sizes = options.items, options.queries, options.dim
    vectors, queries, clusters = draw_vectors(*sizes)
    exact = ItemIndex(vectors, exact_to=options.items)
    cells = build_or_read(vectors, options.cells)
    del vectors
    (part,) = cells.parts
    searches = {
        "exact": lambda allowed: exact.search(queries, K, allowed)[0],
        "cells": lambda allowed: cells.search(queries, K, allowed)[0],
        "fixed cells": lambda allowed: search_fixed(
            part, queries, cells.n_probe, allowed
        ),
    }
    rows = []
    for share in SHARES:
        for rule, allowed in draw_rules(clusters, share).items():
            truth = None
            for name, search in searches.items():
                found, milliseconds = measure(search, allowed)
                truth = found if truth is None else truth
                row = {
                    "items": options.items,
                    "dim": options.dim,
                    "rule": rule,
                    "search": name,
                    "left": share,
                    "n_left": int(allowed.sum()),
                    "recall": round(count_found(found, truth), 4),
                    "full": float((found >= 0).mean()),
                    "milliseconds": round(milliseconds / len(queries), 3),
                }
                rows.append(row)
                print(row, flush=True)
    keep(options.out, rows, ("items", "dim"))


if __name__ == "__main__":
    main()
