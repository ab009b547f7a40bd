"""Training from a folder of parquet files: rows a second and peak memory, streamed, and
from the same rows loaded with pandas.

    python benchmarks/streaming.py [--rows 4000000] [--peer-rows 2000000]
        [--buffer 1000000] [--repeats 3] [--folder FOLDER]

Makes a folder of synthetic clicks in files of a million rows (label, five numbers, four
categories of which two are text, one of them with 100,000 values, one with 50,000; what
is clicked drifts from file to file, as over time), and leaves it there if `--folder`
names it. Then, each in a process of its own on one thread, in turn, `--repeats` times:
- streamed: `FeatureEncoder.fit_batches` on all rows, one epoch of `train` on a
  `ParquetStream`;
- loaded: `pandas.read_parquet`, `FeatureEncoder.fit`, one epoch of `train` on tensors.
Both train the same small DLRM in fp32 in batches of 8,192, and are then asked for the
log loss of the last file, which they have not seen. Times are CPU seconds, all threads
included, and so distorted little by a busy machine. Memory is the peak resident set of
the process, everything included, and what the imports take of it. `--rows` are streamed
once; `--peer-rows` both ways.
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

BATCH_SIZE = 8192
ROWS_PER_FILE = 1_000_000
TEST_ROWS = 200_000
GROUP_ROWS = 131_072
NUMBERS = [f"n{i}" for i in range(5)]
CATEGORIES = {"user": 100_000, "item": 50_000, "country": 20, "section": 200}
TEXT = ("country", "section")


def draw_file(
    number: int,  # of the file, from 0
    n_rows: int,  # in it
    seed: int,  # of the folder
) -> pd.DataFrame:
    "The rows of a file, drawn with a seed of its own."
    effects = [
        np.random.default_rng([seed, place]).normal(scale=0.5, size=size)
        for place, size in enumerate(CATEGORIES.values())
    ]
    rng = np.random.default_rng([seed, 99, number])
    x = rng.normal(size=(n_rows, 5)).astype(np.float32)
    codes = [
        (size * rng.random(n_rows, np.float32) ** 2).astype(np.int32)
        for size in CATEGORIES.values()
    ]
    logit = -2.5 + 0.3 * np.sin(number / 5) + x[:, 0] * 0.5 - x[:, 1] * 0.3
    for effect, code in zip(effects, codes, strict=True):
        logit += effect[code]
    clicked = rng.random(n_rows) < 1 / (1 + np.exp(-logit))
    columns = dict(zip([*NUMBERS, *CATEGORIES], [*x.T, *codes], strict=True))
    frame = pd.DataFrame({"label": clicked.astype(np.int8), **columns})
    for name in TEXT:
        values = [f"{name} {i}" for i in range(CATEGORIES[name])]
        text = pd.Categorical.from_codes(frame[name], values)
        frame[name] = text.astype("str")
    return frame


def list_files(
    folder: Path,  # of the data
    rows: int,  # to learn from
) -> list[Path]:
    "The files that hold these rows."
    n_files = -(-rows // ROWS_PER_FILE)
    return [folder / f"part-{number:04d}.parquet" for number in range(n_files)]


def make(
    folder: Path,  # of the data
    rows: int,  # to learn from
    seed: int = 0,  # of all values
) -> Path:  # of the file for the test, the last
    "Write the files that are not there yet."
    folder.mkdir(parents=True, exist_ok=True)
    files = list_files(folder, rows)
    test = folder / f"part-{len(files):04d}.parquet"
    for number, path in enumerate([*files, test]):
        if path.exists():
            continue
        left = rows - number * ROWS_PER_FILE
        n_rows = min(ROWS_PER_FILE, left) if left > 0 else TEST_ROWS
        unfinished = path.with_suffix(".tmp")
        frame = draw_file(number, n_rows, seed)
        frame.to_parquet(unfinished, row_group_size=GROUP_ROWS)
        unfinished.replace(path)
    return test


def prepare_stream(paths: list[Path], buffer_rows: int):
    "The encoder, fitted in pieces, and a stream of the rows."
    from recsys_nb.features import FeatureEncoder
    from recsys_nb.training.parquet import ExampleEncoder
    from recsys_nb.training.stream import ParquetStream

    encoder = FeatureEncoder(categorical=list(CATEGORIES), numeric=NUMBERS)
    encode = ExampleEncoder(encoder)
    data = ParquetStream(paths, encode, buffer_rows=buffer_rows)
    encoder.fit_batches(data.frames())
    return encoder, encode, lambda: data


def prepare_loaded(paths: list[Path], buffer_rows: int):
    "The encoder, fitted on all rows, and their tensors."
    from recsys_nb.features import FeatureEncoder
    from recsys_nb.training.parquet import ExampleEncoder

    frames = [pd.read_parquet(paths)]
    encoder = FeatureEncoder(categorical=list(CATEGORIES), numeric=NUMBERS)
    encoder.fit(frames[0])
    encode = ExampleEncoder(encoder)
    return encoder, encode, lambda: encode(frames.pop())


WAYS = {"streamed": prepare_stream, "loaded": prepare_loaded}


def worker(way: str, folder: str, rows: str, test: str, buffer_rows: str) -> None:
    "One run in this process; the last line of its output is JSON."
    from recsys_nb.models.dlrm import DLRM, DLRMConfig, log_loss
    from recsys_nb.training.loop import train
    from recsys_nb.training.stream import ParquetStream

    torch.set_num_threads(1)
    n_rows, paths = int(rows), list_files(Path(folder), int(rows))
    bare, clock = memory("VmRSS"), [time.process_time()]
    encoder, encode, open_data = WAYS[way](paths, int(buffer_rows))
    clock.append(time.process_time())
    torch.manual_seed(0)
    config = DLRMConfig(
        sparse_cardinalities=encoder.cardinalities,
        sparse_embedding_dim=16,
        num_dense_features=5,
        bottom_mlp_dims=[32, 16],
        top_mlp_dims=[32, 1],
    )
    model = DLRM(config)
    settings = {"epochs": 1, "batch_size": BATCH_SIZE, "device": "cpu"}
    train(model, log_loss, open_data(), precision="fp32", progress=False, **settings)
    clock.append(time.process_time())
    peak = memory("VmHWM")
    losses, sizes = [], []
    with torch.no_grad():
        for batch in ParquetStream([test], encode).in_order():
            losses.append(float(log_loss(model, batch)))
            sizes.append(len(batch["label"]))
    found = {
        "fit": clock[1] - clock[0],
        "epoch": clock[2] - clock[1],
        "rate": n_rows / (clock[2] - clock[0]),
        "peak": peak,
        "bare": bare,
        "loss": float(np.average(losses, weights=sizes)),
    }
    print(json.dumps(found))


def measure(args: argparse.Namespace, folder: Path, test: Path) -> dict:
    "All runs: a list for each way and number of rows."

    def start(way: str, rows: int) -> dict:
        words = way, folder, rows, test, args.buffer
        return run(__file__, sys.executable, *words)

    runs: dict = {(way, args.peer_rows): [] for way in WAYS}
    for _ in range(args.repeats):
        for (way, rows), found in runs.items():
            found.append(start(way, rows))
    if args.rows > args.peer_rows:
        runs["streamed", args.rows] = [start("streamed", args.rows)]
    return runs


def show(runs: dict, buffer_rows: int) -> None:
    "A line for each way and number of rows: medians, and the spread of the rate."
    print(f"\nbuffer of {buffer_rows:,} rows; medians (least-most)")
    print(
        f"{'':10}{'rows':>12}{'runs':>6}{'fit s':>8}{'epoch s':>9}{'rows/s':>10} "
        f"{'':20}{'peak MB':>9}{'imports':>9}{'test log loss':>15}"
    )
    for (way, rows), found in runs.items():
        middle = {key: median(found, key) for key in found[0]}
        rates = [one["rate"] for one in found]
        spread = f"({min(rates):,.0f}-{max(rates):,.0f})"
        print(
            f"{way:10}{rows:>12,}{len(found):>6}{middle['fit']:>8.1f}"
            f"{middle['epoch']:>9.1f}{middle['rate']:>10,.0f} {spread:20}"
            f"{middle['peak']:>9,.0f}{middle['bare']:>9,.0f}{middle['loss']:>15.5f}"
        )


def compare(ours: list[dict], other: list[dict], rows: int) -> None:
    "One sentence: rate and memory of the stream, as multiples of the other way's."
    rate = median(ours, "rate") / median(other, "rate")
    peak = median(ours, "peak") / median(other, "peak")
    beyond = [median(found, "peak") - median(found, "bare") for found in (ours, other)]
    print(
        f"\nstreamed to loaded at {rows:,} rows: {rate:.2f} times the rows a second, "
        f"{peak:.2f} of the peak memory, {beyond[0] / beyond[1]:.2f} beyond the imports"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=4_000_000, help="streamed once")
    add("--peer-rows", type=int, default=2_000_000, help="both ways")
    add("--buffer", type=int, default=1_000_000, help="rows held and mixed")
    add("--repeats", type=int, default=3, help="runs of each way")
    add("--folder", type=Path, help="of the data, kept (default: a temporary one)")
    args = parser.parse_args()
    if args.peer_rows > args.rows:
        parser.error("--peer-rows must be at most --rows")
    print(f"torch {torch.__version__}, pandas {pd.__version__}, 1 thread, CPU time")
    with tempfile.TemporaryDirectory() as temporary:
        folder, start = args.folder or Path(temporary), time.process_time()
        test = make(folder, args.rows)
        files = list_files(folder, args.rows)
        size = sum(path.stat().st_size for path in files) / 1e9
        seconds = time.process_time() - start
        print(
            f"{args.rows:,} rows in {len(files)} files, {size:.2f} GB; made in", end=""
        )
        print(f" {seconds:.0f} s")
        runs = measure(args, folder, test)
    show(runs, args.buffer)
    rows = args.peer_rows
    compare(runs["streamed", rows], runs["loaded", rows], rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
