"""The files in deploy/ agree with the code: flags, addresses, ports, metrics, versions;
what an image installs is enough to serve; the scripts of a night do what they say."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from configparser import RawConfigParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient  # noqa: E402

from recsys_nb.cli import make_parser  # noqa: E402
from recsys_nb.serving.gates import MAX_BYTES, OPEN_ADDRESSES  # noqa: E402
from recsys_nb.serving.http import create_app  # noqa: E402
from recsys_nb.serving.parts import AppSettings  # noqa: E402

here = Path(__file__).parent
root = here.parent
deploy = root / "deploy"
sys.path.insert(0, str(here))
from service_client import Client, find_port, running  # noqa: E402
from service_stub import write_stub  # noqa: E402

MANIFESTS = sorted((deploy / "kubernetes").glob("*.yaml"))
YAMLS = [*deploy.glob("*.y*ml"), *deploy.glob("*/*.yaml")]


def read_yaml(name):
    return yaml.safe_load((deploy / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_yaml_is_read(path):
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert documents and all(isinstance(one, dict) for one in documents)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    "A service of a stub that has answered, with two arms."
    place = tmp_path_factory.mktemp("models")
    folders = [write_stub(place / name, ["a", "b", "c"]) for name in ("v1", "v2")]
    settings = AppSettings(watch_seconds=60)
    app = create_app(folders[0], other=folders[1], settings=settings)
    with TestClient(app) as client:
        assert client.get("/recommend/someone").status_code == 200
        click = {"user_id": "u", "item_id": "a", "event_type": "click"}
        assert client.post("/events", json={"events": [click]}).status_code == 200
        app.state.parts.traffic.swaps.labels("A", "taken").inc()
        yield client


@pytest.fixture(scope="module")
def samples(client):
    "Names of samples of /metrics -> their labels."
    found = {}
    line = re.compile(r"(\w+)(?:\{(.*)\})? ")
    for text in client.get("/metrics").text.splitlines():
        if not text.startswith("#"):
            name, labels = line.match(text).groups()
            pairs = re.findall(r'(\w+)="', labels or "")
            found.setdefault(name, set()).update(pairs)
    return found


def list_queries():
    "Every query of the dashboard and of the alerts."
    board = json.loads((deploy / "grafana/dashboard.json").read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for group in read_yaml("alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


QUERIES = dict(list_queries())


@pytest.mark.parametrize("title", QUERIES)
def test_every_metric_and_label_of_a_query_exists(title, samples):
    query = QUERIES[title]
    metrics = set(re.findall(r"\brecsys_\w+", query))
    assert metrics and metrics <= set(samples), metrics - set(samples)
    known = set().union(*[samples[name] for name in metrics])
    used = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query))
    for group in re.findall(r"\b(?:by|ignoring) \(([^)]*)\)", query):
        used |= {name.strip() for name in group.split(",")}
    assert used <= known, used - known


def test_the_dashboard_shows_every_metric(samples):
    shown = " ".join(QUERIES.values())
    names = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in samples}
    missing = [name for name in names if name not in shown]
    assert not missing
    board = json.loads((deploy / "grafana/dashboard.json").read_text("utf-8"))
    source = read_yaml("grafana/datasource.yaml")["datasources"][0]
    assert {p["datasource"]["uid"] for p in board["panels"]} == {source["uid"]}


def list_containers():
    "The containers of the manifests, by the name of what runs them."
    for path in MANIFESTS:
        for one in yaml.safe_load_all(path.read_text("utf-8")):
            if one["kind"] == "Deployment":
                pod = one["spec"]["template"]["spec"]
                yield one["metadata"]["name"], pod, pod["containers"][0]


def read_unit():
    unit = RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(deploy / "recsys-nb.service", encoding="utf-8")
    return unit


def read_instruction(name):
    "The last list that the Dockerfile has behind a word."
    text = (deploy / "Dockerfile").read_text("utf-8")
    found = re.findall(rf"^\s*(?:HEALTHCHECK.*)?{name} (\[.*\])$", text, re.M)
    return json.loads(found[-1])


def list_commands():
    "Every way in which the files start a service: what follows `serve`."
    image = read_instruction("ENTRYPOINT")
    assert image == ["recsys-nb", "serve"]
    yield "Dockerfile", read_instruction("CMD")
    yield "compose", read_yaml("compose.yaml")["services"]["service"]["command"]
    words = shlex.split(read_unit()["Service"]["ExecStart"])
    assert words[:2] == ["/opt/recsys-nb/bin/recsys-nb", "serve"]
    yield "systemd", words[2:]
    for name, _, container in list_containers():
        yield name, container["args"]


COMMANDS = dict(list_commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_one_that_serve_takes(name):
    options = make_parser().parse_args(["serve", *COMMANDS[name]])
    assert options.port == 8000 and len(options.model) == 1
    assert options.host == ("127.0.0.1" if name == "systemd" else "0.0.0.0")
    assert name == "Dockerfile" or (options.token_file and options.events)


def test_ports_agree():
    dockerfile = (deploy / "Dockerfile").read_text("utf-8")
    assert "EXPOSE 8000" in dockerfile
    nginx = (deploy / "nginx.conf").read_text("utf-8")
    assert "server service:8000;" in nginx
    proxy = read_yaml("compose.yaml")["services"]["proxy"]
    assert proxy["ports"] == ["8080:8080"] and "listen 8080;" in nginx
    scrape = read_yaml("prometheus.yml")["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == ["service:8000"]
    for _, _, container in list_containers():
        assert container["ports"] == [{"name": "http", "containerPort": 8000}]


def test_probes_are_open_addresses_that_answer(client):
    paths = {
        container[probe]["httpGet"]["path"]
        for _, _, container in list_containers()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    health = (deploy / "Dockerfile").read_text("utf-8")
    paths |= set(re.findall(r"127\.0\.0\.1:8000(/\w+)", health))
    assert paths == {"/livez", "/readyz"} <= set(OPEN_ADDRESSES)
    assert {client.get(path).status_code for path in paths} == {200}
    scrape = read_yaml("prometheus.yml")["scrape_configs"][0]
    assert client.get(scrape["metrics_path"]).status_code == 200


def test_the_proxy_lets_pass_what_the_service_takes_and_hides_the_rest(client):
    text = (deploy / "nginx.conf").read_text("utf-8")
    (size,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert MAX_BYTES <= int(size) * 2**20 < 2 * MAX_BYTES
    assert "access_log off;" in text  # addresses hold ids of users
    (hidden,) = re.findall(r"location ~ (\S+) \{", text)
    routes = {route.path for route in client.app.routes if hasattr(route, "path")}
    routes |= set(client.app.openapi()["paths"])
    kept = {path for path in routes if re.search(hidden, path)}
    assert kept == {"/metrics", "/admin/reload"}


def test_processes_end_before_they_are_killed():
    from recsys_nb.serving.server import MORE_SECONDS, ServerLimits

    longest = ServerLimits().seconds_to_stop + MORE_SECONDS
    assert longest < int(read_unit()["Service"]["TimeoutStopSec"])
    compose = read_yaml("compose.yaml")["services"]["service"]
    assert longest < int(compose["stop_grace_period"].rstrip("s"))
    for _, pod, _ in list_containers():
        assert longest < pod["terminationGracePeriodSeconds"]


def test_memory_is_that_of_the_measured_folder():
    rows = json.loads((root / "benchmarks/results/serving.json").read_text("utf-8"))
    measured = max(row["peak_mb"] for row in rows)  # of one process, without HTTP
    for _, _, container in list_containers():
        resources = container["resources"]
        request = int(resources["requests"]["memory"].removesuffix("Mi"))
        assert 2 * measured < request < 3 * measured
        assert resources["limits"]["memory"] == "1Gi"
        assert resources["requests"]["cpu"] == "1"


def test_nobody_is_root():
    dockerfile = (deploy / "Dockerfile").read_text("utf-8")
    (uid,) = re.findall(r"useradd --uid (\d+)", dockerfile)
    assert f"USER {uid}:{uid}" in dockerfile
    for _, pod, container in list_containers():
        assert pod["securityContext"]["runAsUser"] == int(uid)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert read_unit()["Service"]["DynamicUser"] == "yes"


def test_mounted_files_are_there():
    for name, service in read_yaml("compose.yaml")["services"].items():
        for volume in service.get("volumes", ()):
            place = volume.split(":")[0]
            if place.startswith("./"):
                assert (deploy / place).is_file(), (name, place)
    copied = re.findall(r"^COPY (.*) \S+$", (deploy / "Dockerfile").read_text(), re.M)
    for word in " ".join(copied).split():
        assert list(root.glob(word)), word


def list_pins(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([\w-]+)==([\d.]+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_versions_of_the_image_are_those_of_the_tests():
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    for name in ("requirements.txt", "requirements-more.txt"):
        pins = list_pins(deploy / name)
        assert pins
        for package, version in pins.items():
            assert re.search(rf"^{package}=={re.escape(version)}\b", text, re.M), (
                package
            )


# What the image installs is enough

ONLY = """
import sys

KNOWN = {"torch", "pandas", "scipy", "sklearn", "pyarrow", "ibis", "duckdb", "onnx",
         "faiss", "matplotlib", "seaborn", "statsmodels", "fastcore", "psutil"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in KNOWN:
            raise ImportError(f"{name} is not in the image")


sys.meta_path.insert(0, Refuse())
from recsys_nb.cli import main

sys.exit(main(sys.argv[1:]))
"""


def ask(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("onnxscript")
    from recsys_nb.data import World
    from recsys_nb.recommenders import EASE
    from recsys_nb.serving import export

    log = World(n_users=60, n_items=30, seed=1).sample(1_500)
    place = tmp_path_factory.mktemp("models")
    return export(EASE().fit(log.positives()), place / "2024-05-01")


def test_the_service_runs_with_what_the_image_has(exported):
    pytest.importorskip("onnxruntime")
    port = find_port()
    words = ["serve", "--model", str(exported), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", ONLY, *words],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for _ in range(600):
            try:
                assert ask(port, "/readyz") == {"status": "ok"}
                break
            except OSError:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.1)
        answer = ask(port, "/recommend/user_1?k=3")
        assert answer["model"] == "2024-05-01" and len(answer["items"]) == 3
    finally:
        process.kill()
        process.communicate()


def find_python(uid):
    "A command that runs Python of this version as another user, with these packages."
    if os.getuid() or shutil.which("setpriv") is None:
        pytest.skip("only root can run a service as another user, by setpriv")
    as_user = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
    version = sys.version_info[:2]
    found = shutil.which(
        f"python{version[0]}.{version[1]}", path="/usr/bin:/usr/local/bin"
    )
    packages = [path for path in sys.path if path.endswith("site-packages")]
    paths = os.pathsep.join([str(root), *packages])
    for program in filter(None, [sys.executable, found]):
        command = [*as_user, "env", f"PYTHONPATH={paths}", program]
        checked = subprocess.run([*command, "-c", "import numpy"], capture_output=True)
        if checked.returncode == 0:
            return command
    return pytest.skip(f"user {uid} may run no Python of this version")


def test_the_user_of_the_image_serves_a_mounted_model(exported, tmp_path):
    pytest.importorskip("onnxruntime")
    uid = re.findall(r"USER (\d+)", (deploy / "Dockerfile").read_text())[0]
    python = find_python(uid)
    port = find_port()
    with tempfile.TemporaryDirectory() as mount:  # others cannot enter that of pytest
        os.chmod(mount, 0o755)
        model = Path(mount) / "current"
        shutil.copytree(exported, model)
        model.chmod(0o555)
        words = ["serve", "--model", str(model), "--port", str(port), "--workers", "2"]
        command = [*python, "-m", "recsys_nb.cli", *words]
        with running(command, port, tmp_path / "log.txt") as process:
            assert Path(f"/proc/{process.pid}").stat().st_uid == int(uid)
            status, answer = Client(port).ask("/recommend/user_1?k=3")
        assert status == 200 and len(answer["items"]) == 3


def test_a_missing_package_is_a_sentence_without_pandas(tmp_path):
    words = ["serve", "--model", str(tmp_path / "nothing")]
    command = [sys.executable, "-c", ONLY, *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and "there is no folder" in done.stderr
    assert "Traceback" not in done.stderr


# A night


def write_run(folder, ndcg=0.2, high=0.05, change="none"):
    "What a run leaves that the gate reads."
    folder.mkdir(parents=True)
    numbers = {
        "metrics": {"Recommender": {"metrics": {"ndcg@10": {"value": ndcg}}}},
        "popularity": [{"metric": "ndcg", "difference": high - 0.1, "high": high}],
        "drift": {"columns": [{"column": "item price", "change": change}]},
    }
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


def judge(*words):
    command = [sys.executable, str(deploy / "gate.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_gate_lets_pass_and_refuses_with_a_reason(tmp_path):
    good = write_run(tmp_path / "good")
    assert judge("--run", good).returncode == 0
    before = write_run(tmp_path / "before", ndcg=0.3)
    for run, words, says in [
        (write_run(tmp_path / "drift", change="large"), [], "item price"),
        (write_run(tmp_path / "worse", high=-0.01), [], "below that of popularity"),
        (good, ["--before", before], "fell from 0.3000 to 0.2000"),
    ]:
        found = judge("--run", run, *words)
        assert found.returncode == 1 and says in found.stderr
    assert judge("--run", tmp_path / "drift", "--allow-drift").returncode == 0
    assert judge("--run", good, "--before", before, "--fall", ".5").returncode == 0


FAKE = """#!/usr/bin/env bash
echo "$1" >> "$CALLS"
while [ $# -gt 0 ]; do
  [ "$1" != --out ] || out=$2
  shift
done
mkdir -p "$out"
[[ $out != runs/* ]] || cp "$NUMBERS" "$out/metrics.json"
"""


def test_a_night_switches_only_what_the_gate_lets_pass(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "recsys-nb").write_text(FAKE)
    (programs / "recsys-nb").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    shop, calls = tmp_path / "shop", tmp_path / "calls"
    (shop / "models").mkdir(parents=True)

    def run_night(night, numbers):
        calls.write_text("")
        env = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "NUMBERS": str(numbers / "metrics.json"),
            "HOME_OF_SHOP": str(shop),
            "NIGHT": night,
        }
        command = [str(deploy / "nightly.sh")]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        return done.returncode, calls.read_text().split()

    good = write_run(tmp_path / "good")
    status, said = run_night("2024-05-01", good)
    assert (status, said) == (0, ["run", "export", "recommend"])
    assert os.readlink(shop / "models/current") == "2024-05-01"
    status, said = run_night("2024-05-01", good)  # again: what is there is kept
    assert (status, said) == (0, ["recommend"])
    odd = write_run(tmp_path / "odd", change="large")
    status, said = run_night("2024-05-02", odd)
    assert (status, said) == (1, ["run"])
    assert os.readlink(shop / "models/current") == "2024-05-01"
    status, said = run_night("2024-05-03", good)
    assert (status, said) == (0, ["run", "export", "recommend"])
    assert os.readlink(shop / "models/current") == "2024-05-03"


@pytest.mark.parametrize("path", ["deploy/nightly.sh", "deploy/crontab"])
def test_what_scripts_call_exists(path):
    text = (root / path).read_text("utf-8")
    for script in re.findall(r"(?:\$deploy|/opt/recsys-nb/deploy)/([\w.]+)", text):
        assert (deploy / script).is_file(), script
    parser = make_parser()
    joined = text.replace("\\\n", " ").replace("${RUN_OPTIONS:-}", "")
    for line in re.findall(r"recsys-nb (\w+ --.*)", joined):
        parser.parse_args(shlex.split(line))


# A user who asks to be forgotten


def forget(user, folder):
    command = [sys.executable, str(deploy / "forget.py"), "--user", user]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def write_rows(path, users):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user_id": users, "item_id": ["a"] * len(users)}), path)


@pytest.mark.parametrize("kind", [str, int])
def test_a_user_is_gone_from_all_folders(tmp_path, kind):
    ids = [kind(n) for n in (1, 17, 2, 17)]
    write_rows(tmp_path / "events/2024-05-01T10-1.parquet", ids)
    write_rows(tmp_path / "lists/2024-05-01/part-00000.parquet", ids[1:])
    journal = tmp_path / "events/.journal/2024-05-01T11-1.jsonl"
    journal.parent.mkdir()
    journal.write_text(json.dumps({"user_id": ids[1], "item_id": "a"}) + "\n")
    for name, known in (("v1", ids[:3]), ("v2", ids[:1])):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "users.json").write_text(json.dumps(known))
    found = forget("17", tmp_path)
    assert found.returncode == 1 and "4 rows" in found.stdout
    assert "2024-05-01T11" in found.stderr and "models/v1" in found.stderr
    assert "models/v2" not in found.stderr
    journal.unlink()
    shutil.rmtree(tmp_path / "models/v1")
    found = forget("17", tmp_path)
    assert found.returncode == 0 and found.stdout.startswith("0 rows")
    for path in tmp_path.rglob("*.parquet"):
        assert ids[1] not in pq.read_table(path)["user_id"].to_pylist()
