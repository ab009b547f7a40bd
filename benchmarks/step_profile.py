"""The step of a two-tower model: its parts, and its time against version 0.1.

    python benchmarks/step_profile.py --old FOLDER [--blocks 24] [--steps 25]

512 positives and 512 random negatives of 41,000 items, vectors of 128 numbers,
histories of 50 items, dropout 0.3, sparse tables, fp32, one thread. FOLDER is a
checkout of version 0.1 (`git worktree add FOLDER COMMIT`). Both versions run in
processes of their own, and take turns block by block, so that a busy machine slows
both alike; so does the new one without `keep_freed_memory`. A step is what a retriever
does in training, so each version reads histories by its own code. Since version 0.1
subtracts two columns of the whole log to read those without order, the model is also
compared alone: "same reading" is both with one reader, that of this file. Times are CPU
seconds. Writes results/step_profile.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch

BATCH, NEGATIVES, LENGTH, DIM, DROPOUT = 512, 512, 50, 128, 0.3
N_USERS, N_ITEMS, N_POSITIVES = 30_000, 41_000, 600_000
SAME_READING = ", same reading"
RESULTS = Path(__file__).parent / "results" / "step_profile.json"
PARTS = {
    "sampled softmax": ("_ChunkedSoftmax", "_ChunkedSoftmaxBackward"),
    "lookups, forward": ("_BagSums",),
    "lookups, backward": ("_BagSumsBackward",),
    "RowAdam": ("Optimizer.step#RowAdam.step",),
    "AdamW": ("Optimizer.step#AdamW.step",),
    "random numbers": (
        "aten::bernoulli_",
        "aten::random_",
        "aten::uniform_",
        "aten::randint",
    ),
}


def make_log() -> dict[str, torch.Tensor]:
    "Positives by user, with the bounds of each user's list."
    g = torch.Generator().manual_seed(0)
    weights = 1 / torch.arange(1.0, N_ITEMS + 1) ** 0.7
    weights = weights[torch.randperm(N_ITEMS, generator=g)]
    items = torch.multinomial(weights, N_POSITIVES, replacement=True, generator=g)
    users = torch.randint(N_USERS, (N_POSITIVES,), generator=g).sort()[0]
    ends = torch.bincount(users, minlength=N_USERS).cumsum(0)
    starts = ends - torch.bincount(users, minlength=N_USERS)
    columns = {"items": items, "users": users}
    return columns | {"start": starts[users], "end": ends[users]}


def read_before(log: dict, rows: torch.Tensor) -> torch.Tensor:
    "The items before each position, the latest first, -1 for padding."
    positions = rows[:, None] - torch.arange(1, LENGTH + 1)
    is_real = positions >= log["start"][rows][:, None]
    items = log["items"][positions.clamp(min=0)]
    return torch.where(is_real & (items != log["items"][rows][:, None]), items, -1)


def read_some(log: dict, rows: torch.Tensor) -> torch.Tensor:
    "Random other items of the same user, a random number of them."
    count = (log["end"][rows] - log["start"][rows])[:, None]
    draws = (torch.rand(len(rows), LENGTH) * count).long()
    items = log["items"][log["start"][rows][:, None] + draws]
    length = torch.rand(len(rows), 1) * count.clamp(max=LENGTH)
    is_real = torch.arange(LENGTH) < length
    return torch.where(is_real & (items != log["items"][rows][:, None]), items, -1)


def make_reader(version: str, ordered: bool, log: dict):
    "A function that reads the histories of places."
    if version.endswith(SAME_READING):
        read = read_before if ordered else read_some
        return lambda rows: read(log, rows)
    trained = torch.ones(N_POSITIVES, dtype=torch.bool)
    columns = [log[name] for name in ("items", "users", "start", "end")]
    if version == "old":
        from recsys_nb.recommend import _Positives

        positives = _Positives.__new__(_Positives)  # without making it of histories
        names = ("items", "user", "start", "end", "trained")
        vars(positives).update(zip(names, [*columns, trained], strict=True))
        read = positives.before if ordered else positives.some
    else:
        from recsys_nb.recommenders.positives import Positives

        positives = Positives(*columns, trained)
        read = positives.items_before if ordered else positives.other_items
    return lambda rows: read(rows, LENGTH)


def make_model(version: str, ordered: bool):
    "A model, its optimizers, and the functions of its loss, by the version's modules."
    if version.startswith("old"):
        from recsys_nb.train import _keep_freed_memory, _optimizers
        from recsys_nb.two_tower import (
            TwoTowerConfig,
            TwoTowerModel,
            log_draw,
            sampled_softmax_loss,
        )

        _keep_freed_memory()
    else:
        from recsys_nb.models.sampled_softmax import log_draw, sampled_softmax_loss
        from recsys_nb.models.two_tower import TwoTowerConfig, TwoTowerModel
        from recsys_nb.training.optim import make_optimizers
        from recsys_nb.training.steps import keep_freed_memory

        if version.startswith("new"):
            keep_freed_memory()
    config = TwoTowerConfig(
        DIM,
        DIM,
        DIM,
        user_categorical_cardinalities=[1],
        item_categorical_cardinalities=[N_ITEMS + 1],
        history=True,
        recency=LENGTH if ordered else 0,
        dropout=DROPOUT,
        sparse=True,
    )
    model = TwoTowerModel(config).train()
    if version.startswith("old"):
        optimizers = _optimizers(model, 2e-3, 0.0, torch.device("cpu"))
    else:
        optimizers = make_optimizers(model, 2e-3)
    return model, optimizers, log_draw, sampled_softmax_loss


def make_step(version: str, ordered: bool):
    "A function that makes one step of a model, as the version's retriever does."
    log = make_log()
    torch.manual_seed(0)
    model, optimizers, log_draw, sampled_softmax_loss = make_model(version, ordered)
    read = make_reader(version, ordered, log)
    counts = torch.bincount(log["items"], minlength=N_ITEMS).double()
    log_q = log_draw(counts.clamp(min=1e-6), BATCH, NEGATIVES).float()
    user_codes = torch.zeros(BATCH, 1, dtype=torch.long)

    def step() -> None:
        rows = torch.randint(N_POSITIVES, (BATCH,))
        positives, extra = log["items"][rows], torch.randint(N_ITEMS, (NEGATIVES,))
        items = torch.cat([positives, extra])
        u, v = model.both(user_codes, items[:, None], history=read(rows))
        if version.startswith("old"):
            own, others = v[:BATCH], v[BATCH:]
        else:
            own, others = v.split([BATCH, NEGATIVES])
        q = log_q[items]
        negatives = (others, q[BATCH:], extra)
        loss = sampled_softmax_loss(
            u, own, model.temperature, q[:BATCH], positives, negatives
        )
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def work(version: str, ordered: bool, steps: int) -> None:
    "Answer each line of the input with the CPU seconds of a block of steps."
    torch.set_num_threads(1)
    step = make_step(version, ordered)
    for _ in range(15):
        step()
    for line in sys.stdin:
        if line.strip() == "profile":
            print(json.dumps(profile(step)), flush=True)
            continue
        times = []
        for _ in range(steps):
            start = time.process_time()
            step()
            times.append(time.process_time() - start)
        print(statistics.median(times), flush=True)


def profile(step, steps: int = 60) -> dict[str, float]:
    "The share of each part in a step."
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
    rows = {row.key: row for row in profiler.key_averages()}
    total = sum(row.self_cpu_time_total for row in rows.values())
    shares = {
        part: sum(rows[name].cpu_time_total for name in names if name in rows) / total
        for part, names in PARTS.items()
    }
    return shares | {"towers, reading and the rest": 1 - sum(shares.values())}


class Worker:
    "A process with one version, which makes a block of steps when asked."

    def __init__(self, folder: Path, version: str, ordered: bool, steps: int):
        command = [sys.executable, __file__, "--worker", version, str(int(ordered))]
        self.process = subprocess.Popen(
            [*command, str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )

    def ask(self, what: str = "block"):
        "Seconds of a step, or the profile."
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        "End the process."
        self.process.stdin.close()
        self.process.wait()


def compare(args, ordered: bool) -> dict:
    "Milliseconds of a step by both versions in turns, and the shares of the new one."
    here = Path(__file__).parents[1]
    folders = {"old": args.old, "new": here, "given back": here}
    folders |= {f"old{SAME_READING}": args.old, f"new{SAME_READING}": here}
    workers = {v: Worker(f, v, ordered, args.steps) for v, f in folders.items()}
    times = {version: [] for version in workers}
    for _ in range(args.blocks):
        for version, worker in workers.items():
            times[version].append(1000 * worker.ask())
    shares = workers["new"].ask("profile")
    for worker in workers.values():
        worker.close()
    turns = list(zip(*times.values(), strict=True))
    ratios = [new / old for old, new, *_ in turns]
    kept_ratio = statistics.median(new / given_back for _, new, given_back, *_ in turns)
    same_reading = statistics.median(new / old for *_, old, new in turns)
    return {
        "old ms": round(statistics.median(times["old"]), 2),
        "new ms": round(statistics.median(times["new"]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "kept ratio": round(kept_ratio, 3),
        "ratio, same reading": round(same_reading, 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "blocks": args.blocks,
        "shares": {name: round(share, 4) for name, share in shares.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, required=True, help="version 0.1")
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--steps", type=int, default=25)
    args = parser.parse_args()
    results = {
        "histories in order": compare(args, ordered=True),
        "histories without order": compare(args, ordered=False),
    }
    for name, result in results.items():
        low, high = result["ratios"][0], result["ratios"][-1]
        print(
            f"{name}: {result['old ms']:.1f} ms → {result['new ms']:.1f} ms, ratio "
            f"{result['ratio']:.3f} ({low:.3f} to {high:.3f}), with the same reading "
            f"{result['ratio, same reading']:.3f}"
        )
        print(json.dumps(result["shares"]))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        version, ordered, steps = sys.argv[2:]
        work(version, ordered == "1", int(steps))
    else:
        main()
