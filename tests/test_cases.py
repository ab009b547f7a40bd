"""Situations from public trackers on the command line: what was done, what is right.

The numbers are those of the list of cases; where a case is tested elsewhere:

15 test_retriever.py::test_validation_of_a_large_catalogue_stays_small
17 test_retriever.py::test_5000_of_120000_items_from_cells
19 test_cli.py::test_criteo_trains_and_judges, test_stream.py
21 test_continuing.py: items of the next day
24 test_recommenders_baselines.py::test_two_heavy_users_do_not_stop_item_knn
25 test_statistics.py::test_better_model_among_eight_is_found

Those of reading (1–7, 16) are in test_data_cases.py for Python as well.
"""

import datetime
import json
import shlex

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from recsys_nb.cli import main
from recsys_nb.data import Dataset, load, simulate
from recsys_nb.experiments import analyze
from recsys_nb.recommenders import BaseRecommender
from recsys_nb.recommenders.baselines import EASE, Popularity
from recsys_nb.recommenders.feature_tables import FeatureTable
from recsys_nb.recommenders.filters import BASELINES
from recsys_nb.serving import create_app


@pytest.fixture
def write(tmp_path):
    "Write a text file; its path."

    def write_file(name, text, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write_file


@pytest.fixture
def recommend(say, tmp_path):
    "The lists of `recsys-nb recommend`, and its notes."

    def ask(folder, *words):
        out = tmp_path / "lists.parquet"
        status, _, said = say("recommend", "--model", folder, *words, "--out", out)
        assert status == 0, said
        return pd.read_parquet(out), said

    return ask


def refuse(say, tmp_path, *words):
    "What `recsys-nb run` says of what it refuses."
    status, _, said = say("run", "--out", tmp_path / "out", *words)
    assert status == 2 and len(said.splitlines()) == 1, said
    return said


# --- 1: ids as they are written ------------------------------------------------------


@pytest.mark.parametrize("name", ["x.csv", "x.inter", "x.CSV"])
def test_case_1_padded_ids_in_run(write, read_run, name):
    separator = "\t" if name.endswith("inter") else ","
    text = "user_id,item_id\na,00123\nb,123\n".replace(",", separator)
    run = read_run("--data", write(name, text))
    assert run.data.item_ids.tolist() == ["00123", "123"]


def test_case_1_padded_ids_in_evaluate(write, say):
    lists = write("lists.csv", "user_id,item_id,rank\n007,00123,1\n7,123,1\n")
    truth = write("truth.csv", "user_id,item_id\n007,00123\n7,123\n")
    words = ["--recommendations", lists, "--truth", truth, "-k", "1"]
    status, said, _ = say("evaluate", *words)
    assert status == 0 and "2 users" in said and "1.000" in said


def test_case_1_padded_ids_in_abtest(write, say):
    rows = "".join(f"{u:03},{'ab'[u % 2]},1\n{u},{'ab'[u % 2]},2\n" for u in range(99))
    file = write("x.csv", f"user_id,variant,sales\n{rows}")
    status, said, _ = say("abtest", file, "--metric", "sales")
    assert status == 0 and " 198 " in said


# --- 2: times ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [
        ("t_dat", "2018-09-2{}"),
        ("InvoiceDate", "12/2{}/2010 8:26"),
        ("unixReviewTime", "13{}0304000"),
        ("order_date", "2018092{}"),
    ],
)
def test_case_2_times_are_used(write, read_run, name, value):
    rows = "".join(f"{n % 3},{n},{value.format(n % 9)}\n" for n in range(30))
    file = write("x.csv", f"customer_id,article_id,{name}\n{rows}")
    run = read_run("--data", file, split=True)
    assert run.numbers["protocol"]["split"] in ("time", "last")


def test_case_2_other_times_ask(write, say, tmp_path, read_run):
    text = "user,item,bought_when\n1,2,2018-09-20\n1,3,2018-09-21\n2,2,2018-09-22\n"
    file = write("x.csv", text)
    said = refuse(say, tmp_path, "--data", file)
    assert "--time-col bought_when" in said and "--time-col none" in said
    run = read_run("--data", file, "--time-col", "bought_when")
    assert "timestamp" in run.data.interactions
    run = read_run("--data", file, "--time-col", "none")
    assert "timestamp" not in run.data.interactions


# --- 3: long ids ---------------------------------------------------------------------

LONG = [1234567890123456000, 2**64 - 1000]


@pytest.mark.parametrize("first", LONG)
def test_case_3_long_ids_are_known(tmp_path, recommend, first):
    users = np.array([first + n % 20 for n in range(200)], np.uint64)
    items = np.array([first - n % 31 for n in range(200)], np.uint64)
    log = Dataset(pd.DataFrame({"user_id": users, "item_id": items}))
    EASE().fit(log).save(tmp_path / "model")
    lists, _ = recommend(tmp_path / "model", "--user", first)
    assert set(lists.source) == {"history"} and set(lists.user_id) == {first}
    with TestClient(create_app(tmp_path / "model")) as client:
        assert client.get(f"/recommend/{first}").json()["source"] == "history"
        assert client.get(f"/item/{first - 1}/similar").status_code == 200


# --- 4: flags in errors --------------------------------------------------------------


@pytest.mark.parametrize(
    "text, encoding, flags",
    [
        ("user,item\nZoë,1\nAda,2\n", "latin-1", "--encoding latin-1"),
        ("customer,item\n17850,a\n,b\n17850,c\n", "utf-8", "--unknown drop"),
        ("user;item;rating\n1;2;4,5\n1;3;3,0\n", "utf-8", "--decimal ','"),
        ("196,242,3\n186,302,3\n", "utf-8", "--no-header --names user,item,value"),
    ],
)
def test_case_4_errors_name_flags_that_work(
    write, say, tmp_path, read_run, text, encoding, flags
):
    file = write("x.csv", text, encoding)
    said = refuse(say, tmp_path, "--data", file)
    assert flags.split()[0] in said and "=" not in said
    read_run("--data", file, *shlex.split(flags))


# --- 5, 6, 7: JSON lines, split files, codes -----------------------------------------


def test_case_5_json_lines(write, read_run):
    lines = [json.dumps({"user_id": n % 2, "item_id": n}) for n in range(6)]
    run = read_run("--data", write("log.jsonl", "\n".join(lines)))
    assert run.data.item_ids.tolist() == list(range(6))


def test_case_6_the_file_named_is_read(write, read_run):
    head = "user_id:token\titem_id:token\n"
    for part, items in (("train", "12"), ("valid", "3"), ("test", "41")):
        rows = "".join(f"u\t{item}\n" for item in items)
        path = write(f"ds.{part}.inter", head + rows)
    data = load(path.with_name("ds.train.inter"))
    assert data.interactions.item_id.tolist() == [1, 2] and data.name == "ds.train"
    files = {part: f"ds.{part}.inter" for part in ("train", "valid", "test")}
    words = [word for part, file in files.items() for word in (f"--{part}", file)]
    run = read_run("--data", path.parent, *words, split=True)
    assert run.train.interactions.item_id.tolist() == [1, 2, 3]
    assert run.truth.item_id.tolist() == [4]


@pytest.mark.parametrize("positive", [("2", "3"), ("3",)])
def test_case_7_codes_of_events(write, read_run, positive):
    file = write("x.csv", "user,item,action_type\n1,2,0\n1,3,2\n2,3,3\n")
    words = ["--event-col", "action_type", "--positive", *positive]
    run = read_run("--data", file, *words)
    codes = run.data.interactions.event_type[run.data.is_positive()]
    assert codes.tolist() == [int(code) for code in positive]


# --- 8: lists by score ---------------------------------------------------------------


def test_case_8_lists_are_ordered_by_score(write, say, tmp_path):
    rows = "u,a,.1\nv,a,.2\nu,b,.9\nv,b,.3\nu,c,.5\n"
    lists = write("lists.csv", f"user_id,item_id,score\n{rows}")
    truth = write("truth.csv", "user_id,item_id\nu,b\nv,b\n")
    out = tmp_path / "numbers.csv"
    words = ["--recommendations", lists, "--truth", truth, "-k", "1", "--out", out]
    assert say("evaluate", *words)[0] == 0
    found = pd.read_csv(out).set_index("metric").value
    assert found["ndcg"] == 1.0


# --- 9, 10, 11: experiments ----------------------------------------------------------


def experiment(n=2000, share=0.1, seed=0):
    "Users of two arms with visits and revenue."
    rng = np.random.default_rng(seed)
    arms = np.where(np.arange(n) < share * n, "treatment", "control")
    table = {"user_id": np.arange(n), "variant": arms, "revenue": rng.poisson(5, n)}
    return pd.DataFrame(table)


def test_case_9_a_planned_split_is_no_mismatch(tmp_path, say):
    experiment().to_csv(tmp_path / "x.csv", index=False)
    words = ["abtest", tmp_path / "x.csv", "--metric", "revenue"]
    assert say(*words)[1].startswith("SAMPLE RATIO MISMATCH")
    status, said, _ = say(*words, "--expected", "control=.9,treatment=.1")
    assert status == 0 and said.startswith("Split as expected")


def test_case_10_refunds(tmp_path, say):
    frame = experiment(share=0.5)
    frame.loc[7, "revenue"] = -20
    frame.to_csv(tmp_path / "x.csv", index=False)
    words = ["abtest", tmp_path / "x.csv", "--metric", "revenue"]
    status, _, said = say(*words)
    assert status == 2 and "--unbounded revenue" in said
    assert say(*words, "--unbounded", "revenue")[0] == 0


def test_case_11_the_estimand_is_named_and_does_not_change(tmp_path, say):
    frame = pd.concat([experiment(share=0.5)] * 5, ignore_index=True)
    frame["purchase"] = np.random.default_rng(1).integers(0, 2, len(frame))
    told = []
    for cell in (1, 2):
        frame.loc[0, "purchase"] = cell
        frame.to_csv(tmp_path / "x.csv", index=False)
        words = ["abtest", tmp_path / "x.csv", "--metric", "purchase"]
        for kind in ("mean", "share"):
            told.append(say(*words, "--kind", kind)[1])
    assert ["mean per user" in text for text in told] == [True, False, True, False]
    assert ["share of users" in text for text in told] == [False, True, False, True]
    assert told[1] == told[3]
    wanted = str(analyze(frame, metrics=["purchase"], kind="mean"))
    assert told[2].strip() == wanted.strip()


# --- 12, 13, 14: tables of items -----------------------------------------------------


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    "A log, and a table of items with columns of every kind."
    folder = tmp_path_factory.mktemp("catalogue")
    data = simulate(150, 60, 2500, seed=3)
    data.interactions.to_parquet(folder / "log.parquet")
    n = len(data.items)
    day = pd.Timestamp("2024-01-01")
    items = data.items.assign(
        added=day + pd.to_timedelta(np.arange(n), unit="D"),
        date=[datetime.date(2024, 1, 1 + place % 28) for place in range(n)],
        lasts=pd.to_timedelta(np.arange(n), unit="h"),
        size=[{"cm": place} for place in range(n)],
        weight=np.where(np.arange(n) == 5, np.inf, 1.5),
        vector=[list(np.arange(64) + 0.5)] * n,
        title=[f"title {place}" + " | b" * (place == 3) for place in range(n)],
    )
    items.to_parquet(folder / "items.parquet")
    return folder


def test_cases_12_to_14_columns_are_used_or_named(catalogue, tmp_path, say):
    words = "--positive click purchase --quick --no-ranker --epochs 1".split()
    words += ["--data", catalogue / "log.parquet"]
    words += ["--items", catalogue / "items.parquet"]
    status, said, notes = say("run", "--out", tmp_path / "out", *words)
    assert status == 0, notes
    told = ["added=date", "date=date", "category=category", "title=ignore"]
    assert all(role in said for role in [*told, "vector=vector"])
    for column in ("size", "weight"):
        assert f"{column}=ignore" in said and f"column '{column}' is left out" in notes
    assert f"--roles {column}=ignore" in notes


def test_case_13_titles_with_a_bar_make_no_tags():
    titles = [f"title {n}" + " | b" * (n == 3) for n in range(20_000)]
    frame = pd.DataFrame({"item_id": range(20_000), "title": titles})
    table = FeatureTable(frame, "item_id", np.arange(20_000), 20_000)
    assert table.dense.shape[1] == 0 and table.columns.role.tolist() == ["ignore"]


# --- 16: a table that lacks items ----------------------------------------------------


def test_case_16_items_that_the_table_lacks(write, say, tmp_path, read_run, capfd):
    log = write("log.csv", "user,item\n1,a\n2,b\n3,c\n")
    items = write("items.csv", "item,price\na,1\nb,2\n")
    words = ["--data", log, "--items", items]
    assert "--unknown drop" in refuse(say, tmp_path, *words)
    run = read_run(*words, "--unknown", "drop")
    assert len(run.data) == 2 and "1 of 3" in capfd.readouterr().err


# --- 18, 20, 22, 23: saved models ----------------------------------------------------


@pytest.fixture(scope="module")
def market():
    "A log with columns of its own; positives are clicks and purchases."
    log = simulate(80, 40, 4000, seed=2).interactions
    names = {"user_id": "kunde", "item_id": "artikel", "event_type": "was"}
    return Dataset.from_frame(
        log.rename(columns=names),
        user="kunde",
        item="artikel",
        timestamp="timestamp",
        event="was",
        positive=("click", "purchase"),
    )


@pytest.fixture(scope="module")
def ease(market, tmp_path_factory):
    "The folder of a saved EASE."
    folder = tmp_path_factory.mktemp("models") / "ease"
    EASE().fit(market.positives()).save(folder)
    return folder


def test_case_18_events_in_the_columns_of_the_log(write, ease, recommend):
    events = write("e.csv", "kunde,artikel,was\nnew,item_1,click\nnew,item_2,click\n")
    lists, _ = recommend(ease, "--events", events)
    assert set(lists.user_id) == {"new"} and set(lists.source) == {"events"}


def test_case_20_only_items_in_stock(write, ease, recommend, market):
    stock = [f"item_{n}" for n in range(0, 40, 2)]
    file = write("stock.csv", "\n".join(["artikel", *stock]))
    user = market.positives().user_ids[0]
    lists, _ = recommend(ease, "--user", user, "--candidates", file, "-k", "3")
    assert len(lists) == 3 and lists.item_id.isin(stock).all()
    lists, _ = recommend(ease, "--user", user, "--exclude", file)
    assert not lists.item_id.isin(stock).any()


@pytest.mark.parametrize("name", [n for n in BASELINES if n not in ("ALS", "BPR")])
def test_case_22_any_recommender_is_saved_and_served(market, tmp_path, recommend, name):
    model = BASELINES[name]().fit(market.positives())
    model.save(tmp_path / "model")
    user = model.user_ids_[0]
    lists, _ = recommend(tmp_path / "model", "--user", user, "-k", "5")
    want = model.recommend([user], k=5)
    assert lists.item_id.tolist() == want.item_id.tolist()
    with TestClient(create_app(tmp_path / "model")) as client:
        answer = client.get(f"/recommend/{user}", params={"k": 5}).json()
    assert [item["item_id"] for item in answer["items"]] == want.item_id.tolist()


def test_case_23_views_among_the_events_do_not_count(write, ease, recommend):
    clicked = write("a.csv", "kunde,artikel,was\nnew,item_1,click\n")
    rows = "kunde,artikel,was\nnew,item_1,click\nnew,item_2,view\nnew,item_3,view\n"
    lists = [recommend(ease, "--events", f)[0] for f in (clicked, write("b.csv", rows))]
    assert lists[0].item_id.tolist() == lists[1].item_id.tolist()
    model = BaseRecommender.load(ease)
    events = pd.DataFrame({"user_id": ["new"], "item_id": ["item_1"]})
    want = model.recommend(events=events)
    assert lists[0].item_id.tolist() == want.item_id.tolist()


# --- similar situations --------------------------------------------------------------


def test_a_file_of_users_with_repeated_and_unknown_ones(write, ease, recommend, market):
    known = market.positives().user_ids[:3].tolist()
    file = write("users.csv", "\n".join(["kunde", *known, known[0], "nobody", ""]))
    lists, said = recommend(ease, "--users", file, "-k", "2")
    assert lists.user_id.unique().tolist() == [*known, "nobody"]
    assert "1 of 5 ids are repeated" in said and "'nobody'" in said


def test_a_file_of_users_without_a_header(write, tmp_path, recommend, say):
    log = Dataset(pd.DataFrame({"user_id": [7, 8, 7], "item_id": [1, 3, 2]}))
    Popularity().fit(log).save(tmp_path / "model")
    file = write("users.txt", "7\n8\n")
    words = ["recommend", "--model", tmp_path / "model", "--users", file]
    status, _, said = say(*words)
    assert status == 2 and "--no-header" in said
    lists, _ = recommend(tmp_path / "model", "--users", file, "--no-header")
    assert lists.user_id.unique().tolist() == [7, 8]


def test_an_unknown_user_changes_nobody_elses_list(tmp_path, recommend):
    rows = {"user_id": [1, 1, 2, 2, 3], "item_id": [1, 2, 2, 3, 1]}
    EASE().fit(Dataset(pd.DataFrame(rows))).save(tmp_path / "model")
    alone, _ = recommend(tmp_path / "model", "--user", 1)
    both, _ = recommend(tmp_path / "model", "--user", 1, "--user", "nobody")
    assert both[both.user_id == "1"].item_id.tolist() == alone.item_id.tolist()
    assert set(both[both.user_id == "nobody"].source) == {"popular"}


def test_ids_written_otherwise_are_an_error_with_both(tmp_path, say):
    log = Dataset(pd.DataFrame({"user_id": [7, 8], "item_id": [1, 1]}))
    Popularity().fit(log).save(tmp_path / "model")
    status, _, said = say("recommend", "--model", tmp_path / "model", "--user", "007")
    assert status == 2 and "'007'" in said and "7 is" in said


def test_events_of_unknown_items_are_counted(write, ease, recommend, say):
    text = "kunde,artikel,was\nnew,item_1,click\nnew,thing,click\n"
    lists, said = recommend(ease, "--events", write("e.csv", text))
    assert "1 of 2 events are left out" in said and "'thing'" in said
    assert set(lists.source) == {"events"}


# --- messages and requests of the same kinds -----------------------------------------


def test_events_of_unknown_items_leave_no_user_without_a_list(write, ease, recommend):
    events = write("e.csv", "kunde,artikel,was\nn1,item_1,click\nn2,zz,click\n")
    lists, said = recommend(ease, "--events", events)
    assert "1 of 2 events are left out" in said and "nothing is known of user" in said
    assert dict(zip(lists.user_id, lists.source, strict=True)) == {
        "n1": "events",
        "n2": "popular",
    }


LISTS = "user_id,item_id,score\nu,a,{}\nu,b,1\n"


@pytest.mark.parametrize(
    "score, words, told",
    [
        ("best", [], "score is 'best' in row 0"),
        ('"0,5"', [], "--decimal ','"),
        ("2", ["--n-boot", "-1"], "--n-boot -1"),
        ("2", ["--level", "95"], "--level 95"),
    ],
)
def test_evaluate_says_what_it_refuses(write, say, score, words, told):
    lists, truth = write("l.csv", LISTS.format(score)), write("t.csv", LISTS.format(3))
    status, out, said = say(
        "evaluate", "--recommendations", lists, "--truth", truth, *words
    )
    assert (status, out, len(said.splitlines())) == (2, "", 1) and told in said


@pytest.mark.parametrize(
    "words, told",
    [
        (["--metric", "spent"], "'1,5' in row 3"),
        (["--metric", "spent"], "--decimal ','"),
        (["--metric", "n", "--expected", "control=95%"], "'control=95%'"),
        (["--metric", "n", "--expected", "95/5"], "ARM=SHARE"),
        (["--metric", "n", "--variant", "name"], "No name of ['x', 'y'] says so"),
    ],
)
def test_abtest_says_what_it_refuses(tmp_path, say, words, told):
    frame = pd.DataFrame({"user_id": range(40), "n": np.arange(40) % 7})
    frame["variant"] = np.where(frame.user_id % 2, "treatment", "control")
    frame["name"] = np.where(frame.user_id % 2, "x", "y")
    frame["spent"] = ["1", "2", "3", "1,5"] * 10
    frame.to_csv(tmp_path / "x.csv", index=False)
    status, _, said = say("abtest", tmp_path / "x.csv", *words)
    assert status == 2 and told in said and len(said.splitlines()) == 1
    assert "None" not in said


def test_monitor_names_no_flag_that_it_lacks(tmp_path, say):
    frame = pd.DataFrame({"user_id": range(4), "variant": ["a", "b"] * 2, "n": 1})
    frame["timestamp"] = ["2024-01-01", None, "2024-01-02", "2024-01-02"]
    frame.to_csv(tmp_path / "x.csv", index=False)
    status, _, said = say("monitor", tmp_path / "x.csv", "--metric", "n")
    assert status == 2 and "leave such rows out" in said and "unknown" not in said


@pytest.mark.parametrize("control", [[], ["--control", "0"], ["--control", "0.0"]])
def test_arms_that_were_read_as_floats(tmp_path, say, control):
    frame = pd.DataFrame({"user_id": range(40), "n": np.arange(40) % 7})
    frame["variant"] = (frame.user_id % 2).astype(float)
    frame.to_csv(tmp_path / "x.csv", index=False)
    words = ["--metric", "n", "--expected", "0=.5,1=.5", *control]
    status, out, said = say("abtest", tmp_path / "x.csv", *words)
    assert status == 0 and "Split as expected: 0" in out, said


@pytest.mark.parametrize(
    "role, status", [("number", 2), ("date", 2), ("category", 0), ("ignore", 0)]
)
def test_a_role_that_no_value_fits_is_refused_at_once(
    write, say, tmp_path, read_run, role, status
):
    words = ["--data", write("log.csv", "user,item\n1,a\n2,b\n")]
    words += ["--items", write("items.csv", "item,taste\na,sweet\nb,sour\n")]
    words += ["--roles", f"taste={role}"]
    if status:
        said = refuse(say, tmp_path, *words)
        assert "'taste' cannot be a" in said and "--roles taste=ignore" in said
    else:
        assert read_run(*words).data.items.attrs["roles"] == {"taste": role}


# --- ids that are nearly known, tables without rows, columns with a part --------------


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    "A saved model whose users are u0, u1, … and whose items are 000, 001, …"
    rng = np.random.default_rng(0)
    log = {
        "user_id": [f"u{n}" for n in rng.integers(0, 30, 300)],
        "item_id": [f"{n:03}" for n in rng.integers(0, 40, 300)],
    }
    folder = tmp_path_factory.mktemp("padded") / "model"
    return Popularity().fit(Dataset(pd.DataFrame(log))).save(folder)


@pytest.mark.parametrize(
    "flag, text, told",
    [
        ("--users", "user_id\nu2\nU3\nnew\n", "'U3' is not known, but 'u3' is"),
        ("--users", "user_id\nu2\n u4\n", "' u4' is not known, but 'u4' is"),
        ("--candidates", "item_id\n003\n4\n", "'4' is not known, but '004' is"),
        ("--exclude", "item_id\n003\n5.0\n", "'5.0' is not known, but '005' is"),
        ("--events", "user_id,item_id\nu2,003\nu2,4\n", "'4' is not known, but '004'"),
        ("--events", "user_id,item_id\nU2,003\nnew,004\n", "but 'u2' is"),
    ],
)
def test_an_id_that_is_nearly_known_is_named(
    write, padded, recommend, flag, text, told
):
    words = [] if flag in ("--users", "--events") else ["--user", "u1"]
    _, said = recommend(padded, *words, flag, write("ids.csv", text))
    assert told in said and "write them alike" in said


def test_a_user_that_is_nearly_known_is_named(padded, recommend):
    lists, said = recommend(padded, "--user", "U1", "--user", "u2")
    assert "user 'U1' is not known, but 'u1' is" in said
    assert lists.groupby("user_id").size().to_dict() == {"U1": 10, "u2": 10}


@pytest.mark.parametrize(
    "flag, text",
    [
        ("--users", "user_id\n"),
        ("--users", "user_id,x\n,1\n,2\n"),
        ("--candidates", "item_id\n"),
    ],
)
def test_a_file_without_ids_is_an_error(write, say, padded, flag, text):
    file = write("ids.csv", text)
    words = ["--user", "u1", flag, file, "--model", padded]
    status, _, said = say("recommend", *words)
    assert status == 2 and f"{file} has no" in said


def test_nothing_to_exclude_is_no_error(write, padded, recommend):
    lists, _ = recommend(
        padded, "--user", "u1", "--exclude", write("x.csv", "item_id\n")
    )
    assert len(lists) == 10


PAIR = "user_id,item_id\nu1,a\n"


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("recommendations", "user_id,item_id,rank\n", "recommendations have no rows"),
        ("truth", "user_id,item_id\n", "truth has no rows"),
        ("train", "user_id,item_id\n", "train has no rows"),
        ("train", "", "is empty"),
        ("items", "", "is empty"),
    ],
)
def test_tables_without_rows_are_told(write, say, name, text, told):
    files = {"recommendations": PAIR, "truth": PAIR} | {name: text}
    words = []
    for flag, content in files.items():
        words += [f"--{flag}", write(f"{flag}.csv", content)]
    status, _, said = say("evaluate", *words)
    assert status == 2 and told in said and len(said.splitlines()) <= 2


def test_evaluate_without_intervals(write, say):
    file = write("pairs.csv", PAIR)
    words = ["--recommendations", file, "--truth", file, "--n-boot", "0"]
    status, out, _ = say("evaluate", *words)
    assert status == 0 and "no intervals" in out and "nan" not in out


@pytest.fixture
def trial(write):
    rows = "".join(f"{n},{'ab'[n % 2]},{n % 7},2024-01-01\n" for n in range(200))
    return write("trial.csv", f"user_id,variant,sales,day\n{rows}")


@pytest.mark.parametrize(
    "words, told",
    [
        (["--metric", "user_id"], "metric 'user_id' is the column of the users"),
        (["--metric", "sales/user_id"], "'user_id' is the column of the users"),
        (["--metric", "variant"], "metric 'variant' is the column of the arms"),
        (["--metric", "day", "--time-col", "day"], "is the column of the times"),
        (["--metric", "sales", "--segment", "variant"], "segment 'variant' is"),
        (["--metric", "sales", "--strata", "user_id"], "stratum 'user_id' is"),
        (["--metric", "sales", "--covariate", "sales=sales"], "the metric itself"),
        (["--metric", "sales", "--covariate", "sales=user_id"], "of the users"),
        (["--metric", "sales", "--expected", "a=.9,b=.2"], "sum to 1.1, not to 1"),
        (["--metric", "sales", "--expected", "a=1.5,b=1"], "sum to 2.5, not to 1"),
        (["--metric", "sales", "--expected", "a=.9,a=.1"], "names 'a' twice"),
        (["--metric", "sales", "--expected", "a=0,b=1"], "one positive share"),
        (["--metric", "sales", "--guardrail", "x=.1,x=.2"], "names 'x' twice"),
    ],
)
def test_abtest_refuses_a_column_that_has_another_part(trial, say, words, told):
    status, out, said = say("abtest", trial, *words)
    assert status == 2 and told in said and not out


@pytest.mark.parametrize("expected", ["a=.5,b=.5", "a=1,b=1", "a=50,b=50"])
def test_shares_and_parts_plan_the_same_split(trial, say, expected):
    status, out, _ = say("abtest", trial, "--metric", "sales", "--expected", expected)
    assert status == 0 and out.startswith("Split as expected: a 100 (expected 100)")


def test_a_policy_that_leaves_nobody_is_told(write, say):
    rows = "".join(f"{n},{arm},{n % 7}\n" for n in range(20) for arm in "ab")
    file = write("both.csv", f"user_id,variant,sales\n{rows}")
    words = ["--metric", "sales", "--user-policy", "exclude"]
    status, _, said = say("abtest", file, *words)
    assert status == 2 and "leaves no user: all 20 are in two variants" in said


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", "4294967296"])
@pytest.mark.parametrize("command", ["run", "evaluate", "criteo"])
def test_seeds_are_checked(capsys, command, seed):
    with pytest.raises(SystemExit):
        main([command, "--seed", seed])
    assert f"argument --seed: '{seed}' is no whole number" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["2", "1.001"])
def test_a_share_of_negatives_is_checked_before_anything_is_read(say, tmp_path, share):
    words = ["--data", tmp_path, "--out", tmp_path / "out", f"--negatives={share}"]
    status, _, said = say("criteo", *words)
    assert status == 2 and "--negatives" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text, told",
    [
        ("user,item,when_bought\n1,2,1704067200\n2,3,1704067200000\n", "when_bought"),
        ("user,item,date_of_sale\n1,2,45352.4\n2,3,45353.1\n", "date_of_sale"),
        ("user,item,bought_at\n1,2,1 Mar 24\n2,3,2 Mar 24\n", "bought_at"),
    ],
)
def test_times_in_no_known_form_ask(write, say, tmp_path, text, told):
    said = refuse(say, tmp_path, "--data", write("x.csv", text))
    assert f"--time-col {told}" in said and "--time-col none" in said


TABLE = "# exported on Monday\nuser, item, rating\nu1, 007, 4.5\nu2, 7, 3\n"


def test_comments_and_layouts_are_none_of_a_table(write, say, read_run, padded):
    file = write("x.csv", TABLE)
    data = read_run("--data", file).data.interactions
    assert data.values.tolist() == [["u1", "007", 4.5], ["u2", "7", 3.0]]
    words = ["--recommendations", file, "--truth", file, "-k", "1", "--n-boot", "0"]
    status, said, _ = say("evaluate", *words, "--user-col", "user")
    assert status == 0 and "2 users" in said and "1.000" in said
    status, said, _ = say("recommend", "--model", padded, "--events", file)
    assert status == 0 and "u1" in said


def test_a_metric_with_blanks_is_named(write, say):
    rows = "".join(f"{n},{'ab'[n % 2]}, {n % 7}\n" for n in range(40))
    file = write("x.csv", f"user_id,variant,sales\n{rows}")
    status, _, said = say("abtest", file, "--metric", "sales")
    assert status == 2 and "' 0' in row 0 (40 such rows" in said
    file = write("y.csv", f"user_id,variant, sales\n{rows}")
    assert say("abtest", file, "--metric", "sales")[0] == 0


@pytest.mark.parametrize("alpha", ["5", "0", "1", "nan", "-.05"])
@pytest.mark.parametrize("command", ["abtest", "monitor"])
def test_levels_are_checked(trial, say, command, alpha):
    status, out, said = say(command, trial, "--metric", "sales", f"--alpha={alpha}")
    assert status == 2 and "alpha must lie between 0 and 1" in said and not out
