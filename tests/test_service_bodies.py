"No body, however odd, is answered with an error of the service or with its own words."

import json
import re
import warnings

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient  # noqa: E402

from recsys_nb.data import World  # noqa: E402
from recsys_nb.recommenders import EASE, Popularity, Recommender  # noqa: E402
from recsys_nb.serving import AppSettings, export  # noqa: E402
from recsys_nb.serving.http import create_app  # noqa: E402

JSON = {"content-type": "application/json"}
SECRET = "zxqsecretqxz"


@pytest.fixture(scope="module")
def model():
    log = World(n_users=100, n_items=50, seed=1).sample(2_000)
    return Recommender([EASE(), Popularity()], answer="EASE").fit(log)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    folder = export(model, tmp_path_factory.mktemp("models") / "v1")
    with TestClient(create_app(folder), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rule may name a value that no item has
        with TestClient(create_app(model), raise_server_exceptions=False) as client:
            yield client


class Stub:
    "A model that lists two things."

    def recommend(self, user_id, **question):
        items = [{"item_id": i, "rank": n, "score": -n} for n, i in enumerate("ab", 1)]
        known = {"user_id": user_id, "model": "stub", "unknown_items": []}
        return known | {"source": "popular", "items": items}

    def health(self):
        return {"status": "ok", "model": "stub"}


def test_propensities_reach_the_log(tmp_path):
    folder = tmp_path / "events"
    settings = AppSettings(events=folder, explore=0.5)
    with TestClient(create_app(Stub(), settings=settings)) as client:
        (item,) = client.get("/recommend/x?k=1").json()["items"]
        assert item["propensity"] in (0.25, 0.75)  # of two items, at the first place
        event = {"user_id": "x", "event_type": "impression", "position": 1}
        event |= {"item_id": item["item_id"], "propensity": item["propensity"]}
        assert client.post("/events", json={"events": [event]}).status_code == 200
        for wrong in (0, 1.5, "0.5", True):
            odd = {"events": [event | {"propensity": wrong}]}
            assert client.post("/events", json=odd).status_code == 422
    assert pd.read_parquet(folder).propensity.tolist() == [item["propensity"]]


def nest(depth):
    return "[" * depth + "]" * depth


def fill(template, text=SECRET):
    "A body with a text in the place of §."
    return template.replace("§", text)


BODIES = {
    "nothing": "",
    "null": "null",
    "a list": "[]",
    "not UTF-8": b"\xff\xfe{",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NaN as an id": '{"user_id": NaN}',
    "minus infinity as an id": '{"user_id": -Infinity}',
    "1e400 as an id": '{"user_id": 1e400}',
    "5,000 digits": fill('{"user_id": §}', "9" * 5_000),
    "4,000 digits": fill('{"user_id": §}', "9" * 4_000),
    "a lone surrogate": '{"user_id": "\\ud800"}',
    "a lone surrogate as a column": '{"user_id": 1, "where": {"\\udfff": 1}}',
    "a lone surrogate as a field": '{"user_id": 1, "\\udfff": 1}',
    "100,000 brackets": fill('{"user_id": §}', nest(100_000)),
    "900 brackets": fill('{"user_id": §}', nest(900)),
    "NaN in a rule": '{"user_id": 1, "where": {"price": NaN}}',
    "1e400 in a range": '{"user_id": 1, "where": {"price": {"max": 1e400}}}',
    "a long number in a rule": fill(
        '{"user_id": 1, "where": {"price": 1§}}', "0" * 400
    ),
    "an unknown column": fill('{"user_id": 1, "where": {"§": 1}}'),
    "a value of another type": fill('{"user_id": 1, "where": {"price": "§"}}'),
    "an empty range": '{"user_id": 1, "where": {"price": {"min": 9, "max": 1}}}',
    "a range of words": '{"user_id": 1, "where": {"category": {"min": "a"}}}',
    "an unknown field": fill('{"user_id": 1, "§": 1}'),
    "a time of another kind": fill(
        '{"user_id": 1, "events": [{"item_id": 1, "timestamp": "§"}]}'
    ),
    "a time beyond all": '{"user_id": 1, "events": [{"item_id": 1, '
    '"timestamp": 1e300}]}',
    "k as a text": fill('{"user_id": 1, "k": "§"}'),
    "k beyond all": fill('{"user_id": 1, "k": 1§}', "0" * 30),
    "an id that is too long": fill('{"user_id": "§"}', SECRET * 100),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
@pytest.mark.parametrize("path", ["/recommend", "/recommend/batch", "/why", "/events"])
def test_a_hand_found_body_is_refused_without_an_echo(client, path, body):
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert SECRET not in answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_an_export_refuses_the_same(exported, body):
    answer = exported.post("/recommend", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert SECRET not in answer.text


GOOD = {
    "a rule": {"where": {"category": ["Books"]}},
    "a range": {"where": {"price": {"min": 1, "max": 1e9}}},
    "conditions": {"where": ["price<1000", "category=Books,Sports"]},
    "a value that no item has": {"where": {"category": "Rockets"}},
    "unknown candidates": {"candidates": ["nothing"]},
    "unknown exclusions": {"exclude": ["nothing", 17]},
    "reasons": {"explain": True, "k": 2},
    "an early time": {
        "events": [
            {"item_id": "item_1", "timestamp": "0001-01-01T00:00:00+14:00"},
            {"item_id": "item_2", "timestamp": "9999-12-31T23:59:59-14:00"},
        ]
    },
}


@pytest.mark.parametrize("fields", GOOD.values(), ids=list(GOOD))
def test_an_odd_but_valid_question_is_answered(client, fields):
    body = {"user_id": "user_1"} | fields
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    asked = body.get("k", 10)
    assert len(answer.json()["items"]) == asked or answer.json()["reason"]
    assert ("why" in answer.text) == ("explain" in fields)


@pytest.mark.parametrize("fields", GOOD.values(), ids=list(GOOD))
def test_an_export_answers_the_same(client, exported, fields):
    body = {"user_id": "user_1"} | fields | {"explain": False}
    answers = [c.post("/recommend", json=body) for c in (client, exported)]
    assert {answer.status_code for answer in answers} == {200}
    lists = [[i["item_id"] for i in answer.json()["items"]] for answer in answers]
    assert lists[0] == lists[1]


def test_a_plain_question_counts_under_its_address(exported):
    "It is answered before FastAPI sees it, and counted as FastAPI would count it."
    asked = [
        ("GET", "/recommend/user_1?k=3"),  # plain
        ("GET", "/recommend/user_1?k=3&exclude=item_1"),  # for FastAPI
        ("GET", "/recommend/a%2Fb"),
        ("POST", "/recommend"),
    ]
    given = [exported.request(*one, json={"user_id": "user_1"}) for one in asked]
    assert [answer.status_code for answer in given] == [200] * 4
    assert given[2].json()["user_id"] == "a/b"
    assert all(len(answer.headers["x-request-id"]) == 32 for answer in given)
    page = exported.get("/metrics").text
    addresses = re.findall('recsys_requests_total{address="([^"]*)"', page)
    assert {"/recommend", "/recommend/{user_id:path}"} <= set(addresses)
    assert "/recommend/user_1" not in page


def test_too_large_is_refused_before_it_is_read(client):
    large = json.dumps({"user_id": SECRET * 100_000})
    answer = client.post("/recommend", content=large, headers=JSON)
    assert answer.status_code == 413
    assert SECRET not in answer.text

    def parts():
        for _ in range(20):
            yield b" " * 100_000

    assert client.post("/recommend", content=parts()).status_code == 413


def test_values_of_actions_need_a_model_that_knows_them(client):
    body = {"user_id": "user_1", "value": {"click": 1, "purchase": "price"}}
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "value"]

    class Worth(Stub):
        def recommend(self, user_id, value=None, **question):
            answer = super().recommend(user_id, **question)
            return answer | {"model": json.dumps(value)}

    with TestClient(create_app(Worth())) as other:
        answer = other.post("/recommend", json=body).json()
        assert json.loads(answer["model"]) == body["value"]
        for odd in ({}, {"click": None}, {"click": float("inf")}, {"click": True}, []):
            text = json.dumps({"user_id": 1, "value": odd})
            assert other.post("/recommend", content=text).status_code == 422


@pytest.mark.parametrize(
    "context, place",
    [
        ({"hour": 24}, ["body", "context", "hour"]),
        ({"hour": "8"}, ["body", "context", "hour"]),
        ({"weekday": 7}, ["body", "context", "weekday"]),
        ({"hour": 8}, ["body", "context", "hour"]),  # this model has no ranker
        ({SECRET: 8}, ["body", "context"]),  # a name that the client has made up
        ("evening", ["body", "context"]),
    ],
)
def test_a_wrong_context_is_refused_by_its_name(client, exported, context, place):
    for service in (client, exported):
        asked = {"user_id": "user_1", "context": context}
        answer = service.post("/recommend", json=asked)
        assert answer.status_code == 422
        assert [problem["loc"] for problem in answer.json()["detail"]] == [place]
        assert SECRET not in answer.text


def test_an_empty_context_is_the_usual_one(client, exported):
    for service in (client, exported):
        asked = [{"user_id": "user_1"} | more for more in ({}, {"context": {}})]
        first, second = [service.post("/recommend", json=body).json() for body in asked]
        assert first == second


def test_a_model_that_knows_no_moment_says_so():
    with TestClient(create_app(Stub())) as client:
        asked = {"user_id": "Zoe", "context": {"hour": 8}}
        answer = client.post("/recommend", json=asked)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "context"]


def test_a_get_may_bring_rules(client, exported):
    rules = json.dumps({"category": ["Books", "Home"], "price": {"max": 1e6}})
    body = {"user_id": "user_1", "where": json.loads(rules)}
    for one in (client, exported):
        asked = one.get("/recommend/user_1", params={"where": rules})
        assert asked.status_code == 200
        assert (
            asked.json()["items"] == one.post("/recommend", json=body).json()["items"]
        )
        words = ["price<=1000000", "category=Books,Home"]
        in_words = one.get("/recommend/user_1", params={"where": words})
        assert in_words.json()["items"] == asked.json()["items"]
        odd_words = ["price<", "price<1,2", "§<1", "price=§", "category=a\nb"]
        for odd in ("{", "[]", "{}", '{"price": NaN}', fill('{"§": 1}'), *odd_words):
            answer = one.get("/recommend/user_1", params={"where": odd})
            assert answer.status_code == 422 and SECRET not in answer.text


def test_what_drifts_is_counted(model, tmp_path):
    pytest.importorskip("onnxruntime")
    events = [{"item_id": "item_1"}, {"item_id": "gone"}]
    for served in (model, export(model, tmp_path / "v1")):
        with TestClient(create_app(served)) as client:
            for user in ("user_1", "nobody"):
                client.post("/recommend", json={"user_id": user, "events": events})
            client.post("/recommend", json={"user_id": "user_1", "candidates": []})
            page = client.get("/metrics").text
        assert "recsys_event_items_total 4.0" in page
        assert "recsys_unknown_items_total 2.0" in page
        assert 'recsys_users_total{known="yes"} 2.0' in page
        assert 'recsys_users_total{known="no"} 1.0' in page
        assert 'recsys_short_lists_total{arm="A"} 1.0' in page


def test_an_export_gives_the_same_reasons(client, exported):
    question = {"user_id": "user_1", "item_id": "item_2"}
    own, other = [c.post("/why", json=question).json() for c in (client, exported)]
    assert own["score"] == pytest.approx(other["score"], abs=1e-4)
    shares = [
        {f["feature"]: f["share"] for f in why["features"]} for why in (own, other)
    ]
    assert shares[0] == pytest.approx(shares[1], abs=1e-4)
    assert own["history"][0]["item_id"] == other["history"][0]["item_id"]
    nobody = exported.post("/why", json=question | {"user_id": "new"})
    assert nobody.status_code == 422
    assert "of whom nothing is known" in nobody.text
    absent = exported.post("/why", json=question | {"item_id": "gone"})
    assert absent.status_code == 404
    listed = exported.post("/recommend", json={"user_id": "user_1", "explain": True})
    assert all(item["why"]["features"] for item in listed.json()["items"])


def test_reasons_and_items(client):
    answer = client.post("/why", json={"user_id": "user_1", "item_id": "item_2"})
    assert answer.status_code == 200
    assert {"history", "features", "score"} <= set(answer.json())
    nobody = client.post("/why", json={"user_id": "new", "item_id": "item_2"})
    assert nobody.status_code == 422
    absent = client.post("/why", json={"user_id": "user_1", "item_id": "gone"})
    assert absent.status_code == 404
    assert client.get("/items/item_2").json()["category"]


FIELDS = """user_id item_id events k exclude_seen where candidates exclude explain
timestamp event_type request_id position questions min max price category""".split()
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["user_1", "item_1", "Books", "2024-05-01", "\ud800", "0", ""]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3)
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=4)
known = {"user_id": "user_1", "item_id": "item_1", "event_type": "click"}


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(st.sampled_from(["recommend", "batch", "why", "events"]), bodies)
def test_any_json_is_answered_or_refused(client, kind, body):
    single = known | body
    if kind in ("recommend", "why"):
        dropped = {"recommend": ("item_id", "event_type"), "why": ("event_type",)}
        single = {n: v for n, v in single.items() if n not in dropped[kind]}
    path, body = {
        "recommend": ("/recommend", single),
        "batch": ("/recommend/batch", {"questions": [single]}),
        "why": ("/why", single),
        "events": ("/events", {"events": [single]}),
    }[kind]
    text = json.dumps(body).encode("ascii")
    answer = client.post(path, content=text, headers=JSON)
    assert answer.status_code in (200, 404, 422), answer.text
    answer.json()


@pytest.mark.parametrize("user", ["a/b", "%00", "%ED%A0%80", "..", "x" * 501, "%F0"])
def test_any_address_is_answered_or_refused(client, user):
    for path in (f"/recommend/{user}", f"/item/{user}/similar", f"/items/{user}"):
        assert client.get(path).status_code in (200, 404, 422)


def test_openapi_names_what_may_come(client):
    schema = client.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for about in methods.values():
            statuses = set(about["responses"])
            assert {"400", "401", "404", "413", "422", "503"} <= statuses, path
    question = schema["components"]["schemas"]["ListQuestion"]
    assert question["additionalProperties"] is False
    assert "where" in question["properties"]
