"""Training a causal attention model: our step against RecTools' SASRec, on one core.

Both train on the same synthetic histories, with one width, length, number of blocks and
batch, dense Adam and the loss that is named; a batch has the same number of histories.
What counts is real positions (an item and the one that follows) per second of CPU time
in the second epoch, the loader's work included. The sampled softmax differs in one
point: RecTools draws negatives for each position, we draw as many for a whole batch and
add the batch's own items. `python benchmarks/history.py --json`
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

PEER = ("torch==2.13.0", "rectools[torch]")
LENGTH, DIM, BLOCKS, DROPOUT, BATCH = 50, 64, 2, 0.2, 128
N_ITEMS, N_NEGATIVES, RATE = 12_000, 256, 1e-3
LOGS = {"short": 512, "full": 256}  # histories of about 8 items, or of 51
LOSSES = ("sampled softmax", "softmax")
PRECISIONS = ("fp32", "bf16")
RESULTS = Path(__file__).parent / "results" / "history.json"


def draw_log(name: str) -> list[np.ndarray]:
    "Histories of items with a long tail; their lengths as in real logs, or all full."
    rng = np.random.default_rng(0)
    sizes = np.full(LOGS[name], LENGTH + 1)
    if name == "short":
        sizes = np.minimum(2 + rng.geometric(1 / 7, LOGS[name]), LENGTH + 1)
    popularity = 1 / np.arange(1, N_ITEMS + 1)
    popularity /= popularity.sum()
    items = rng.choice(N_ITEMS, sizes.sum(), p=popularity)
    _, codes = np.unique(items, return_inverse=True)  # RecTools knows no other items
    return np.split(codes, sizes.cumsum()[:-1])


# ---- ours


def train_ours(name: str, loss_name: str, precision: str) -> dict:
    "Two epochs; the second one's CPU time."
    from recsys_nb.models.history import pack_histories
    from recsys_nb.models.two_tower import TwoTowerConfig, TwoTowerModel

    torch.manual_seed(0)
    log = draw_log(name)
    sizes = torch.tensor([len(history) for history in log])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    items = torch.from_numpy(np.concatenate(log))
    model = TwoTowerModel(
        TwoTowerConfig(
            DIM,
            DIM,
            DIM,
            item_categorical_cardinalities=[int(items.max()) + 1],
            history_encoder="attention",
            history_length=LENGTH,
            attention_blocks=BLOCKS,
            attention_dropout=DROPOUT,
            attention_inner=DIM,
            normalize=False,
            temperature=1.0,
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    for _ in range(2):
        start = time.process_time()
        packed = pack_histories(items, offsets, LENGTH)
        n_lines = len(packed.history)
        lines_per_batch = round(BATCH * n_lines / len(log))
        for lines in torch.randperm(n_lines).split(lines_per_batch):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = measure_loss(model, packed.take(lines), loss_name)
            loss.backward()
            optimizer.step()
        seconds = time.process_time() - start
    return {"positions": int((packed.targets >= 0).sum()), "seconds": seconds}


def measure_loss(model, batch, loss_name: str):
    "The loss of one batch of packed lines."
    from recsys_nb.models.sampled_softmax import sampled_softmax_loss

    real = batch.targets >= 0
    positives = batch.targets[real]
    n_items = model.config.item_categorical_cardinalities[0]
    negatives = torch.arange(n_items)
    if loss_name == "sampled softmax":
        negatives = torch.randint(n_items, (N_NEGATIVES,))
    codes = torch.cat([positives, negatives])[:, None]
    u, v = model.both_positions(batch.history, codes, segments=batch.segments)
    n = len(positives)
    extra = v[n:], None, negatives
    return sampled_softmax_loss(u[real], v[:n], 1.0, None, positives, extra)


# ---- RecTools, in a venv of its own


def train_rectools(name: str, loss_name: str, precision: str) -> dict:
    "Two epochs of its SASRec; the second one's CPU time."
    import pandas as pd
    import pytorch_lightning as lightning
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    log = draw_log(name)
    sizes = [len(history) for history in log]
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(log)), sizes),
            Columns.Item: np.concatenate(log),
            Columns.Weight: 1,
        }
    )
    first = pd.Timestamp("2024-01-01")
    frame[Columns.Datetime] = first + pd.to_timedelta(np.arange(len(frame)), "s")
    seconds = []

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, trainer, module):
            self.start = time.process_time()

        def on_train_epoch_end(self, trainer, module):
            seconds.append(time.process_time() - self.start)

    def make_trainer():
        return lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Clock()],
        )

    lightning.seed_everything(0)
    model = SASRecModel(
        n_blocks=BLOCKS,
        n_heads=1,
        n_factors=DIM,
        dropout_rate=DROPOUT,
        session_max_len=LENGTH,
        loss=loss_name.replace(" ", "_"),
        n_negatives=N_NEGATIVES,
        lr=RATE,
        batch_size=BATCH,
        get_trainer_func=make_trainer,
    )
    model.fit(Dataset.construct(frame))
    return {"positions": sum(sizes) - len(log), "seconds": seconds[-1]}


TRAINERS = {"recsys_nb": train_ours, "rectools": train_rectools}


# ---- side by side


def work(trainer: str, name: str, loss_name: str, precision: str) -> None:
    "One run in this process; the last line that it prints is JSON."
    torch.set_num_threads(1)
    print(json.dumps(TRAINERS[trainer](name, loss_name, precision)))


def compare(peers: Path, repeats: int, precisions: list[str]) -> list[dict]:
    "Every log, loss and precision: the two turn about, the median of the runs."
    from _common import median, peer_python, run

    python = peer_python(peers, "rectools", "rectools.models.nn.transformers", PEER)
    if not isinstance(python, Path):
        raise SystemExit(f"RecTools cannot be installed here: {python}")
    pythons = {"recsys_nb": sys.executable, "rectools": python}
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    here = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    environments = {
        "recsys_nb": os.environ | one_thread | here,
        "rectools": os.environ | one_thread | {"PYTHONPATH": ""},
    }
    rows = []
    for case in itertools.product(LOGS, LOSSES, precisions):
        runs = {trainer: [] for trainer in TRAINERS}
        for _ in range(repeats):
            for trainer, python in pythons.items():
                environment = environments[trainer]
                done = run(__file__, python, trainer, *case, env=environment)
                runs[trainer].append(done)
        rows.append(summarize(case, runs, median))
        print(describe(rows[-1]), flush=True)
    return rows


def summarize(case: tuple[str, str, str], runs: dict, median) -> dict:
    "Positions per second of both, and the ratio."
    rates = {
        trainer: done[0]["positions"] / median(done, "seconds")
        for trainer, done in runs.items()
    }
    return {
        **dict(zip(("log", "loss", "precision"), case, strict=True)),
        **{f"{trainer} positions/s": round(rate) for trainer, rate in rates.items()},
        "ratio": round(rates["recsys_nb"] / rates["rectools"], 2),
    }


def describe(row: dict) -> str:
    "A line of the table."
    return (
        f"{row['log']:>6} {row['loss']:>16} {row['precision']}: "
        f"recsys_nb {row['recsys_nb positions/s']:>7,} positions/s, "
        f"RecTools {row['rectools positions/s']:>7,}, ratio {row['ratio']:.2f}"
    )


def main() -> None:
    "Read the command line."
    if "--worker" in sys.argv:
        return work(*sys.argv[2:])
    from _common import PEERS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path, default=PEERS, help="folder of venvs")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each case")
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS
    )
    parser.add_argument("--json", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    print(f"width {DIM}, length {LENGTH}, {BATCH} histories a batch, one thread")
    rows = compare(arguments.peers, arguments.repeats, arguments.precision)
    if arguments.json:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
