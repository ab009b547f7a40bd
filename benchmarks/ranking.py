"""Training a DLRM: samples a second, peak memory and the share of the roofline, against
a naive loop and the trainers of torch-rechub and FuxiCTR; with large tables; and
whether bf16 is as good.

    python benchmarks/ranking.py [--parts small large quality] [--steps 40] [--repeats
    3] [--seeds 3] [--memory default kept] [--peers FOLDER]

Every run is a process of its own on one thread, all contenders in turn, `--repeats`
times; times are CPU seconds of the steps after the first five, medians over the
repetitions. Memory is the
peak resident set beyond imports and data. `small`: 10 tables of 100 rows, dim 64, 13
numbers, bottom 512-256-64, top 512-256-1, batch 2,048. `large`: 10 tables of 1,000,000
rows, dim 16, bottom
512-256-16, codes drawn uniformly (each lookup misses the cache); ours with RowAdam, the
peers with dense Adam, the only one their trainers have for these tables.
The naive loop: a DataLoader of rows, a table a feature, a Python loop over the pairs,
Adam. torch-rechub has no DLRM: its EmbeddingLayer and its CTRTrainer train this one.
FuxiCTR: the DLRM of its
own layers, by BaseModel.fit. Both get num_workers=0, so that the time of loading counts
for them as it does for the others. FLOPs are those of the products: each weight of a
linear layer and each
of the pairs' products is used once forward and twice backward; the first layer has no
gradient of its input. The roofline is the rate of 1024 x 1024 products that each
process measures
after its training (float32: by MKL or oneDNN, whichever is faster); the rate of the
model's own products alone stands beside it. Compiled runs begin with an empty cache of
the compiler.
`small` and `large` run twice. `default`: as a user starts them, the peers with the
allocator as it is, ours with what `train` itself asks of it. `kept`: all keep the
memory that they free, in pages of
2 MB, which saves page faults and misses of the TLB, and helps dense Adam on large
tables most.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from _common import PEERS, median, memory, peer_python, run
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

B, S, D, WARM = 2048, 10, 13, 5
SHAPES = {"small": (100, 64), "large": (1_000_000, 16)}  # rows of a table, dim
PACKAGES = {
    "torch-rechub": ("torch_rechub", ("torch==2.13.0", "torch-rechub==0.9.0")),
    "fuxictr": ("fuxictr", ("torch==2.13.0", "fuxictr==2.3.7", "numpy<2")),
}


# glibc gives no freed memory back to the system, so that no page is faulted in again,
# and asks for pages of 2 MB
KEEP = {
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def layers(dim: int) -> list[tuple[int, int]]:
    return [
        (D, 512),
        (512, 256),
        (256, dim),
        (dim + S * (S + 1) // 2, 512),
        (512, 256),
        (256, 1),
    ]


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def flops(dim: int) -> int:
    "A sample, forward and backward."
    return (
        6 * (sum(a * b for a, b in layers(dim)) + S * (S + 1) // 2 * dim) - 2 * D * 512
    )


def products(dim: int) -> dict:
    """GFLOP/s of products of 1024 x 1024 matrices, and of all the products of a
    training step in bf16 and nothing else; medians of 20."""

    def rate(work, *calls):
        times = []
        for _ in range(25):
            start = time.process_time()
            for f in calls:
                f()
            times.append(time.process_time() - start)
        return work / statistics.median(times[5:]) / 1e9

    a, T, G = (
        torch.randn(1024, 1024),
        *(torch.randn(B, S + 1, n).bfloat16() for n in (dim, S + 1)),
    )
    h = a.bfloat16()
    step = [lambda: T @ T.transpose(1, 2), lambda: G @ T]
    for i, o in layers(dim):
        x, w, g = (torch.randn(n, m).bfloat16() for n, m in ((B, i), (o, i), (B, o)))
        step += [lambda x=x, w=w: x @ w.T, lambda g=g, x=x: g.T @ x] + [
            lambda g=g, w=w: g @ w
        ] * (i != D)
    single = [
        rate(2 * 1024**3, f)
        for f in (
            lambda: a @ a,
            lambda: torch.ops.mkldnn._linear_pointwise(a, a, None, "none", [], ""),
        )
    ]
    return {
        "fp32": max(single),
        "bf16": rate(2 * 1024**3, lambda: h @ h),
        "step": rate(B * flops(dim), *step),
    }


def make(path: Path, rows: int, steps: int, seed: int = 0) -> None:
    rng, n = np.random.default_rng(seed), B * steps
    np.savez(
        path,
        dense=rng.standard_normal((n, D), dtype=np.float32),
        sparse=rng.integers(rows, size=(n, S)),
        y=rng.integers(2, size=n).astype(np.float32),
    )


def mlp(*widths: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            m
            for a, b in zip(widths, widths[1:], strict=False)
            for m in (nn.Linear(a, b), nn.ReLU())
        )
    )


class Plain(nn.Module):
    "DLRM as one writes it first: a table a feature, a loop over the pairs."

    def __init__(self, rows: int, dim: int):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, dim) for _ in range(S))
        self.bottom, self.top = (
            mlp(D, 512, 256, dim),
            nn.Sequential(*mlp(dim + S * (S + 1) // 2, 512, 256), nn.Linear(256, 1)),
        )

    def forward(self, dense, sparse):
        vectors = [
            self.bottom(dense),
            *(table(sparse[:, s]) for s, table in enumerate(self.tables)),
        ]
        dots = [
            (vectors[i] * vectors[j]).sum(1)
            for i in range(len(vectors))
            for j in range(i)
        ]
        return self.top(torch.cat([vectors[0], torch.stack(dots, 1)], 1)).squeeze(1)


# Each contender does its imports and gives back what is measured.


def naive(rows: int, dim: int) -> Callable[[dict], None]:
    def fit(data):
        t = [torch.from_numpy(data[k]) for k in ("dense", "sparse", "y")]
        model = Plain(rows, dim)
        optimizer = torch.optim.Adam(model.parameters())
        total = 0.0
        for dense, sparse, y in torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*t), batch_size=B, shuffle=True
        ):
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(dense, sparse), y
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    return fit


def ours(
    rows: int, dim: int, precision: str = "fp32", compiled: str = ""
) -> Callable[[dict], None]:
    from recsys_nb.models.dlrm import DLRM, DLRMConfig
    from recsys_nb.training.loop import train

    def fit(data):
        model = DLRM(
            DLRMConfig(
                sparse_cardinalities=[rows] * S,
                sparse_embedding_dim=dim,
                num_dense_features=D,
                bottom_mlp_dims=[512, 256, dim],
            )
        )
        train(
            model,
            log_loss,
            {k: torch.from_numpy(v) for k, v in data.items()},
            epochs=1,
            batch_size=B,
            device="cpu",
            precision=precision,
            compile=bool(compiled),
            progress=False,
        )

    return fit


def log_loss(model, batch):
    return nn.functional.binary_cross_entropy_with_logits(
        model(batch["dense"], batch["sparse"]), batch["y"]
    )


def rechub(rows: int, dim: int) -> Callable[[dict], None]:
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.basic.layers import EmbeddingLayer
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    features = [SparseFeature(f"s{i}", rows, dim) for i in range(S)]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.bottom, self.top = (
                EmbeddingLayer(features),
                mlp(D, 512, 256, dim),
                nn.Sequential(
                    *mlp(dim + S * (S + 1) // 2, 512, 256), nn.Linear(256, 1)
                ),
            )
            self.i, self.j = torch.tril_indices(S + 1, S + 1, -1)

        def forward(self, x):
            first = self.bottom(x["dense"])
            T = torch.cat([first.unsqueeze(1), self.embedding(x, features)], 1)
            return (
                self.top(
                    torch.cat(
                        [first, torch.bmm(T, T.transpose(1, 2))[:, self.i, self.j]], 1
                    )
                )
                .squeeze(1)
                .sigmoid()
            )

    def fit(data):
        x = {"dense": data["dense"]} | {
            f"s{i}": c for i, c in enumerate(data["sparse"].T.copy())
        }
        some = {k: v[:1] for k, v in x.items()}
        loader = DataGenerator(x, data["y"]).generate_dataloader(
            some, data["y"][:1], some, data["y"][:1], batch_size=B
        )[0]
        with tempfile.TemporaryDirectory() as folder:
            CTRTrainer(
                Model(), optimizer_params={"lr": 1e-3}, n_epoch=1, model_path=folder
            ).fit(loader)

    return fit


def fuxictr(rows: int, dim: int) -> Callable[[dict], None]:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.layers import (
        FeatureEmbedding,
        InnerProductInteraction,
        MLP_Block,
    )
    from fuxictr.pytorch.models import BaseModel

    numbers, codes = [f"d{i}" for i in range(D)], [f"s{i}" for i in range(S)]

    class Model(BaseModel):
        def __init__(self, feature_map, **kwargs):
            super().__init__(feature_map, **kwargs)
            self.embedding = FeatureEmbedding(
                feature_map, dim, not_required_feature_columns=numbers
            )
            self.bottom = MLP_Block(
                D, [512, 256], output_dim=dim, output_activation="ReLU"
            )
            self.interact = InnerProductInteraction(S + 1, output="inner_product")
            self.top = MLP_Block(
                dim + S * (S + 1) // 2,
                [512, 256],
                output_dim=1,
                output_activation=self.output_activation,
            )
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs):
            x = self.get_inputs(inputs)
            first = self.bottom(torch.stack([x[k].float() for k in numbers], 1))
            T = torch.cat([self.embedding(x), first.unsqueeze(1)], 1)
            return {"y_pred": self.top(torch.cat([self.interact(T), first], 1))}

    def fit(data):
        with tempfile.TemporaryDirectory() as folder:
            columns = (
                dict(zip(numbers, data["dense"].T, strict=False))
                | dict(zip(codes, data["sparse"].T, strict=False))
                | {"y": data["y"]}
            )
            np.savez(f"{folder}/train.npz", **columns)
            np.savez(f"{folder}/valid.npz", **{k: v[:64] for k, v in columns.items()})
            f = FeatureMap("bench", folder)
            f.labels = ["y"]
            (Path(folder) / "bench").mkdir()
            f.features.update(
                {k: {"type": "numeric", "source": ""} for k in numbers}
                | {
                    k: {"type": "categorical", "source": "", "vocab_size": rows}
                    for k in codes
                }
            )
            f.num_fields = f.get_num_fields()
            f.set_column_index()
            loaders = RankDataLoader(
                f,
                stage="train",
                train_data=f"{folder}/train.npz",
                valid_data=f"{folder}/valid.npz",
                batch_size=B,
                num_workers=0,
            ).make_iterator()
            Model(f, verbose=0, model_root=folder, metrics=["AUC"]).fit(
                loaders[0], validation_data=loaders[1]
            )

    return fit


def worker(role: str, path: str, *rest: str) -> None:
    "One run in this process; the last line of its output is JSON."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, marks = dict(np.load(path)), []
    register_optimizer_step_post_hook(
        lambda o, *_: type(o).__name__ == "RowAdam" or marks.append(time.process_time())
    )  # one mark a step
    fit, at_first = (
        globals()[role](*map(int, rest[:2]), *rest[2:]),
        [],
    )  # imports are done
    register_optimizer_step_post_hook(
        lambda *_: at_first or at_first.append(time.perf_counter())
    )
    before, start = memory("VmRSS"), time.perf_counter()
    fit(data)
    steps = marks[WARM:]
    result = {
        "rate": B * (len(steps) - 1) / (steps[-1] - steps[0]),
        "memory": memory("VmHWM") - before,
        "first": at_first[0] - start,
    }
    print("\n" + json.dumps(result | products(int(rest[1]))))


def compare(args, folder: Path, part: str) -> None:
    for kept in args.memory:
        compare_with(KEEP if kept == "kept" else {}, args, folder, part)


def compare_with(env: dict, args, folder: Path, part: str) -> None:
    shape, (long, short) = SHAPES[part], (folder / "long.npz", folder / "short.npz")
    make(long, shape[0], args.steps)
    make(
        short, shape[0], WARM + 8 if part == "small" else WARM + 3
    )  # the others are slow
    ours = (sys.executable, "ours", long, *shape)
    contenders = {
        "ours fp32": (*ours, "fp32"),
        "ours bf16": (*ours, "bf16"),
        "ours bf16 compiled": (*ours, "bf16", "compiled"),
    }
    if part == "small":
        naive = (sys.executable, "naive", short, *shape)
        contenders = {"naive loop": naive} | contenders
    missing = {}
    for name, (module, packages) in PACKAGES.items():
        python = peer_python(args.peers, name, module, packages)
        if isinstance(python, str):
            missing[name] = python
        else:
            contenders[name] = (python, name.replace("torch-", ""), short, *shape)
    runs, busy = {name: [] for name in contenders}, load()
    for _ in range(args.repeats):
        for name, command in contenders.items():
            with tempfile.TemporaryDirectory() as cache:
                own = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache} | env
                runs[name].append(run(__file__, *command, env=own))
    print_setup(args, shape, runs, env, busy)
    print_rates(shape, runs)
    for name, why in missing.items():
        print(f"{name}: not installable: {why}")


def count_cores() -> str:
    "How many cores this process may use, of how many."
    mine = "any"
    if hasattr(os, "sched_getaffinity"):
        mine = str(len(os.sched_getaffinity(0)))
    return f"{mine} of {os.cpu_count()}"


def print_setup(args, shape: tuple, runs: dict, env: dict, busy: str) -> None:
    "What was run, where, and what the core can do at most."
    every = sum(runs.values(), [])
    print(
        f"\n{S} tables of {shape[0]:,} rows, dim {shape[1]}, batch {B:,}, "
        f"{flops(shape[1]) / 1e6:.2f} MFLOP a sample; median (least-most) of "
        f"{args.repeats}"
    )
    memory = "the default allocator for all"
    if env:
        memory = "all contenders keep what they free, in pages of 2 MB"
    print(
        f"Memory: {memory}. Cores: {count_cores()}, load {busy} before and {load()} "
        "after"
    )
    print(
        f"One core, 1024 x 1024 products: {median(every, 'fp32'):.0f} GFLOP/s in fp32, "
        f"{median(every, 'bf16'):.0f} in bf16; "
        f"the products of a step and nothing else in bf16: {median(every, 'step'):.0f}"
    )


def print_rates(shape: tuple, runs: dict) -> None:
    "Samples per second of each contender, and where the time of a step goes."
    f = flops(shape[1])
    rates = {name: median(r, "rate") for name, r in runs.items()}
    bases = {
        "naive": rates.get("naive loop"),
        "best peer": max((rates[n] for n in PACKAGES if n in rates), default=None),
    }
    compared = "".join(f"{'to ' + name:>14}" for name, base in bases.items() if base)
    speeds = f"{'GFLOP/s':>9}{'of roofline':>13}{'first step, s':>15}"
    print(f"{'':20}{'samples/s':>26}{'MB (most)':>15}{speeds}{compared}")
    for name, r in runs.items():
        spread = f"({min(x['rate'] for x in r):,.0f}-{max(x['rate'] for x in r):,.0f})"
        share = statistics.median(
            x["rate"] * f / 1e9 / x["bf16" if "bf16" in name else "fp32"] for x in r
        )
        most = f"({max(x['memory'] for x in r):,.0f})"
        memory = f"{median(r, 'memory'):>7,.0f} {most:>7}"
        speed = (
            f"{rates[name] * f / 1e9:>9.1f}{share:>13.1%}{median(r, 'first'):>15.1f}"
        )
        to_bases = [f"{rates[name] / base:>14.2f}" for base in bases.values() if base]
        rate = f"{rates[name]:>9,.0f} {spread:>16}"
        print(f"{name:20}{rate}{memory}{speed}{''.join(to_bases)}")
    for name in (n for n in runs if "bf16" in n):
        step, roof, alone = (
            B / rates[name] * 1e3,
            *(B * f / median(runs[name], k) / 1e6 for k in ("bf16", "step")),
        )
        print(
            f"{name}: {step:.2f} ms a step; its FLOPs at the roofline {roof:.2f}, its "
            f"products alone {alone:.2f}, all else {step - alone:.2f}"
        )


def teacher(
    seed: int, n: int = 100_000, n_test: int = 50_000
) -> tuple[dict, dict, np.ndarray]:
    """Clicks whose probabilities are known: products of hidden vectors of the first six
    features, and a curve in the numbers. The last `n_test` apart, with their true
    logits."""
    rng = np.random.default_rng(seed)
    sparse, dense = (
        rng.integers(100, size=(n + n_test, S)),
        rng.standard_normal((n + n_test, D), dtype=np.float32),
    )
    v = rng.normal(size=(6, 100, 4))
    e = [v[s][sparse[:, s]] for s in range(6)]
    logit = (
        (e[0] * e[1] + e[2] * e[3] + e[4] * e[5]).sum(1) * 0.5
        + dense[:, 0]
        - np.abs(dense[:, 1])
        + dense[:, 2] * dense[:, 3]
    )
    y = (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    data = {
        k: torch.from_numpy(a)
        for k, a in {"dense": dense, "sparse": sparse, "y": y}.items()
    }
    return (
        {k: t[:n] for k, t in data.items()},
        {k: t[n:] for k, t in data.items()},
        logit[n:],
    )


def quality(args, folder: Path, part: str) -> None:
    from sklearn.metrics import roc_auc_score

    from recsys_nb.models.dlrm import DLRM, DLRMConfig
    from recsys_nb.training.loop import train

    torch.set_num_threads(1)
    ways, rows = (
        {
            "fp32": ("fp32", False),
            "bf16": ("bf16", False),
            "bf16 compiled": ("bf16", True),
        },
        [],
    )
    for seed in range(args.seeds):
        known, unseen, logit = teacher(seed)
        row = {"true probabilities": roc_auc_score(unseen["y"], logit)}
        for name, (precision, compiled) in ways.items():
            torch.manual_seed(seed)
            model = DLRM(
                DLRMConfig(sparse_cardinalities=[100] * S, num_dense_features=D)
            )
            train(
                model,
                log_loss,
                known,
                epochs=4,
                patience=None,
                batch_size=B,
                lr=2e-3,
                seed=seed,
                device="cpu",
                precision=precision,
                compile=compiled,
                progress=False,
            )
            with torch.no_grad():
                row[name] = roc_auc_score(
                    unseen["y"], model(unseen["dense"], unseen["sparse"])
                )
        rows.append(row)
    print(
        f"\nA known truth, {args.seeds} seeds: AUC on {len(logit):,} unseen examples "
        f"after 4 epochs of {len(known['y']):,}"
    )
    columns = f"{'mean':>9}{'sd':>9}{'minus fp32':>12}{'its standard error':>20}"
    print(f"{'':20}{columns}   by seed")
    for name in rows[0]:
        v = np.array([r[name] for r in rows])
        d = v - [r["fp32"] for r in rows]
        error = d.std(ddof=1) / len(d) ** 0.5
        figures = (
            f"{v.mean():>9.4f}{v.std(ddof=1):>9.4f}{d.mean():>+12.4f}{error:>20.4f}"
        )
        print(f"{name:20}{figures}   {' '.join(f'{x:.4f}' for x in v)}")


def main() -> None:
    parts = {"small": compare, "large": compare, "quality": quality}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=parts, default=tuple(parts))
    for name, default in (("steps", 40), ("repeats", 3), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--peers",
        type=Path,
        default=PEERS,
        help="where the peers' venvs are made, and found again",
    )
    parser.add_argument(
        "--memory",
        nargs="+",
        choices=("default", "kept"),
        default=("default", "kept"),
        help=(
            "the allocator as it is, or all contenders keep freed memory, in pages of "
            "2 MB (glibc)"
        ),
    )
    args = parser.parse_args()
    if args.steps < WARM + 5:
        parser.error(f"--steps must be at least {WARM + 5}, got {args.steps}")
    if args.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {args.seeds}")
    print(f"torch {torch.__version__}, 1 thread, CPU time")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts:
            parts[part](args, Path(folder), part)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
