"""Engines and processes that the tests share; what cannot be started here is skipped,
with the reason."""

import gc
import multiprocessing
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

for profile, examples in (("tests", 50), ("nightly", 500)):
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        derandomize=profile == "tests",
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "tests")
# workers of Spark run the Python of the tests, which may be on no path
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
settings.load_profile(PROFILE)

# processes are forked from one that has imported what takes long
processes = multiprocessing.get_context("forkserver")
PRELOADED = "answers", "pipeline", "serving.server"
processes.set_forkserver_preload(
    ["pytest", "hypothesis", "torch._dynamo", *(f"recsys_nb.{m}" for m in PRELOADED)]
)


def slow(examples):
    """Settings of a property whose examples are slow: so many in the tests, as many as
    the others at night."""
    return settings(max_examples=examples) if PROFILE == "tests" else settings()


# the files that take longest start first, so that all workers end at about one time
LONGEST = "runtime cli recipes warehouse service_schema jobs soak training_processes"
LONGEST += " actions metrics vectors features warm_start page_browser house imports"
LONGEST += (
    " statistics models_dlrm rules two_stage evaluation_tables deploy calibration"
)
LONGEST += " explain lists storage ranker recommenders_baselines models"
ORDER = {f"test_{name}.py": place for place, name in enumerate(LONGEST.split())}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ORDER.get(item.path.name, len(ORDER)))


def pytest_collection_finish():
    "What the libraries and tests have loaded stays: no search for garbage goes there."
    gc.collect()
    gc.freeze()


PASSWORD = "s3cret/p@ss"


def account():
    """The arguments that run a server as somebody else where the tests run as root,
    which PostgreSQL refuses."""
    if os.getuid():
        return {}
    name = next(
        u.pw_name
        for wanted in ("postgres", "nobody")
        for u in pwd.getpwall()
        if u.pw_name == wanted
    )
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def server_programs():
    """The folder of initdb and pg_ctl, of Debian's packages or on the path; None where
    there is none."""
    found = [
        shutil.which("pg_ctl"),
        *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))),
    ]
    return next((Path(p).resolve().parent for p in found if p), None)


@pytest.fixture(scope="session")
def duckdb():
    return ibis.duckdb.connect()


@pytest.fixture(scope="session")
def postgres_url():
    "A server of its own on loopback, in a temporary folder, which asks for a password."
    pytest.importorskip(
        "psycopg",
        reason=(
            "the PostgreSQL driver is not installed: pip install 'recsys_nb[postgres]'"
        ),
    )
    programs = server_programs()
    if programs is None:
        pytest.skip(
            "no PostgreSQL server here (Debian: apt-get install postgresql): pg_ctl "
            "was not found"
        )
    folder, who = Path(tempfile.mkdtemp(prefix="pg")), account()
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password") if who else ():
        shutil.chown(path, who["user"], who["group"])
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]

    def run(program, *args):
        return subprocess.run(
            [programs / program, "-D", folder / "data", *args],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **who,
        )

    run(
        "initdb",
        "-U",
        "postgres",
        "-A",
        "scram-sha-256",
        f"--pwfile={folder / 'password'}",
        "--no-sync",
    )
    run(
        "pg_ctl",
        "-w",
        "-l",
        folder / "log",
        "-o",
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}",
        "start",
    )
    try:
        password = quote(PASSWORD, safe="")
        yield f"postgres://postgres:{password}@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres(postgres_url):
    con = ibis.postgres.connect(
        host="127.0.0.1",
        port=int(postgres_url.split(":")[-1].split("/")[0]),
        user="postgres",
        password=PASSWORD,
        database="postgres",
    )
    con.raw_sql(
        "SET TimeZone = 'America/New_York'"
    ).close()  # the session's zone must not matter
    yield con
    con.disconnect()


@pytest.fixture(scope="session")
def pyspark():
    "A session of its own on this machine."
    sql = pytest.importorskip(
        "pyspark.sql", reason="PySpark is not installed: pip install 'recsys_nb[spark]'"
    )
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip(
            "PySpark needs Java (Debian: apt-get install default-jre-headless), and "
            "there is none here"
        )
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    # a few seconds of work: optimizing machine code takes longer than it saves
    os.environ["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.adaptive.enabled": "false",
    }  # small tables: compiling takes longer than running
    builder = sql.SparkSession.builder.master("local[1]")
    for k, v in settings.items():
        builder = builder.config(k, v)
    with tempfile.TemporaryDirectory() as folder:
        session = builder.config("spark.sql.warehouse.dir", folder).getOrCreate()
        yield ibis.pyspark.connect(session)
        session.stop()


def put(con, name, frame):
    """`frame` as the table `name` of an engine, through Arrow: from a frame, Ibis and
    Spark ask an option of pandas that is deprecated, once a column."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if con.name == "pyspark":
        con._session.createDataFrame(table).createOrReplaceTempView(name)
        return con.table(name)
    return con.create_table(name, table, temp=con.name == "postgres", overwrite=True)


@pytest.fixture
def say(capfd):
    "Run a command in this process: its status, what it printed, and its notes."
    from recsys_nb.cli import main

    def run(*words):
        capfd.readouterr()
        status = main([str(word) for word in words])
        return (status, *capfd.readouterr())

    return run


@pytest.fixture
def read_run(monkeypatch, tmp_path):
    "`recsys-nb run` up to the split: the run, with its data, train and test."
    from recsys_nb import pipeline
    from recsys_nb.cli import main

    found = []

    def keep(run):
        found.append(run)

    stages = {name: pipeline.STAGES[name] for name in ("read", "split")}

    def run(*words, split=False):
        used = stages if split else {"read": stages["read"]}
        monkeypatch.setattr(pipeline, "STAGES", used | {"keep": keep})
        out = tmp_path / f"run-{len(found)}"
        assert main(["run", "--out", str(out), *map(str, words)]) == 0
        return found[-1]

    return run
