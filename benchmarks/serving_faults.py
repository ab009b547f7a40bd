"""What others feel while somebody misbehaves, and while models are swapped: requests at
a fixed rate to `recsys-nb serve` with an exported model, one worker, over real sockets.

Two questions are measured. How long do requests take beside 500 connections that send
half a request and a client that sends ten bodies of 100 MB a second? And how many of
10,000 requests fail while ten new versions take over? Those that misbehave have
processes of their own: they slow the service, and not the clients that are measured.

    python benchmarks/serving_faults.py --out benchmarks/results/serving_faults.json
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _common import keep
from _service import TOKEN, Client, serving

from recsys_nb.data import simulate
from recsys_nb.recommenders import ItemKNN
from recsys_nb.serving import export

processes = multiprocessing.get_context("fork")
HALF_A_REQUEST = (
    "POST /recommend HTTP/1.1\r\nhost: shop\r\n"
    f"authorization: Bearer {TOKEN}\r\ncontent-length: 50\r\n\r\n{{"
).encode()
MEGABYTE = b" " * 1_000_000


@dataclass
class Answers:
    "The times and statuses of requests."

    seconds: list[float] = field(default_factory=list)  # from when each was due
    statuses: Counter = field(default_factory=Counter)  # status or error -> how many

    def describe(self) -> dict:  # milliseconds, counts
        "The answers in a few numbers."
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1000
        return {
            "requests": len(self.seconds),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "max_ms": round(1000 * max(self.seconds), 2),
            "statuses": {str(key): n for key, n in self.statuses.items()},
        }


def ask_at_a_rate(
    port: int,  # of the service
    n_requests: int,  # of all
    rate: float,  # requests a second, whether or not earlier ones are answered
    n_clients: int = 16,  # that share them
) -> Answers:
    "Requests that are due at fixed times; waiting for a client counts."
    answers, lock = Answers(), threading.Lock()
    begin = time.perf_counter() + 0.5

    def work(first: int) -> None:
        client = Client(port)
        for number in range(first, n_requests, n_clients):
            due = begin + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                status, _ = client.ask(f"/recommend/user_{number % 1000}?k=10")
            except (OSError, http.client.HTTPException) as error:
                status, client = type(error).__name__, Client(port)
            with lock:
                answers.seconds.append(time.perf_counter() - due)
                answers.statuses[status] += 1

    with ThreadPoolExecutor(n_clients) as pool:
        list(pool.map(work, range(n_clients)))
    return answers


@contextmanager
def serve(
    model: Path,  # of an export, or a link to one
) -> Iterator[int]:  # the port
    "A service that asks for the token."
    token = model.parent / "token.txt"
    token.write_text(TOKEN, encoding="utf-8")
    with serving(model, "--token-file", str(token)) as port:
        yield port


Work = Callable[[Any, Counter], None]  # until an event is set; what it did


@contextmanager
def beside(
    work: Work,  # what goes on meanwhile
    found: Counter,  # written into: what it did
) -> Iterator[None]:
    "Work in a process of its own."
    stop, results = processes.Event(), processes.SimpleQueue()

    def run() -> None:
        counts: Counter = Counter()
        work(stop, counts)
        results.put(counts)

    process = processes.Process(target=run)
    process.start()
    try:
        yield
    finally:
        stop.set()
        found.update(results.get())
        process.join()


def hold_connections(
    port: int,  # of the service
    n_connections: int,  # at a time
) -> Work:
    "Connections that send half a request; those turned away are opened again."

    def work(stop: Any, counts: Counter) -> None:
        held: list[socket.socket] = []
        while not stop.wait(0.1):
            held = [one for one in held if not is_closed(one)]
            for _ in range(min(20, n_connections - len(held))):
                one = socket.create_connection(("127.0.0.1", port), timeout=10)
                one.sendall(HALF_A_REQUEST)
                held.append(one)
                counts["slow connections"] += 1
            counts["held at a time"] = max(counts["held at a time"], len(held))
        for one in held:
            one.close()

    return work


def is_closed(
    connection: socket.socket,  # of a client
) -> bool:
    "Whether the other side has closed a connection."
    connection.setblocking(False)
    try:
        return connection.recv(1_000) is not None  # an answer, or the end
    except BlockingIOError:
        return False
    except OSError:
        return True


def send_large_bodies(
    port: int,  # of the service
    n_megabytes: int,  # of each body
) -> Work:
    "Bodies that are far too large, ten a second."
    head = (
        "POST /recommend HTTP/1.1\r\nhost: shop\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {TOKEN}\r\n"
        f"content-length: {n_megabytes * len(MEGABYTE)}\r\n\r\n"
    )

    def work(stop: Any, counts: Counter) -> None:
        while not stop.wait(0.1):
            counts["large bodies"] += 1
            with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
                try:
                    one.sendall(head.encode())
                    for _ in range(n_megabytes):
                        one.sendall(MEGABYTE)
                except OSError:
                    counts["closed before the end"] += 1
                counts[f"answered {read_status(one)}"] += 1

    return work


def read_status(
    connection: socket.socket,  # that a request was sent on
) -> str:  # of HTTP; 'nothing': there is no answer
    "The status of an answer."
    try:
        line = connection.recv(100).decode("latin-1")
    except OSError:
        return "nothing"
    return line.split(" ")[1] if line.startswith("HTTP/") else "nothing"


def swap_models(
    port: int,  # of the service
    current: Path,  # the link that it watches
    versions: list[Path],  # to which it points in turn
    seconds: float,  # between two swaps
) -> Work:
    "Let one version after the other take over."

    def work(stop: Any, counts: Counter) -> None:
        for version in versions:
            if stop.wait(seconds):
                return
            following = current.with_name("next")
            following.symlink_to(version.name)
            os.replace(following, current)
            status, _ = Client(port).ask("/admin/reload", {})
            counts[f"reload answered {status}"] += 1

    return work


def measure_faults(
    model: Path,  # of an export
    n_requests: int,  # of each measurement
    rate: float,  # requests a second
) -> list[dict]:  # rows of results
    "Requests alone, and beside clients that misbehave."
    counts: Counter = Counter()
    with serve(model) as port:
        ask_at_a_rate(port, 200, rate)  # until everything is warm
        alone = ask_at_a_rate(port, n_requests, rate)
        slow, large = hold_connections(port, 500), send_large_bodies(port, 100)
        with beside(slow, counts), beside(large, counts):
            time.sleep(5.0)  # until all connections are held
            among = ask_at_a_rate(port, n_requests, rate)
    others = "beside 500 half requests and bodies of 100 MB"
    return [
        {"measure": "alone"} | alone.describe(),
        {"measure": others} | among.describe() | {"others": dict(counts)},
    ]


def measure_swaps(
    models: Path,  # a folder with the exports v0 and v1
    n_requests: int,  # in all
    rate: float,  # requests a second
    n_swaps: int,  # new versions during that time
) -> dict:  # a row of results
    "Requests while new versions take over."
    current = models / "current"
    current.symlink_to("v0")
    versions = [models / f"v{number % 2}" for number in range(1, n_swaps + 1)]
    counts: Counter = Counter()
    pause = n_requests / rate / (n_swaps + 1)
    with serve(current) as port:
        swaps = swap_models(port, current, versions, pause)
        with beside(swaps, counts):
            answers = ask_at_a_rate(port, n_requests, rate)
    about = {"measure": "while models are swapped"} | answers.describe()
    about["failed"] = about["requests"] - about["statuses"].get("200", 0)
    return about | {"swaps": counts["reload answered 200"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--faults", type=int, default=3_000, help="requests of each")
    parser.add_argument("--requests", type=int, default=10_000, help="while swapping")
    parser.add_argument("--swaps", type=int, default=10, help="new versions")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    train = simulate(n_users=10_000, n_items=5_000, n_interactions=100_000)
    model = ItemKNN().fit(train)
    with tempfile.TemporaryDirectory() as place:
        models = Path(place)
        for name in ("v0", "v1"):
            export(model, models / name)
        rows = measure_faults(models / "v0", options.faults, options.rate)
        report(rows, options)
        row = measure_swaps(models, options.requests, options.rate, options.swaps)
        report([row], options)


def report(
    rows: list[dict],  # of results
    options: argparse.Namespace,  # of the command line
) -> None:
    "Print and keep rows, with what the machine did meanwhile."
    about = {"rate": options.rate, "load_average": round(os.getloadavg()[1], 1)}
    rows = [row | about for row in rows]
    print(json.dumps(rows, indent=1), flush=True)
    keep(options.out, rows, ("measure",))


if __name__ == "__main__":
    main()
