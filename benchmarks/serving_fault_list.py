r"""What the service of the first edition and that of today do with the same faults:
bodies that no client should send, half a request at the end, a damaged model, and what
the environment says. Both serve two stages, trained on the same made-up shop; each is
asked over real sockets. The rows stand beside those of serving_faults.py.

    python benchmarks/serving_fault_list.py --out benchmarks/results/serving_faults.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from _common import keep
from _service import find_port, list_workers, wait_until_ready
from before_after import FIRST_EDITION, checked_out
from serving import make_log, make_model
from serving_http import train_first_edition

from recsys_nb.recommenders import Recommender

SECRET = "zxqsecretqxz"  # what a client sent, and no answer should repeat
LARGE = 100_000_000  # bytes
LONGEST_STOP = 30  # seconds after which nobody waits for the end any more


def nest(
    depth: int,  # how many lists
) -> str:
    "Lists inside lists."
    return "[" * depth + "]" * depth


BODIES = {
    "NaN as an id": '{"user_id": NaN}',
    "Infinity as an id": '{"user_id": Infinity}',
    "1e400 as an id": '{"user_id": 1e400}',
    "a lone surrogate as an id": '{"user_id": "\\ud800"}',
    "100,000 nested lists": f'{{"user_id": {nest(100_000)}}}',
    "900 nested lists": f'{{"user_id": {nest(900)}}}',
    "a text in place of k": f'{{"user_id": 1, "k": "{SECRET}"}}',
    "an unknown field": f'{{"user_id": 1, "{SECRET}": 1}}',
    "an id of 50,000 characters": f'{{"user_id": "{SECRET}{"x" * 50_000}"}}',
    "no JSON": SECRET,
    "a body of 100 MB": f'{{"user_id": "{SECRET}{"x" * LARGE}"}}',
}  # fault -> body of POST /recommend


@dataclass(frozen=True)
class Edition:
    "One of the two editions, with a model of its own."

    tree: Path  # first on its path
    saved: Path  # a folder of its own `save`
    exported: Path  # a folder of its own `export`
    served: Path  # which of the two its service takes

    @property
    def command(self) -> list[str]:  # without the words of a command
        "Its command line; -P: the package is that of the path."
        return [sys.executable, "-P", "-m", "recsys_nb.cli"]

    def environment(
        self,
        **variables: str,  # more of them
    ) -> dict[str, str]:
        "What its processes find."
        own = {"PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1"}
        return os.environ | own | variables


@contextmanager
def starting(
    edition: Edition,  # that serves
    folder: Path,  # of a model
    **variables: str,  # of the environment
) -> Iterator[tuple[subprocess.Popen, int, Path]]:  # process, port, what it writes
    "A service that may not be ready yet; killed at the end."
    port = find_port()
    words = ["serve", "--model", str(folder), "--port", str(port)]
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log.txt"
        process = subprocess.Popen(
            [*edition.command, *words],
            env=edition.environment(**variables),
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process, port, log
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# --- bodies ---------------------------------------------------------------------------


def send(
    port: int,  # of the service
    body: bytes,  # of the request
    length: int | None = None,  # that the request declares; None: that of the body
) -> socket.socket:
    "A connection on which a request was sent, as far as the service took it."
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = (
        "POST /recommend HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    )
    with suppress(OSError):  # it may be refused before it is read
        connection.sendall(head.encode() + body)
    return connection


def ask(
    port: int,  # of the service
    body: bytes,  # of the request
) -> tuple[int | None, bool]:  # status, None: no answer; whether it repeats the secret
    "One request, and its answer."
    parts = []
    with send(port, body) as connection, suppress(OSError):
        while part := connection.recv(1 << 20):
            parts.append(part)
    answer = b"".join(parts)
    status = int(answer.split(b" ", 2)[1]) if answer else None
    return status, SECRET.encode() in answer


def ask_all(
    edition: Edition,  # that answers
) -> dict[str, dict]:  # fault -> status, repeated
    "What becomes of every body."
    found = {}
    with starting(edition, edition.served) as (process, port, log):
        wait_until_ready(process, port, log)
        for fault, body in BODIES.items():
            status, repeated = ask(port, body.encode())
            found[fault] = {"found": f"status {status}", "repeated": repeated}
            if process.poll() is not None:
                raise RuntimeError(f"the service has ended: {fault}")
    return found


# --- start and end --------------------------------------------------------------------


def measure_stop(
    edition: Edition,  # that serves
) -> str:
    "Seconds from SIGTERM to the end, while a client has sent half a request."
    with starting(edition, edition.served) as (process, port, log):
        wait_until_ready(process, port, log)
        with send(port, b"{", length=50):
            time.sleep(0.5)
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LONGEST_STOP)
            except subprocess.TimeoutExpired:
                return f"still there after {LONGEST_STOP} s"
            return f"ends after {time.monotonic() - begin:.1f} s"


def start_with(
    edition: Edition,  # that serves
    folder: Path,  # of a model
    culprit: str,  # what a message should name
    **variables: str,  # of the environment
) -> str:
    "What becomes of a service at its start."
    with starting(edition, folder, **variables) as (process, port, log):
        try:
            wait_until_ready(process, port, log)
        except RuntimeError:
            last = log.read_text().strip().splitlines()[-1]
            return f"ends, {'naming' if culprit in last else 'without naming'} it"
        n_workers = max(1, len(list_workers(process)))
        return f"answers, with {n_workers} worker{'s' if n_workers > 1 else ''}"


def start_damaged(
    edition: Edition,  # that serves
    is_removed: bool = False,  # the file is missing, rather than changed
) -> str:
    "What becomes of a service whose largest file of weights is not as it was."
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copytree(edition.served, Path(place) / "copy")
        files = copy.rglob("*.safetensors")
        file = max(files, key=lambda path: path.stat().st_size)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        if is_removed:
            file.unlink()
        return start_with(edition, copy, file.name)


def show_mode(
    folder: Path,  # of a model
) -> str:
    "What others may do with the file that is least open to them."
    modes = [path.stat().st_mode & 0o777 for path in folder.rglob("*")]
    return f"{min(modes):04o}"


def export_model(
    edition: Edition,  # whose saved model is exported
) -> str:
    "What becomes of an export."
    words = ["--model", str(edition.saved), "--out", str(edition.exported)]
    command = [*edition.command, "export", *words]
    done = subprocess.run(command, capture_output=True, env=edition.environment())
    if done.returncode:
        return "is refused"
    return f"is written with mode {show_mode(edition.exported)}"


def list_faults(
    edition: Edition,  # that serves
) -> dict[str, dict]:  # fault -> found[, repeated]
    "What becomes of all faults."
    exported = export_model(edition)
    others = {
        "SIGTERM after half a request": measure_stop(edition),
        "a model with a changed byte": start_damaged(edition),
        "a model without a file": start_damaged(edition, is_removed=True),
        "WEB_CONCURRENCY=2": start_with(
            edition, edition.served, "WEB_CONCURRENCY", WEB_CONCURRENCY="2"
        ),
        "mode of a saved model's files": show_mode(edition.saved),
        "an export of the same model": exported,
    }
    return ask_all(edition) | {name: {"found": x} for name, x in others.items()}


# --- both editions --------------------------------------------------------------------


def make_editions(
    tree: Path,  # of the first edition
    folder: Path,  # for the models
) -> dict[str, Edition]:
    "Both editions, with two stages trained on the same log."
    log = make_log(5_000, n_users=500, n_events=20_000)
    model: Recommender = make_model(log, exact_to=50_000)
    model.save(folder / "saved")
    own = Path(__file__).parent.parent
    saved = train_first_edition(tree, log, 50_000, folder / "first")
    first_export = folder / "first_export"
    editions = {
        "first": Edition(tree, saved, first_export, saved),
        "today": Edition(own, folder / "saved", folder / "export", folder / "export"),
    }
    return editions


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as place, checked_out(FIRST_EDITION) as tree:
        editions = make_editions(tree, Path(place))
        found = {name: list_faults(edition) for name, edition in editions.items()}
    rows = [
        {"measure": "fault list", "fault": fault}
        | {name: found[name][fault] for name in editions}
        for fault in found["today"]
    ]
    print(json.dumps(rows, indent=1))
    keep(options.out, rows, ("measure", "fault"))


if __name__ == "__main__":
    main()
