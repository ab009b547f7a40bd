"""A service in a process of its own, as benchmarks and tests see it: a free port, when
it is ready, a client that asks it, its workers, and the memory of all of them."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKEN = "a token of many characters"


def find_port() -> int:
    "A port that is free."
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def wait_until_ready(
    process: subprocess.Popen,  # of the service
    port: int,  # that it listens on
    log: Path | None = None,  # what it writes, for the error; None: nowhere
) -> None:
    "Until /readyz answers; an error where the service has ended, or takes too long."
    for _ in range(2400):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/readyz")
            connection.getresponse().read()
            connection.close()
            return
        except (OSError, http.client.HTTPException):
            if process.poll() is not None:
                said = "" if log is None else f": {log.read_text()}"
                raise RuntimeError(f"the service has ended{said}") from None
            time.sleep(0.05)
    raise TimeoutError("the service did not answer within two minutes")


@contextmanager
def serving(
    model: Path,  # an exported folder, or a link to one
    *flags: str,  # more of `recsys-nb serve`
) -> Iterator[int]:  # the port
    "A service in a process of its own, from when it is ready."
    port = find_port()
    words = ["serve", "--model", str(model), "--port", str(port), *flags]
    process = subprocess.Popen(
        [sys.executable, "-m", "recsys_nb.cli", *words], stdout=subprocess.DEVNULL
    )
    try:
        wait_until_ready(process, port)
        yield port
    finally:
        process.terminate()
        process.wait()


class Client:
    "A connection to a service, opened again where it was closed."

    def __init__(
        self,
        port: int,  # of the service
    ):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(
        self,
        path: str,  # of the address
        body: Any = None,  # for a POST; None: a GET
        token: str = TOKEN,  # of the service
    ) -> tuple[int, Any]:  # status; the answer, text where it is no JSON
        "One request."
        headers = {"authorization": f"Bearer {token}"}
        text = None
        if body is not None:
            text = json.dumps(body)
            headers["content-type"] = "application/json"
        method = "GET" if body is None else "POST"
        self.connection.request(method, path, text, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        is_json = answer.getheader("content-type") == "application/json"
        return answer.status, json.loads(content) if is_json else content.decode()


def list_workers(
    process: subprocess.Popen,  # the service
) -> list[int]:  # process ids
    "The workers of a service."
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in path.read_text().split()]


def measure_memory(
    process: subprocess.Popen,  # the service
) -> float:  # MB, what is shared counted once
    "The memory of the service and its workers."
    total = 0
    for pid in (process.pid, *list_workers(process)):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        sizes = [line.split()[1] for line in lines if line.startswith("Pss:")]
        total += sum(map(int, sizes))
    return total / 1024
