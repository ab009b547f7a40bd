r"""A service under load, over HTTP: milliseconds that a client waits, requests per
second, CPU and memory, for the exported folder with one and two workers, beside the
trained model, a plain service (plain_service.py), one that recommends nothing, and the
service of the first edition up to 100,000 items. The shop is that of serving.py. One
core belongs to the server, one to the clients.

    python benchmarks/serving_http.py --items 5000 100000 1000000 \
        --out benchmarks/results/serving_http.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import keep
from _service import find_port, list_workers, measure_memory, wait_until_ready
from before_after import FIRST_EDITION, checked_out
from load import keep_busy, keep_rate, write_get, write_post
from serving import make_log, make_model, make_questions

from recsys_nb.data import Dataset
from recsys_nb.serving import export

HERE = Path(__file__).parent
LOADS = {
    "1 client": (keep_busy, 1, 3),
    "100 a second": (keep_rate, 100, 10),
    "8 clients": (keep_busy, 8, 4),
    "32 clients": (keep_busy, 32, 4),
}  # name -> what makes the load, its size, its seconds
TICKS = os.sysconf("SC_CLK_TCK")


def make_commands(
    exported: Path,  # an exported folder
    saved: Path,  # the saved model
    first: tuple[Path, Path] | None,  # tree and model of the first edition; None: not
) -> dict[str, tuple[list[str], set[int]]]:  # without the port; the cores
    "What is measured."
    python, plain = sys.executable, str(HERE / "plain_service.py")
    serve = [python, "-m", "recsys_nb.cli", "serve", "--model"]
    commands = {
        "nothing recommended": ([python, plain, str(exported), "PORT", "noop"], {1}),
        "plain": ([python, plain, str(exported), "PORT"], {1}),
        "exported": ([*serve, str(exported), "--port", "PORT"], {1}),
        "exported, 2 workers": (
            [*serve, str(exported), "--port", "PORT", "--workers", "2"],
            {0, 1},
        ),
        "trained model": ([*serve, str(saved), "--port", "PORT"], {1}),
    }
    if first is not None:
        tree, model = first
        # -P: the package of the current folder is this edition
        own = ["env", f"PYTHONPATH={tree}", python, "-P", *serve[1:], str(model)]
        commands["first edition"] = ([*own, "--port", "PORT"], {1})
    return commands


LARGEST_FIRST = 100_000  # items; above it the first edition is not measured


def train_first_edition(
    tree: Path,  # of the first edition
    log: Dataset,  # of `make_log`
    exact_to: int,  # above which the retriever uses an index
    folder: Path,  # a new folder
) -> Path:  # of the model
    "Two stages of the first edition on the same log, trained by its own code."
    folder.mkdir()
    tables = {"log": log.interactions, "users": log.users, "items": log.items}
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    command = [sys.executable, str(HERE / "first_service.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(exact_to)], check=True, env=environment)
    return folder / "model"


def make_requests(
    log,  # a Dataset of `make_log`
    n: int,  # of each kind
) -> dict[str, list[bytes]]:
    "The questions of serving.py as requests of HTTP."
    requests = {}
    for kind, questions in make_questions(log, n).items():
        if kind.startswith("GET"):
            paths = [f"/recommend/{one['user_id']}?k=10" for one in questions]
            requests[kind] = [write_get(path) for path in paths]
            continue
        bodies = [json.dumps(name_bounds(one)).encode() for one in questions]
        requests[kind] = [write_post("/recommend", body) for body in bodies]
    return requests


def name_bounds(
    question: dict,  # arguments of recommend
) -> dict:  # of a request
    "A range is a pair in Python and has names in JSON."
    if "where" not in question:
        return question
    rules = {
        column: dict(zip(("min", "max"), bounds, strict=True))
        for column, bounds in question["where"].items()
    }
    return question | {"where": rules}


class Server:
    "A process that answers, with all its workers."

    def __init__(
        self,
        command: list[str],  # PORT stands for the port
        cores: set[int],  # that it may use
    ):
        self.port = find_port()
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [str(self.port) if word == "PORT" else word for word in command],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        wait_until_ready(self.process, self.port)
        self.start_seconds = time.perf_counter() - begin

    def cpu_seconds(self) -> float:
        "What all of them have used."
        total = 0
        for process in (self.process.pid, *list_workers(self.process)):
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")")[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def stop(self) -> None:
        "Ask it to end, and wait."
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def measure(
    server: Server,  # that is ready
    requests: list[bytes],  # of one kind
) -> dict[str, dict]:  # load -> measures
    "All loads, one after the other."
    asyncio.run(keep_busy(server.port, requests, 2, 1.0))  # caches are warm
    found = {}
    for name, (make_load, size, seconds) in LOADS.items():
        before = server.cpu_seconds()
        row = asyncio.run(make_load(server.port, requests, size, seconds))
        used = server.cpu_seconds() - before
        if row["failed"]:
            raise RuntimeError(
                f"{row['failed']:,} of {row['requests']:,} failed: {name}"
            )
        row["cpu_ms"] = 1000 * used / row["requests"]
        found[name] = {key: round(value, 3) for key, value in row.items()}
    return found


def run_size(
    n_items: int,  # size of the catalogue
    exact_to: int,  # above which the retriever uses an index
    wanted: list[str],  # names of `make_commands`; empty: all
    tree: Path,  # of the first edition
) -> list[dict]:  # rows of results
    "All servers at one size."
    log = make_log(n_items, n_users=3_000, n_events=60 * 3_000)
    model = make_model(log, exact_to)
    requests = make_requests(log, 500)
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        exported = export(model, Path(tmp) / "exported")
        saved = Path(tmp) / "saved"
        model.save(saved)
        first = None
        if n_items <= LARGEST_FIRST and (not wanted or "first edition" in wanted):
            own = train_first_edition(tree, log, exact_to, Path(tmp) / "first")
            first = tree, own
        for name, (command, cores) in make_commands(exported, saved, first).items():
            if wanted and name not in wanted:
                continue
            server = Server(command, cores)
            try:
                rows += measure_server(server, name, requests, len(log.item_ids))
            finally:
                server.stop()
    return rows


def measure_server(
    server: Server,  # that is ready
    name: str,  # of it
    requests: dict[str, list[bytes]],  # by kind
    n_items: int,  # size of the catalogue
) -> list[dict]:  # rows of results
    "A row for each kind of question and each load."
    rows = []
    for kind, asked in requests.items():
        if "rule" in kind and not name.startswith("exported"):
            continue  # the others know no rules, or are shown to be slower already
        for load, found in measure(server, asked).items():
            row = {"items": n_items, "server": name, "question": kind, "load": load}
            rows.append(row | found)
            print(rows[-1], flush=True)
    about = {
        "start_seconds": round(server.start_seconds, 2),
        "mb": round(measure_memory(server.process), 1),
    }
    return [row | about for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="*", default=[5_000, 100_000])
    parser.add_argument("--exact-to", type=int, default=50_000)
    parser.add_argument("--servers", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.sched_setaffinity(0, {0})
    with checked_out(FIRST_EDITION) as tree:
        for n_items in options.items:
            rows = run_size(n_items, options.exact_to, options.servers, tree)
            keep(options.out, rows, ("items", "server", "question", "load"))


if __name__ == "__main__":
    main()
