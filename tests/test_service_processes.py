"""A served model over real sockets: killed workers, events that must not be lost, ten
new versions under load, and an end that nothing holds up."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from recsys_nb.data import load  # noqa: E402
from recsys_nb.serving.events import recover  # noqa: E402

here = Path(__file__).parent
sys.path.insert(0, str(here))
from service_client import TOKEN, Client, serving, wait_for  # noqa: E402
from service_stub import write_stub  # noqa: E402

ITEMS = [f"item_{i}" for i in range(20)]


def children(process):
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(word) for word in text.split()]


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="needs /proc to find the workers"
)


def report(port, writer, n_reports, acknowledged):
    "Report events one after the other, and note those that were acknowledged."
    client = Client(port)
    for number in range(n_reports):
        user = f"user_{writer}_{number}"
        event = {"user_id": user, "item_id": "item_1", "event_type": "click"}
        try:
            status, _ = client.ask("/events", {"events": [event]})
        except (ConnectionError, http.client.HTTPException):
            return
        if status == 200:
            acknowledged.append(user)


@needs_proc
def test_kill_9_loses_no_acknowledged_event(tmp_path):
    folder = write_stub(tmp_path / "model", ITEMS)
    events = tmp_path / "events"
    options = {"workers": 2, "settings": {"events": str(events), "token": TOKEN}}
    acknowledged = []
    with serving(folder, **options) as (process, port, _):
        threads = [
            threading.Thread(target=report, args=(port, n, 400, acknowledged))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 60:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    assert len(acknowledged) >= 60
    recover(events)
    stored = load(events).interactions.user_id
    assert set(acknowledged) <= set(stored)
    assert not stored.duplicated().any()


@needs_proc
def test_workers_are_replaced_share_events_and_count_together(tmp_path):
    folder = write_stub(tmp_path / "model", ITEMS)
    events = tmp_path / "events"
    options = {"workers": 2, "settings": {"events": str(events), "token": TOKEN}}
    options["settings"]["watch_seconds"] = 0.2
    with serving(folder, **options) as (process, port, log):
        before = children(process)
        assert len(before) == 2
        click = {"user_id": "Zoe", "item_id": "item_1", "event_type": "click"}
        assert Client(port).ask("/events", {"events": [click]})[0] == 200
        os.kill(before[0], signal.SIGKILL)
        for _ in range(200):
            after = children(process)
            if len(after) == 2 and before[0] not in after:
                break
            time.sleep(0.05)
        wait_for(process, port, log)
        time.sleep(0.5)
        answers = [Client(port).ask("/recommend/Zoe?k=2") for _ in range(12)]
        assert {(status, a["source"]) for status, a in answers} == {(200, "events")}
        page = Client(port).ask("/metrics")[1]
        counted = [line for line in page.splitlines() if "lists_total{" in line]
        assert sum(float(line.split()[-1]) for line in counted) == 12
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
    out = log.read_text()
    lines = out.splitlines()
    assert lines[0] == "loaded:"  # neither torch nor pandas
    records = [json.loads(line) for line in lines[1:]]
    asked = [r for r in records if r.get("address") == "/recommend/{user_id:path}"]
    assert len(asked) == 12 and {r["status"] for r in asked} == {200}
    assert "Zoe" not in out  # no user in the log
    assert load(events).interactions.user_id.tolist() == ["Zoe"]


class Load:
    "Threads that ask for lists until they are told to stop."

    def __init__(self, port, n_threads=2):
        self.port, self.stopped = port, threading.Event()
        self.answers = []
        self.threads = [threading.Thread(target=self.ask) for _ in range(n_threads)]
        for thread in self.threads:
            thread.start()

    def ask(self):
        client = Client(self.port)
        while not self.stopped.is_set():
            self.answers.append(client.ask("/recommend/Zoe?k=3"))

    def wait_for(self, n_answers):
        while len(self.answers) < n_answers:
            assert all(thread.is_alive() for thread in self.threads)
            time.sleep(0.005)

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        return self.answers


def point_to(current, version):
    "Let a link name another version, in one step."
    beside = current.with_name(".next")
    beside.symlink_to(version)
    os.replace(beside, current)


def test_ten_swaps_under_load_fail_no_request(tmp_path):
    models = tmp_path / "models"
    for n in range(3):
        write_stub(models / f"v{n}", ITEMS[n:])
    write_stub(models / "bad", [])
    current = models / "current"
    current.symlink_to("v0")
    options = {"settings": {"token": TOKEN, "watch_seconds": 60}}
    with serving(current, **options) as (_, port, _):
        load, admin = Load(port), Client(port)
        for n in range(1, 11):
            load.wait_for(30 * n)
            point_to(current, f"v{n % 3}")
            status, answer = admin.ask("/admin/reload", {})
            assert (status, answer["changed"]) == (200, ["A"])
            assert answer["models"] == {"A": f"v{n % 3}"}
        point_to(current, "bad")
        status, answer = admin.ask("/admin/reload", {})
        assert status == 409 and "no list" in answer["detail"]
        assert admin.ask("/version")[1]["models"] == {"A": "v1"}
        assert admin.ask("/admin/reload", {}, token="wrong")[0] == 401
        answers = load.stop()
        page = Client(port).ask("/metrics")[1]
    assert len(answers) >= 300 and {status for status, _ in answers} == {200}
    assert {answer["model"] for _, answer in answers} == {"v0", "v1", "v2"}
    for _, answer in answers:  # each list is of one version from beginning to end
        first = int(answer["model"][1:])
        items = [item["item_id"] for item in answer["items"]]
        assert items == ITEMS[first : first + 3]
    assert 'recsys_swaps_total{arm="A",result="taken"} 10.0' in page
    assert 'recsys_swaps_total{arm="A",result="refused"} 1.0' in page


def test_a_link_is_watched(tmp_path):
    models = tmp_path / "models"
    write_stub(models / "v0", ITEMS)
    write_stub(models / "v1", ITEMS)
    (models / "current").symlink_to("v0")
    with serving(
        models / "current", settings={"watch_seconds": 0.1, "token": TOKEN}
    ) as (_, port, _):
        point_to(models / "current", "v1")
        client = Client(port)
        for _ in range(100):
            if client.ask("/version")[1]["models"] == {"A": "v1"}:
                return
            time.sleep(0.05)
    pytest.fail("the new version was not taken")


def test_nothing_holds_up_the_end(tmp_path):
    folder = write_stub(tmp_path / "model", ITEMS)
    with serving(folder, seconds_to_stop=1) as (process, port, _):
        half = socket.create_connection(("127.0.0.1", port))
        half.sendall(
            b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"
        )
        found = []
        hanging = threading.Thread(target=hang, args=(port, found))
        hanging.start()
        time.sleep(0.3)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert time.monotonic() - begin < 10
        half.close()
        hanging.join()
    assert found[0] in (500, 503, "closed")


def hang(port, found):
    "Ask a question that the model does not answer within a minute."
    try:
        found.append(Client(port).ask("/recommend/hang")[0])
    except (ConnectionError, http.client.HTTPException):
        found.append("closed")


@pytest.mark.parametrize("workers, says", [(0, "at least 1"), (True, "at least 1")])
def test_impossible_workers_are_refused(tmp_path, workers, says):
    from recsys_nb.serving.server import serve

    folder = write_stub(tmp_path / "model", ITEMS)
    with pytest.raises(ValueError, match=says):
        serve(folder, workers=workers)
