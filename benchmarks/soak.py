"""A service of two workers under mixed load, while models are swapped, a bad one is
tried, and one worker is killed: lists by GET, by POST with events and in batches,
similar items, and reported events. Counted are answers with errors of the service,
acknowledged events that are not on disk, connections that broke, and memory.

A killed worker takes the connections with it that it held: each client sees that as one
broken connection, and asks again. Broken connections before the kill count apart.

    python benchmarks/soak.py --seconds 600 --out benchmarks/results/soak.json
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from _common import keep
from _service import find_port, list_workers, measure_memory, wait_until_ready

from recsys_nb.data import World
from recsys_nb.recommenders import EASE
from recsys_nb.serving import export

TOKEN = "a token of many characters"
N_USERS, N_ITEMS = 200, 100  # of the made-up shop
N_REPORTERS = 2  # threads that report events
PAUSE = 0.005  # seconds between two requests of a client
BROKEN = (ConnectionError, http.client.HTTPException, TimeoutError)


@dataclass
class Record:
    "What all clients have seen."

    statuses: Counter = field(default_factory=Counter)  # (kind, status) -> how many
    seconds: list[float] = field(default_factory=list)  # of each answer
    broken: list[float] = field(default_factory=list)  # when a connection broke
    acknowledged: list[str] = field(default_factory=list)  # request ids of events
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(
        self,
        kind: str,  # of a request
        status: int,  # of HTTP
        seconds: float,  # to the answer
    ) -> None:
        "Count an answer."
        with self.lock:
            self.statuses[kind, status] += 1
            self.seconds.append(seconds)

    def count(
        self,
        least: int,  # the lowest status
        below: int,  # above the highest
    ) -> int:
        "How many answers have a status in a range."
        found = self.statuses.items()
        return sum(n for (_, status), n in found if least <= status < below)


class Client(threading.Thread):
    "One connection that is used until it breaks, and then opened again."

    def __init__(
        self,
        port: int,  # of the service
        record: Record,  # where answers are counted
        stopped: threading.Event,  # set when it is over
        seed: int,  # draws the requests
    ):
        super().__init__(daemon=True)
        self.port, self.record, self.stopped = port, record, stopped
        self.rng = random.Random(seed)
        self.seed = seed
        self.connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        kind: str,  # for the count
        path: str,  # of the address
        body: dict | None = None,  # None: a GET
    ) -> int:  # status; 0: the connection broke
        "One request."
        if self.connection is None:
            place = "127.0.0.1", self.port
            self.connection = http.client.HTTPConnection(*place, timeout=60)
        headers = {"authorization": f"Bearer {TOKEN}"}
        headers["content-type"] = "application/json"
        method = "GET" if body is None else "POST"
        text = None if body is None else json.dumps(body)
        begin = time.monotonic()
        try:
            self.connection.request(method, path, text, headers)
            answer = self.connection.getresponse()
            answer.read()
        except BROKEN:
            self.connection.close()
            self.connection = None
            self.record.broken.append(time.monotonic())
            return 0
        self.record.note(kind, answer.status, time.monotonic() - begin)
        return answer.status


class Asker(Client):
    "Asks for lists and similar items, in all ways."

    def run(self) -> None:
        "Ask until it is over."
        ways = [self.ask_list, self.ask_with_events, self.ask_batch, self.ask_similar]
        while not self.stopped.is_set():
            self.rng.choice(ways)()
            time.sleep(PAUSE)

    def draw_user(self) -> str:
        "A known user, or a stranger."
        return f"user_{self.rng.randrange(N_USERS + 20)}"

    def ask_list(self) -> None:
        "A list by GET."
        self.ask("list", f"/recommend/{self.draw_user()}?k=5")

    def ask_with_events(self) -> None:
        "A list by POST, with newer events."
        items = [f"item_{self.rng.randrange(N_ITEMS)}" for _ in range(20)]
        events = [{"item_id": item} for item in items]
        body = {"user_id": self.draw_user(), "events": events, "k": 5}
        self.ask("list with events", "/recommend", body)

    def ask_batch(self) -> None:
        "Ten lists at once."
        questions = [{"user_id": self.draw_user(), "k": 5} for _ in range(10)]
        self.ask("batch", "/recommend/batch", {"questions": questions})

    def ask_similar(self) -> None:
        "The items like one."
        item = self.rng.randrange(N_ITEMS)
        self.ask("similar", f"/item/item_{item}/similar?k=5")


class Reporter(Client):
    "Reports events, and remembers which were acknowledged."

    def run(self) -> None:
        "Report until it is over."
        number = 0
        while not self.stopped.is_set():
            number += 1
            mark = f"{self.seed}-{number}"
            event = {
                "user_id": f"user_{self.rng.randrange(N_USERS)}",
                "item_id": f"item_{self.rng.randrange(N_ITEMS)}",
                "event_type": "click",
                "request_id": mark,
            }
            if self.ask("events", "/events", {"events": [event]}) == 200:
                self.record.acknowledged.append(mark)
            time.sleep(PAUSE)


def make_versions(
    place: Path,  # where they go
) -> Path:  # the link
    "Three good versions, a bad one, and a link to the first."
    for number in range(3):
        world = World(n_users=N_USERS, n_items=N_ITEMS, seed=number)
        log = world.sample(4_000)
        export(EASE().fit(log.positives()), place / f"v{number}")
    (place / "bad").mkdir()
    (place / "bad" / "manifest.json").write_text("{}")
    current = place / "current"
    current.symlink_to("v0")
    return current


def point_to(
    current: Path,  # the link
    version: str,  # a folder beside it
) -> None:
    "Let a link name another version, in one step."
    beside = current.with_name(".next")
    beside.symlink_to(version)
    os.replace(beside, current)


def start_service(
    place: Path,  # of the shop
    port: int,  # to listen on
) -> subprocess.Popen:
    "`recsys-nb serve` with two workers; ends as soon as the caller kills its group."
    (place / "token").write_text(TOKEN)
    words = ["--model", "models/current", "--port", str(port), "--workers", "2"]
    words += ["--token-file", "token", "--events", "events"]
    log = (place / "log.txt").open("w")
    home = str(Path(__file__).resolve().parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "recsys_nb.cli", "serve", *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": home, "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        wait_until_ready(process, port, place / "log.txt")
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process


@dataclass
class Disturbance:
    "What happens to the service while clients ask."

    process: subprocess.Popen  # the service
    current: Path  # the link to its model
    seconds: float  # of the whole
    killed_at: float | None = None  # when a worker was killed
    n_switched: int = 0  # times that the link was moved
    memory: list[tuple[float, float]] = field(default_factory=list)  # share of time, MB

    def run(self) -> None:
        "Swap a model every few seconds, kill a worker at a quarter, measure memory."
        begin = time.monotonic()
        names = ["v1", "v2", "bad", "v0"]
        every = max(2.0, self.seconds / 20)
        while (passed := time.monotonic() - begin) < self.seconds:
            if passed > self.n_switched * every:
                point_to(self.current, names[self.n_switched % len(names)])
                self.n_switched += 1
            if self.killed_at is None and passed > self.seconds / 4:
                self.killed_at = time.monotonic()
                os.kill(list_workers(self.process)[0], signal.SIGKILL)
            self.memory.append((passed / self.seconds, measure_memory(self.process)))
            time.sleep(0.5)

    def find_median(
        self,
        low: float,  # share of the time
        high: float,
    ) -> float:  # MB
        "The median memory in a part of the time."
        return float(np.median([mb for t, mb in self.memory if low <= t <= high]))


def read_stored(
    events: Path,  # the folder of reported events
) -> list[str]:  # request ids
    "The events that are on disk once the service has ended."
    found = []
    for path in sorted(events.glob("*.parquet")):
        found += pq.read_table(path, columns=["request_id"])["request_id"].to_pylist()
    for path in sorted((events / ".journal").glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        found += [json.loads(one)["request_id"] for one in lines if one.endswith("}")]
    return found


def count_swaps(
    client: Client,  # of the service
) -> dict[str, float]:  # 'taken' and 'refused', by all workers
    "What /metrics says of new versions."
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    headers = {"authorization": f"Bearer {TOKEN}"}
    connection.request("GET", "/metrics", headers=headers)
    page = connection.getresponse().read().decode()
    found = {"taken": 0.0, "refused": 0.0}
    for line in page.splitlines():
        for name in found:
            if line.startswith("recsys_swaps_total") and f'"{name}"' in line:
                found[name] += float(line.split()[-1])
    return found


def summarise(
    record: Record,  # of the clients
    disturbance: Disturbance,  # of the service
    stored: list[str],  # request ids on disk
) -> dict:  # a row of results
    "What a soak has found."
    killed_at = disturbance.killed_at or float("inf")
    early = disturbance.find_median(0.35, 0.6)
    late = disturbance.find_median(0.75, 1.0)
    times = 1000 * np.array(record.seconds)
    kinds = Counter()
    for (kind, _), n in record.statuses.items():
        kinds[kind] += n
    return {
        "seconds": disturbance.seconds,
        "requests": dict(sorted(kinds.items())),
        "errors_of_the_service": record.count(500, 600),
        "refused_questions": record.count(400, 500),
        "acknowledged_events": len(record.acknowledged),
        "lost_events": len(set(record.acknowledged) - set(stored)),
        "stored_twice": len(stored) - len(set(stored)),
        "killed_workers": int(disturbance.killed_at is not None),
        "broken_before_the_kill": sum(t < killed_at for t in record.broken),
        "broken_by_the_kill": sum(t >= killed_at for t in record.broken),
        "links_moved": disturbance.n_switched,
        "mb_early": round(early, 1),
        "mb_late": round(late, 1),
        "growth": round(late / early - 1, 4),
        "p50_ms": round(float(np.median(times)), 2),
        "p99_ms": round(float(np.quantile(times, 0.99)), 2),
        "load_average": round(os.getloadavg()[0], 1),
    }


def soak(
    seconds: float,  # how long
    n_askers: int = 3,  # threads that ask for lists
) -> dict:  # a row of results
    "Serve, ask, swap, kill, and count."
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "models").mkdir()
        current = make_versions(place / "models")
        port = find_port()
        process = start_service(place, port)
        record, stopped = Record(), threading.Event()
        make = [Asker] * n_askers + [Reporter] * N_REPORTERS
        clients = [kind(port, record, stopped, n) for n, kind in enumerate(make)]
        disturbance = Disturbance(process, current, seconds)
        try:
            for client in clients:
                client.start()
            disturbance.run()
            stopped.set()
            for client in clients:
                client.join()
            swaps = count_swaps(clients[0])
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        found = summarise(record, disturbance, read_stored(place / "events"))
        return found | {f"swaps_{k}": v for k, v in swaps.items()} | {"status": status}


def main() -> int:  # 0: nothing was lost, and nothing failed
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    row = soak(options.seconds, options.clients)
    print(json.dumps(row, indent=1))
    keep(options.out, [row], ("seconds",))
    return 1 if row["errors_of_the_service"] or row["lost_events"] else 0


if __name__ == "__main__":
    sys.exit(main())
