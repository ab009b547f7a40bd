"A real server process: side by side, half-sent, stopped, and damaged models."

import json
import os
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import processes

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

sys.path.insert(0, str(Path(__file__).parent))
from service_client import find_port  # noqa: E402

from recsys_nb.data import World  # noqa: E402
from recsys_nb.recommenders import (  # noqa: E402
    EASE,
    BaseRecommender,
    Popularity,
    TwoTowerRetriever,
)
from recsys_nb.serving.http import create_app  # noqa: E402
from recsys_nb.serving.server import serve  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    train = World(n_users=200, n_items=80, seed=1).sample(4_000)
    out = tmp_path_factory.mktemp("models") / "shop-1"
    small = TwoTowerRetriever(dim=8, epochs=2, profile="noisy", seed=1)
    small.fit(train.positives()).save(out)
    return out


def serve_and_log(folder, port, log):
    "What a server process does; all that it says goes to a file."
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    for output in (1, 2):
        os.dup2(file, output)
    torch.set_num_threads(1)
    serve(folder, port=port)


@pytest.fixture
def start(tmp_path_factory):
    """Start a server process, as `recsys-nb serve` does: it, its address, and a
    function that gives what it said so far."""
    started = []

    def run(folder):
        log = tmp_path_factory.mktemp("said") / "out"
        port = find_port()
        args = str(folder), port, log
        process = processes.Process(target=serve_and_log, args=args)
        process.start()
        started.append(process)
        return process, f"http://127.0.0.1:{port}", log.read_text

    yield run
    for process in started:
        process.kill()


def ask(url, body=None, timeout=30):
    "Status and JSON of a request."
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_for(process, url, read):
    "Until the server answers."
    for _ in range(1800):
        try:
            return ask(url + "/health")
        except urllib.error.URLError:
            assert process.is_alive(), read()
            time.sleep(0.05)
    return pytest.fail("the server did not answer")


@pytest.fixture
def served(start, folder):
    "A server that answers."
    process, url, read = start(folder)
    wait_for(process, url, read)
    return process, url, read


def test_requests_side_by_side_and_a_graceful_stop(folder, served):
    users = [f"user_{i}" for i in range(20)]
    expected = BaseRecommender.load(folder).recommend(users, k=5)
    lists = {u: g.item_id.tolist() for u, g in expected.groupby("user_id")}
    process, url, read = served
    status, health = ask(url + "/health")
    assert (status, health["model"], health["n_items"]) == (200, "shop-1", 80)

    def ask_known(i):
        return ask(f"{url}/recommend/user_{i % 20}?k=5")

    def ask_new(i):
        events = [{"item_id": f"item_{i}"}]
        body = {"user_id": f"visitor_{i}", "events": events, "k": 5}
        return ask(url + "/recommend", body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_known, range(40)))
        others = list(pool.map(ask_new, range(10)))
    for i, (status, answer) in enumerate(answers):
        items = [item["item_id"] for item in answer["items"]]
        assert (status, items) == (200, lists[f"user_{i % 20}"])
    found = {(s, a["source"], len(a["items"])) for s, a in others}
    assert found == {(200, "events", 5)}
    assert ask(url + "/recommend/nobody")[1]["source"] == "popular"
    odd = ("/recommend/user_1?k=0", "/item/none/similar", "/nowhere")
    assert [ask(url + path)[0] for path in odd] == [422, 404, 404]
    empty = {"user_id": "x", "k": 5, "events": [{}]}
    assert ask(url + "/recommend", empty)[0] == 422
    process.terminate()
    process.join(30)
    assert process.exitcode in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in read()


def test_half_a_request_does_not_hold_the_server(served):
    process, url, _ = served
    address = "127.0.0.1", int(url.split(":")[-1])
    with socket.create_connection(address) as hanging:
        head = "POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        hanging.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n{")
        assert ask(url + "/health")[0] == 200
        begin = time.monotonic()
        process.terminate()
        process.join(30)
        assert time.monotonic() - begin < 10


def weights(folder):
    return max(folder.rglob("*.safetensors"), key=lambda f: f.stat().st_size)


def truncate(folder):
    file = weights(folder)
    file.write_bytes(file.read_bytes()[:-100])


def remove(folder):
    weights(folder).unlink()


@pytest.mark.parametrize("harm", [truncate, remove])
def test_a_damaged_model_does_not_start(start, folder, tmp_path, harm):
    name = weights(folder).name
    copy = shutil.copytree(folder, tmp_path / "copy")
    harm(copy)
    process, _, read = start(copy)
    process.join(90)
    assert process.exitcode
    assert name in read().strip().splitlines()[-1]


def test_no_model_does_not_start(start, tmp_path):
    process, _, read = start(tmp_path / "nothing")
    process.join(90)
    assert process.exitcode
    assert "nothing" in read().strip().splitlines()[-1]


def test_a_saved_model_can_be_read_by_others(folder):
    modes = [path.stat().st_mode & 0o777 for path in folder.iterdir()]
    assert set(modes) == {0o644}


EVENTS = [
    {"item_id": "item_1"},
    {"item_id": "item_1", "timestamp": "2024-01-01T00:00:00+05:00"},
    {"item_id": "item_1", "timestamp": 1_700_000_000.5},
    {"item_id": "item_1", "timestamp": "9999-01-01"},
    {"item_id": 1},
    {"item_id": 10**30},
    {"item_id": None},
    {"item_id": 1.5},
    {},
]


@pytest.fixture(scope="module")
def client():
    from fastapi.testclient import TestClient

    log = World(n_users=100, n_items=50, seed=1).sample(2_000)
    return TestClient(create_app(EASE().fit(log)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("user", ["user_1", "new", 5, 10**30, "", "a/b", "\u00fc"])
@pytest.mark.parametrize("event", EVENTS)
def test_odd_questions_are_answered_or_refused(client, user, event):
    known = {"item_id": "item_2", "timestamp": "2024-01-01"}
    body = {"user_id": user, "events": [event, known], "k": 3}
    answer = client.post("/recommend", json=body)
    if event.get("item_id") in (None, 1.5):
        assert answer.status_code == 422
    else:
        assert answer.status_code == 200
        assert answer.json()["source"] == "events"
        assert len(answer.json()["items"]) == 3


def test_every_recommender_can_be_saved_and_served(tmp_path):
    from fastapi.testclient import TestClient

    log = World(n_users=100, n_items=50, seed=1).sample(2_000)
    for model in (EASE(), Popularity()):
        fitted = model.fit(log)
        fitted.save(tmp_path / type(model).__name__)
        app = create_app(tmp_path / type(model).__name__)
        answer = TestClient(app).get("/recommend/user_1?k=5").json()
        expected = fitted.recommend(["user_1"], k=5).item_id.tolist()
        assert [item["item_id"] for item in answer["items"]] == expected


def test_the_command_hands_all_flags_over(folder, tmp_path, monkeypatch, capsys):
    from recsys_nb import hosting
    from recsys_nb.cli import main

    given = {}

    def note(folder, **options):
        given.update(options, folder=folder)

    monkeypatch.setattr(hosting, "serve", note)
    token = tmp_path / "token"
    token.write_text("a token of many characters\n")
    words = ["serve", "--model", str(folder), "--model", str(folder)]
    words += ["--workers", "3", "--token-file", str(token), "--split", ".1"]
    words += ["--events", str(tmp_path / "events"), "--salt", "may", "--port", "1"]
    assert main(words) == 0
    assert (given["folder"], given["other"], given["port"]) == (folder, folder, 1)
    settings = given["settings"]
    assert (settings.share, settings.salt) == (0.1, "may")
    assert settings.token == "a token of many characters"
    assert settings.events == str(tmp_path / "events")
    assert given["workers"] == 3
    assert (settings.page, settings.user_search) == (True, True)
    assert main([*words, "--no-page", "--no-user-search"]) == 0
    settings = given["settings"]
    assert (settings.page, settings.user_search) == (False, False)
    token.write_text("short")
    assert main(words) == 2
    assert "16 characters" in capsys.readouterr().err
    token.unlink()
    assert main(words) == 2
    assert "token" in capsys.readouterr().err
    assert main(["serve", *["--model", str(folder)] * 3]) == 2
    assert "3 models" in capsys.readouterr().err
