"""What the benchmarks share: memory, the roofline of this core, workers in processes
and venvs of their own, files of results."""

from __future__ import annotations

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

PEERS = Path.home() / ".cache" / "recsys_nb" / "peers"


def memory(what: str) -> float:
    "MB of this process: 'VmRSS' now or 'VmHWM' at its peak."
    if Path("/proc/self/status").exists():
        return (
            int(
                re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]
            )
            / 1024
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 1024
    )


def roofline() -> dict:
    """What this core does at most: products of 1024 x 1024 matrices in GFLOP/s, and
    GB/s of a copy of 256 MB (read and written)."""

    def rate(f, work, n):
        f()
        start = time.process_time()
        for _ in range(n):
            f()
        return work * n / (time.process_time() - start) / 1e9

    a, big = torch.randn(1024, 1024), torch.randn(2**26)
    out = torch.empty_like(big)
    h = a.bfloat16()
    return {
        "fp32": rate(lambda: a @ a, 2 * 1024**3, 20),
        "bf16": rate(lambda: h @ h, 2 * 1024**3, 20),
        "copy": rate(lambda: out.copy_(big), 2 * 4 * big.numel(), 5),
    }


def run(script: str, python: Path | str, *args, env: dict | None = None) -> dict:
    """A worker of the script in a process of its own; the last line of its output is
    JSON."""
    done = subprocess.run(
        [str(python), script, "--worker", *map(str, args)],
        capture_output=True,
        text=True,
        env=env,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, args))} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peer_python(
    folder: Path, name: str, module: str, packages: tuple[str, ...]
) -> Path | str:
    "The interpreter of a venv that has the peer; or why there is none."
    python = folder / name / "bin" / "python"

    def works():
        return (
            python.exists()
            and subprocess.run(
                [python, "-c", f"import {module}"], capture_output=True
            ).returncode
            == 0
        )

    if works():
        return python
    for command in (
        [sys.executable, "-m", "venv", python.parent.parent],
        [python, "-m", "pip", "install", "-q", *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr or done.stdout).strip().splitlines()[-1]
    return python if works() else "it is installed, but cannot be imported"


def median(runs: list[dict], key: str) -> float:
    return statistics.median(r[key] for r in runs)


def keep(path: Path | None, rows: list[dict], of: tuple[str, ...] = ("data",)) -> None:
    """Write rows of results to a JSON file, in place of those that are alike in the
    columns `of`; what the file says of others stays. Without a path, nothing."""
    if path is None:
        return

    def key(r):
        return tuple(r.get(c) for c in of)

    new = set(map(key, rows))
    others = (
        [r for r in json.loads(path.read_text()) if key(r) not in new]
        if path.exists()
        else []
    )
    path.write_text(json.dumps(others + rows, indent=1))
