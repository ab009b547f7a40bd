"""A load generator for HTTP/1.1: an open loop, in which requests leave at a fixed rate
whether answers come or not, and a closed loop of clients that wait for each answer.
In the open loop a latency counts from when its request was due, so that waiting for a
busy server is not left out (https://github.com/giltene/wrk2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Tally:
    "What a load measured."

    seconds: list[float] = field(default_factory=list)  # of each answer
    statuses: list[int] = field(default_factory=list)  # of HTTP
    begin: float = field(default_factory=time.perf_counter)

    def add(
        self,
        start: float,  # when the request was due
        status: int,  # of HTTP
    ) -> None:
        "Count an answer that has just come."
        self.seconds.append(time.perf_counter() - start)
        self.statuses.append(status)

    def summary(self) -> dict:  # milliseconds, requests per second, failures
        "Percentiles and the rate."
        passed = time.perf_counter() - self.begin
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1000
        return {
            "requests": len(self.seconds),
            "failed": sum(status != 200 for status in self.statuses),
            "per_second": len(self.seconds) / passed,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
        }


def write_get(
    path: str,  # with its query
) -> bytes:
    "A GET request."
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def write_post(
    path: str,  # of the address
    body: bytes,  # JSON
) -> bytes:
    "A POST request."
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    "One connection that is kept open."

    def __init__(
        self,
        port: int,  # of a server on this machine
    ):
        self.port = port
        self.streams = None

    async def ask(
        self,
        request: bytes,  # head and body
    ) -> int:  # the status
        "Send a request and read the answer to its end."
        if self.streams is None or self.streams[0].at_eof():  # idle for too long
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        await reader.readexactly(int(length))
        return int(head[9:12])

    def close(self) -> None:
        "Hang up."
        if self.streams is not None:
            self.streams[1].close()


async def keep_rate(
    port: int,  # of a server on this machine
    requests: Sequence[bytes],  # in turn
    rate: float,  # requests per second
    seconds: float,  # how long
) -> dict:  # of `Tally`
    "The open loop: requests at even distances."
    idle: list[Connection] = []
    tally = Tally()

    async def send(request: bytes, due: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        tally.add(due, await connection.ask(request))
        idle.append(connection)

    begin = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        request = requests[number % len(requests)]
        tasks.append(asyncio.create_task(send(request, due)))
    await asyncio.gather(*tasks)
    found = tally.summary()
    for connection in idle:
        connection.close()
    return found


async def keep_busy(
    port: int,  # of a server on this machine
    requests: Sequence[bytes],  # in turn
    n_clients: int,  # that wait for their answers
    seconds: float,  # how long
) -> dict:  # of `Tally`
    "The closed loop: each client sends the next request when it has its answer."
    tally = Tally()
    end = time.perf_counter() + seconds
    queue = iter(range(10**9))

    async def work() -> None:
        connection = Connection(port)
        while time.perf_counter() < end:
            request = requests[next(queue) % len(requests)]
            start = time.perf_counter()
            tally.add(start, await connection.ask(request))
        connection.close()

    await asyncio.gather(*(work() for _ in range(n_clients)))
    return tally.summary()
