"""Training from a folder of parquet files: rows a second and peak memory, streamed, against the same rows loaded with pandas.

    python benchmarks/streaming.py [--rows 4000000] [--peer-rows 2000000] [--buffer 1000000] [--repeats 3] [--folder FOLDER]

Makes a folder of synthetic clicks in files of a million rows (label, five numbers, four categories of which two are text, one of them with 100,000 values, one with 50,000; what is clicked drifts
from file to file, as over time), and leaves it there if `--folder` names it. Then, each in a process of its own on one thread, in turn, `--repeats` times:
- streamed: `fit_batches` on all rows, one epoch of `train` on a `ParquetStream`;
- loaded: `pandas.read_parquet`, `FeatureEncoder.fit`, `transform`, one epoch of `train` on the tensors.
Both train the same small DLRM in fp32 in batches of 8,192, and are then asked for the log loss of the last file, which they have not seen. Times are CPU seconds, all threads included, and
so distorted little by a busy machine. Memory is the peak resident set of the process, everything included, and what the imports take of it. `--rows` are streamed once; `--peer-rows` both ways.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pandas as pd
import torch

from _common import median, memory, run

BATCH, PER_FILE, GROUP = 8192, 1_000_000, 131_072
NUMBERS, CATEGORIES, SIZES = [f"n{i}" for i in range(5)], ["user", "item", "country", "section"], (100_000, 50_000, 20, 200)


def make(folder: Path, rows: int, seed: int = 0) -> None:
    "Files of a million rows, each drawn with a seed of its own; those that are there stay."
    folder.mkdir(parents=True, exist_ok=True)
    effects = [np.random.default_rng([seed, i]).normal(scale=.5, size=n) for i, n in enumerate(SIZES)]
    for k in range(-(-rows // PER_FILE) + 1): # the last one is for the test
        path = folder / f"part-{k:04d}.parquet"
        if path.exists(): continue
        rng, n = np.random.default_rng([seed, 99, k]), min(PER_FILE, rows - k * PER_FILE) if k * PER_FILE < rows else 200_000
        x, codes = rng.normal(size=(n, 5)).astype(np.float32), [(s * rng.random(n, np.float32) ** 2).astype(np.int32) for s in SIZES]
        logit = -2.5 + .3 * np.sin(k / 5) + x[:, 0] * .5 - x[:, 1] * .3 + sum(e[c] for e, c in zip(effects, codes))
        f = pd.DataFrame({"label": (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8), **dict(zip(NUMBERS, x.T)), **dict(zip(CATEGORIES, codes))})
        for c in CATEGORIES[2:]: f[c] = pd.Categorical.from_codes(f[c], [f"{c} {i}" for i in range(SIZES[CATEGORIES.index(c)])]).astype("str")
        f.to_parquet(path.with_suffix(".tmp"), row_group_size=GROUP); path.with_suffix(".tmp").replace(path)


def files(folder: Path, rows: int) -> list[Path]: return [folder / f"part-{k:04d}.parquet" for k in range(-(-rows // PER_FILE))]


def worker(role: str, folder: str, rows: int, test: str, buffer: int) -> None:
    "One run in this process; the last line of its output is JSON."
    from recsys_nb.features import FeatureEncoder
    from recsys_nb.models.dlrm import DLRM, DLRMConfig
    from recsys_nb.stream import Examples, ParquetStream, fit_batches
    from recsys_nb.training.loop import train
    torch.set_num_threads(1); bare, clock = memory("VmRSS"), [time.process_time()]
    encoder, paths = FeatureEncoder(categorical=CATEGORIES, numeric=NUMBERS), files(Path(folder), rows)
    if role == "streamed":
        data = ParquetStream(paths, Examples(encoder), buffer_rows=buffer); fit_batches(encoder, data.frames()); n = data.n_rows
        clock.append(time.process_time())
    else:
        frame = pd.read_parquet(paths); encoder.fit(frame); n = len(frame); clock.append(time.process_time())
        data = Examples(encoder)(frame); del frame
    torch.manual_seed(0); bce = torch.nn.functional.binary_cross_entropy_with_logits
    model = DLRM(DLRMConfig(sparse_cardinalities=encoder.cardinalities, sparse_embedding_dim=16, num_dense_features=5, bottom_mlp_dims=[32, 16], top_mlp_dims=[32, 1]))
    train(model, lambda m, b: bce(m(b["dense"], b["sparse"]), b["y"]), data, epochs=1, batch_size=BATCH, device="cpu", precision="fp32", progress=False)
    clock.append(time.process_time()); peak = memory("VmHWM")
    with torch.no_grad(): losses = [(float(bce(model(b["dense"], b["sparse"]), b["y"])), len(b["y"])) for b in ParquetStream([test], Examples(encoder)).in_order()]
    print(json.dumps({"rows": n, "fit": clock[1] - clock[0], "epoch": clock[2] - clock[1], "rate": n / (clock[2] - clock[0]), "peak": peak, "bare": bare,
        "loss": sum(x * k for x, k in losses) / sum(k for _, k in losses)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 4_000_000), ("peer-rows", 2_000_000), ("buffer", 1_000_000), ("repeats", 3)): parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="where the data is made, and found again (default: a temporary folder)")
    args = parser.parse_args()
    if args.peer_rows > args.rows: parser.error("--peer-rows must be at most --rows")
    print(f"torch {torch.__version__}, pandas {pd.__version__}, 1 thread, CPU time")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary); start = time.process_time(); make(folder, args.rows)
        size = sum(p.stat().st_size for p in files(folder, args.rows)) / 1e9
        print(f"{args.rows:,} rows in {len(files(folder, args.rows))} files, {size:.2f} GB; made in {time.process_time() - start:.0f} s")
        test = folder / f"part-{-(-args.rows // PER_FILE):04d}.parquet"
        job = lambda role, rows: run(__file__, sys.executable, role, folder, rows, test, args.buffer)
        runs = {("streamed", args.peer_rows): [], ("loaded", args.peer_rows): []}
        for _ in range(args.repeats):
            for role, rows in runs: runs[role, rows].append(job(role, rows))
        if args.rows > args.peer_rows: runs["streamed", args.rows] = [job("streamed", args.rows)]
    print(f"\nbuffer of {args.buffer:,} rows; medians (least-most)\n{'':10}{'rows':>12}{'runs':>6}{'fit s':>8}{'epoch s':>9}{'rows/s':>10} {'':20}{'peak MB':>9}{'imports':>9}{'test log loss':>15}")
    for (role, rows), r in runs.items():
        m = {k: median(r, k) for k in r[0]}; spread = f"({min(x['rate'] for x in r):,.0f}-{max(x['rate'] for x in r):,.0f})"
        print(f"{role:10}{rows:>12,}{len(r):>6}{m['fit']:>8.1f}{m['epoch']:>9.1f}{m['rate']:>10,.0f} {spread:20}{m['peak']:>9,.0f}{m['bare']:>9,.0f}{m['loss']:>15.5f}")
    ours, peer = runs["streamed", args.peer_rows], runs["loaded", args.peer_rows]
    print(f"\nstreamed to loaded at {args.peer_rows:,} rows: {median(ours, 'rate') / median(peer, 'rate'):.2f} times the rows a second, {median(ours, 'peak') / median(peer, 'peak'):.2f} of the peak memory, "
        f"{(median(ours, 'peak') - median(ours, 'bare')) / (median(peer, 'peak') - median(peer, 'bare')):.2f} beyond the imports")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]: role, folder, rows, test, buffer = sys.argv[2:]; worker(role, folder, int(rows), test, int(buffer))
    else: main()
