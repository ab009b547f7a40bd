"""Lists for everyone are those of single questions: in batches, in processes, on Spark,
in a job that was killed in the middle, and in a table of another engine."""

import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from recsys_nb.data import World  # noqa: E402
from recsys_nb.data.engines import open_engine, parse_url  # noqa: E402
from recsys_nb.recommenders import (  # noqa: E402
    DLRMRanker,
    ItemKNN,
    Popularity,
    Recommender,
    TwoTowerRetriever,
)
from recsys_nb.serving import Exported, ListJob, ListMaker, export  # noqa: E402
from recsys_nb.serving.batches import make_spark_lists, make_user_lists  # noqa: E402
from recsys_nb.serving.events import lock_file  # noqa: E402
from recsys_nb.serving.job_users import JobError, take_ids  # noqa: E402
from recsys_nb.serving.jobs import name_part, run_job  # noqa: E402
from recsys_nb.serving.list_tables import append_lists  # noqa: E402

NIGHT = datetime(2024, 5, 1, 3, tzinfo=timezone.utc)
COLUMNS = ["user_id", "item_id", "rank", "score", "source"]


@pytest.fixture(scope="module")
def train():
    return World(n_users=320, n_items=150, seed=4).sample(6_000)


@pytest.fixture(scope="module")
def folder(train, tmp_path_factory):
    "Two stages with a tower: networks are asked for each user."
    tower = TwoTowerRetriever(dim=8, epochs=1, profile="noisy", seed=1)
    sources = {"Popularity": Popularity(), "ItemKNN": ItemKNN(), "Two-Tower": tower}
    model = Recommender(
        sources, ranker=DLRMRanker(epochs=1, seed=1), seed=1, answer="two stages"
    )
    place = tmp_path_factory.mktemp("models") / "2024-05-01"
    return export(model.fit(train), place)


@pytest.fixture(scope="module")
def shop(folder):
    return Exported(folder)


@pytest.fixture(scope="module")
def users(shop):
    "300 users and 10 strangers, mixed."
    ids = shop.people.ids.ids[:300] + [f"stranger {n}" for n in range(10)]
    return np.random.default_rng(0).permutation(np.array(ids, object)).tolist()


def ask_alone(shop, users, **options):
    "The rows of lists by one question at a time."
    rows = []
    for user in users:
        answer = shop.recommend(user, **options)
        for one in answer["items"]:
            found = one["item_id"], one["rank"], np.float32(one["score"])
            rows.append((answer["user_id"], *found, answer["source"]))
    return rows


def list_rows(table):
    columns = [table.column(name).to_pylist() for name in COLUMNS]
    return list(zip(*columns, strict=True))


RULES = {
    "none": {},
    "where": {"where": {"category": ["Books", "Games"], "price": (None, 80)}},
    "exclude": {"exclude": [f"item_{n}" for n in range(40)]},
    "candidates": {"candidates": [f"item_{n}" for n in range(0, 150, 3)], "k": 7},
    "seen": {"exclude_seen": False, "k": 3},
    "few": {"candidates": ["item_1", "item_2", "no item"]},
}


@pytest.mark.parametrize("name", RULES)
def test_batches_give_the_lists_of_single_questions(shop, users, name):
    options = RULES[name]
    made = ListMaker(shop, ListJob(**options)).make(users)
    assert list_rows(made.rows) == ask_alone(shop, users, **options)
    sources = [shop.recommend(user)["source"] for user in users]
    assert made.counts.unknown == sources.count("popular") >= 10
    assert made.counts.users == 310 and made.counts.rows == made.rows.num_rows


def test_batches_of_any_size_give_the_same_rows(folder, users):
    job = ListJob(k=4, time=NIGHT)
    sizes = (7, 310)
    tables = []
    for size in sizes:
        cuts = range(0, len(users), size)
        batches = [pa.record_batch({"user_id": users[c : c + size]}) for c in cuts]
        tables.append(pa.Table.from_batches(make_user_lists(batches, folder, job)))
    assert tables[0].equals(tables[1])
    assert set(tables[0]["time"].to_pylist()) == {NIGHT}


def test_spark_gives_the_same_rows(pyspark, folder, users):
    session = pyspark._session
    frame = session.createDataFrame([(user,) for user in users], "customer string")
    job = ListJob(k=4, time=NIGHT, where={"price": (None, 80)}, arm="B")
    lists = make_spark_lists(frame.repartition(2), folder, job, "customer")
    found = lists.toArrow().sort_by([("user_id", "ascending"), ("rank", "ascending")])
    batch = pa.record_batch({"user_id": sorted(users)})
    expected = pa.Table.from_batches(make_user_lists([batch], folder, job))
    assert list_rows(found) == list_rows(expected)
    assert set(found["arm"].to_pylist()) == {"B"}


JOB = """
import sys, time
from datetime import datetime, timezone
from recsys_nb.serving import jobs
from recsys_nb.serving.batches import ListJob
from recsys_nb.serving.runtime import Exported

write = jobs.write_part

def write_slowly(path, *rest):
    counts = write(path, *rest)
    print(path.name, flush=True)
    time.sleep(float(sys.argv[3]))
    return counts

jobs.write_part = write_slowly
job = ListJob(k=5, time=datetime(2024, 5, 1, 3, tzinfo=timezone.utc))
jobs.run_job(Exported(sys.argv[1]), "all", sys.argv[2], job, per_part=40, workers=2)
"""


def wait_until_free(folder):
    "Until the processes that were forked by a killed one have ended, too."
    for _ in range(600):
        with (folder / ".lock").open("ab") as file:
            if lock_file(file):
                return
        time.sleep(0.05)
    pytest.fail("the lock is still held")


def test_a_killed_job_goes_on_with_the_parts_that_are_there(folder, shop, tmp_path):
    out = tmp_path / "lists"
    command = [sys.executable, "-c", JOB, str(folder), str(out), "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    process.stdout.readline()  # of each process, one
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_free(out)
    done = sorted(path.name for path in out.glob("part-*"))
    assert done == [name_part(0), name_part(1)] and not (out / "_done.json").exists()
    kept = {name: (out / name).stat().st_mtime_ns for name in done}
    time.sleep(0.01)
    job = ListJob(k=5, time=NIGHT)
    report = run_job(shop, "all", out, job, per_part=40)
    assert report.kept == 2 and report.parts == 8
    assert kept == {name: (out / name).stat().st_mtime_ns for name in done}
    whole = run_job(shop, "all", tmp_path / "whole", job, per_part=40)
    assert whole.counts == report.counts and whole.kept == 0
    first, second = [pd.read_parquet(r.folder) for r in (report, whole)]
    pd.testing.assert_frame_equal(first, second)


def test_a_process_that_fails_is_no_success(shop, tmp_path):
    users = tmp_path / "users.parquet"
    pd.DataFrame({"user_id": ["a", "b", "c", "d"]}).to_parquet(users)
    out = tmp_path / "lists"
    out.mkdir()
    run_job(shop, users, out, ListJob(k=2), per_part=1)
    part = out / name_part(1)
    part.write_bytes(b"PAR1 is not enough")
    with pytest.raises(JobError, match="1 of 2 processes failed"):
        run_job(shop, users, out, ListJob(k=2), per_part=1, workers=2)


@pytest.mark.parametrize(
    "change, says",
    [({"k": 9}, "k was 3"), ({"arm": "B"}, "arm was"), ({"exclude": ["x"]}, "rules")],
)
def test_lists_of_another_job_are_refused(shop, tmp_path, change, says):
    run_job(shop, ["a", "b"], tmp_path / "lists", ListJob(k=3))
    other = ListJob(**{"k": 3} | change)
    with pytest.raises(JobError, match=says):
        run_job(shop, ["a", "b"], tmp_path / "lists", other)


def test_lists_of_another_model_are_refused(shop, folder, train, tmp_path):
    run_job(shop, ["a", "b"], tmp_path / "lists")
    model = Popularity().fit(train)
    other = Exported(export(model, tmp_path / "2024-05-01"))
    with pytest.raises(JobError, match="manifest was"):
        run_job(other, ["a", "b"], tmp_path / "lists")


def test_lists_in_postgres_are_there_once(postgres_url, shop, tmp_path):
    report = run_job(shop, "all", tmp_path / "lists", ListJob(k=2, time=NIGHT))
    address = f"{postgres_url}?table=lists"
    for _ in range(2):
        append_lists(report, address)
    con = open_engine(parse_url(address))
    table = con.table("lists")
    assert table.count().execute() == report.counts.rows
    frame = table.order_by(["user_id", "rank"]).execute()
    own = pd.read_parquet(report.folder).sort_values(["user_id", "rank"])
    assert frame.item_id.tolist() == own.item_id.tolist()
    con.raw_sql("CREATE TABLE other (user_id text)").close()
    with pytest.raises(JobError, match="name another table"):
        append_lists(report, address.replace("lists", "other"))


def test_batches_with_newer_events_give_the_lists_of_single_questions(shop, users):
    rng = np.random.default_rng(1)
    rows = [
        {
            "user_id": user,
            "item_id": f"item_{rng.integers(160)}",  # some are not in the catalogue
            "event_type": str(rng.choice(["view", "click"])),
            "timestamp": datetime(2024, 5, int(day), tzinfo=timezone.utc),
        }
        for user in [*users[::2], "stranger 3"]
        for day in rng.integers(1, 29, 4)
    ]
    order = rng.permutation(len(rows))
    table = pa.Table.from_pylist([rows[place] for place in order])
    made = ListMaker(shop, ListJob(k=5, events=table)).make(users)
    for user in users:
        own = [rows[place] for place in order if rows[place]["user_id"] == user]
        alone = shop.recommend(user, 5, events=own)
        mine = [row for row in list_rows(made.rows) if row[0] == user]
        wanted = [(one["item_id"], one["rank"]) for one in alone["items"]]
        assert [(row[1], row[2]) for row in mine] == wanted
        assert {row[4] for row in mine} == {alone["source"]}
    assert "events" in {row[4] for row in list_rows(made.rows)}


def test_other_events_are_another_job(shop, tmp_path):
    users = take_ids(["a", "b"], "two")
    events = pa.table({"user_id": ["a", "b"], "item_id": ["item_1", "item_2"]})
    run_job(shop, users, tmp_path / "lists", ListJob(events=events))
    chunks = pa.concat_tables([events[:1], events[1:]])  # the same events
    report = run_job(shop, users, tmp_path / "lists", ListJob(events=chunks))
    assert report.kept == 1
    with pytest.raises(JobError, match="rules"):
        run_job(shop, users, tmp_path / "lists", ListJob(events=events[:1]))
