"A real server process: requests side by side, a graceful stop, and a damaged model that must not start."
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi"); pytest.importorskip("uvicorn")

from recsys_nb.recommenders import EASE  # noqa: E402
from recsys_nb.recommenders import DLRMRanker, Recommender, TwoTowerRetriever  # noqa: E402
from recsys_nb.serve import create_app  # noqa: E402
from recsys_nb.simulate import World  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    train = World(n_users=200, n_items=80, seed=1).sample(4_000)
    out = tmp_path_factory.mktemp("models") / "shop-1"
    towers = {"Two-Tower": TwoTowerRetriever(dim=8, epochs=2, profile="sparse")}
    Recommender(towers, DLRMRanker(epochs=1), answer="two stages").fit(train).save(out)
    return out


def start(folder, port):
    "A server process, as `recsys-nb serve` starts it."
    code = "import sys; from recsys_nb.serve import serve; serve(sys.argv[1], port=int(sys.argv[2]))"
    return subprocess.Popen([sys.executable, "-c", code, str(folder), str(port)], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(url, body=None, timeout=30):
    "Status and JSON of a request."
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as r: return r.status, json.load(r)
    except urllib.error.HTTPError as e: return e.code, json.load(e)


@contextmanager
def running(folder):
    "A server that answers, and its address; stopped at the end."
    port = free_port(); process = start(folder, port); url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try: ask(url + "/health"); break
            except urllib.error.URLError: assert process.poll() is None, process.stdout.read(); time.sleep(.1)
        else: pytest.fail("the server did not answer within a minute")
        yield process, url
    finally:
        if process.poll() is None: process.kill()
        process.communicate()


def test_requests_side_by_side_and_a_graceful_stop(folder):
    expected = Recommender.load(folder).recommend([f"user_{i}" for i in range(20)], k=5)
    lists = {u: g.item_id.tolist() for u, g in expected.groupby("user_id")}
    with running(folder) as (process, url):
        status, health = ask(url + "/health")
        assert status == 200 and health["model"] == "shop-1" and health["n_items"] == 80

        def known(i): return ask(f"{url}/recommend/user_{i % 20}?k=5")
        def new(i): return ask(url + "/recommend", {"user_id": f"visitor_{i}", "events": [{"item_id": f"item_{i}"}], "k": 5})
        with ThreadPoolExecutor(8) as pool: answers, others = list(pool.map(known, range(40))), list(pool.map(new, range(10)))
        for i, (status, answer) in enumerate(answers):
            assert status == 200 and [x["item_id"] for x in answer["items"]] == lists[f"user_{i % 20}"]
        assert {(s, a["source"], len(a["items"])) for s, a in others} == {(200, "events", 5)}
        assert ask(url + "/recommend/nobody")[1]["source"] == "popular"
        assert [ask(url + p)[0] for p in ("/recommend/user_1?k=0", "/item/none/similar", "/nowhere")] == [422, 404, 404]
        assert ask(url + "/recommend", {"user_id": "x", "k": 5, "events": [{}]})[0] == 422
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
        assert "Application shutdown complete" in process.stdout.read()


def damaged(folder, tmp_path, harm):
    "What a server says that is started on a damaged copy of the model."
    copy = shutil.copytree(folder, tmp_path / "copy"); harm(copy)
    process = start(copy, free_port())
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    return out.strip().splitlines()[-1]


def weights(folder): return max(folder.rglob("*.safetensors"), key=lambda f: f.stat().st_size)
def truncate(folder): f = weights(folder); f.write_bytes(f.read_bytes()[:-100])
def remove(folder): weights(folder).unlink()


@pytest.mark.parametrize("harm", [truncate, remove])
def test_a_damaged_model_does_not_start(folder, tmp_path, harm):
    said = damaged(folder, tmp_path, harm)
    assert weights(folder).name in said, said


def test_no_model_does_not_start(tmp_path):
    process = start(tmp_path / "nothing", free_port())
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "nothing" in out.strip().splitlines()[-1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("user", ["user_1", "new", 5, 10**30, "", "a/b", "\u00fc"])
@pytest.mark.parametrize("event", [{"item_id": "item_1"}, {"item_id": "item_1", "timestamp": "2024-01-01T00:00:00+05:00"}, {"item_id": "item_1", "timestamp": 1_700_000_000.5},
    {"item_id": "item_1", "timestamp": "9999-01-01"}, {"item_id": 1}, {"item_id": 10**30}, {"item_id": None}, {"item_id": 1.5}, {}])
def test_odd_questions_are_answered_or_refused(client, user, event):
    r = client.post("/recommend", json={"user_id": user, "events": [event, {"item_id": "item_2", "timestamp": "2024-01-01"}], "k": 3})
    if event.get("item_id") in (None, 1.5) or event.get("timestamp") == "9999-01-01": assert r.status_code == 422
    else: assert r.status_code == 200 and r.json()["source"] == "events" and len(r.json()["items"]) == 3


@pytest.fixture(scope="module")
def client():
    from fastapi.testclient import TestClient
    return TestClient(create_app(EASE().fit(World(n_users=100, n_items=50, seed=1).sample(2_000))))
