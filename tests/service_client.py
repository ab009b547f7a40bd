"""A service of a stub over real sockets, and a client that asks it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

here = Path(__file__).parent
TOKEN = "a token of many characters"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Client:
    "One connection to a service."

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, path, body=None, token=TOKEN):
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
    port = free_port()
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
