"""A service of a stub over real sockets, and a client that asks it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

here = Path(__file__).parent
sys.path.insert(0, str(here.parent / "benchmarks"))
from _service import TOKEN, Client, find_port  # noqa: E402, F401


@contextmanager
def running(command, port, log, path="/readyz"):
    "A program in a process group of its own, which answers; killed at the end."
    tests = os.pathsep.join([str(here.parent), str(here)])
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": tests},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(process, port, log, path)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def serving(folder, **options):
    "A service of a stub."
    port = find_port()
    log = Path(folder).parent / "log.txt"
    script = [sys.executable, str(here / "service_stub.py"), folder, str(port)]
    with running([*script, json.dumps(options)], port, log) as process:
        yield process, port, log


def wait_for(process, port, log, path="/readyz"):
    "Until the program answers with 200."
    status = None
    for _ in range(600):
        try:
            status, _ = Client(port).ask(path)
        except ConnectionError:
            assert process.poll() is None, log.read_text()
        if status == 200:
            return
        time.sleep(0.05)
    pytest.fail(f"no 200 at {path}, but {status}: {log.read_text()}")
