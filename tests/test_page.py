"""The page for people over HTTP: what it asks is answered alike by a trained model and
by an export, checked, limited, and described as it is."""

import json
import warnings

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime")

from fastapi.testclient import TestClient  # noqa: E402

from recsys_nb.data import Dataset, World  # noqa: E402
from recsys_nb.recommenders import (  # noqa: E402
    DLRMRanker,
    ItemKNN,
    Popularity,
    Recommender,
    TwoTowerRetriever,
)
from recsys_nb.serving import export  # noqa: E402
from recsys_nb.serving.http import create_app  # noqa: E402
from recsys_nb.serving.page import MEDIA_TYPES, POLICY, name_page_file  # noqa: E402
from recsys_nb.serving.page_messages import (  # noqa: E402
    FoundItems,
    FoundUsers,
    ItemMap,
    PageAbout,
    View,
)
from recsys_nb.serving.parts import AppSettings  # noqa: E402

JSON = {"content-type": "application/json"}
SECRET = "zxqsecretqxz"
USER = "user_23"  # has a history
TOKEN = "a token of many characters"


@pytest.fixture(scope="module")
def model():
    world = World(n_users=300, n_items=150, seed=3)
    log = world.sample(6_000)
    items = log.items.copy()
    items["title"] = "Thing " + items.item_id.str.removeprefix("item_")
    tower = TwoTowerRetriever(dim=16, epochs=4, profile="noisy", seed=3)
    sources = {"Popularity": Popularity(), "ItemKNN": ItemKNN(), "Two-Tower": tower}
    known = Dataset(log.interactions, log.users, items, positive=log.positive)
    ranker = DLRMRanker(epochs=1, seed=3)
    settings = {"answer": "two stages", "candidates": 20, "seed": 3}
    return Recommender(sources, ranker=ranker, **settings).fit(known)


@pytest.fixture(scope="module")
def trained(model):
    with TestClient(create_app(model), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = export(model, tmp_path_factory.mktemp("models") / "v1")
    with TestClient(create_app(folder), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(params=["trained", "exported"])
def client(request):
    return request.getfixturevalue(request.param)


def view(client, **question):
    answer = client.post("/page/view", json={"user_id": USER} | question)
    assert answer.status_code == 200, answer.text
    View.model_validate(answer.json())
    return answer.json()


def list_ids(rows):
    return [row["item_id"] for row in rows]


def test_the_list_of_a_view_is_that_of_the_shop(client):
    shown = view(client, k=7)
    body = {"user_id": USER, "k": 7}
    given = client.post("/recommend", json=body).json()
    assert list_ids(shown["items"]) == list_ids(given["items"])
    assert [i["score"] for i in shown["items"]] == [i["score"] for i in given["items"]]
    assert [i["rank"] for i in shown["items"]] == list(range(1, 8))
    assert list_ids(shown["candidates"][:7]) == list_ids(given["items"])


def test_both_kinds_of_models_show_the_same(trained, exported):
    one, other = view(trained), view(exported)
    assert list_ids(one["items"]) == list_ids(other["items"])
    assert list_ids(one["history"]) == list_ids(other["history"])
    assert list_ids(one["candidates"]) == list_ids(other["candidates"])
    for mine, theirs in zip(one["candidates"], other["candidates"], strict=True):
        assert mine["ranks"] == theirs["ranks"]
        assert mine["before"] == theirs["before"]
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-4)
        assert mine["place"] == pytest.approx(theirs["place"], abs=1e-4)
    assert one["place"] == pytest.approx(other["place"], abs=1e-3)
    abouts = [c.get("/page/about").json() for c in (trained, exported)]
    assert abouts[0]["filters"] == abouts[1]["filters"]


def test_candidates_hold_what_each_source_says(client):
    shown = view(client)["candidates"]
    assert [row["after"] for row in shown] == list(range(1, len(shown) + 1))
    scores = [row["score"] for row in shown]
    assert scores == sorted(scores, reverse=True)
    for row in shown:
        assert row["scores"].keys() == row["ranks"].keys()
        assert any(rank is not None for rank in row["ranks"].values())
    first = {row["before"]: row for row in shown}.get(1)
    assert first is None or 1 in first["ranks"].values()


def test_a_click_ends_the_history_with_its_time(client):
    time = "2024-05-01T10:00:00Z"
    events = [{"item_id": "item_3", "timestamp": time}, {"item_id": "nothing"}]
    before, after = view(client), view(client, events=events[:1])
    assert len(after["history"]) == len(before["history"]) + 1
    latest = after["history"][0]
    assert (latest["item_id"], latest["title"]) == ("item_3", "Thing 3")
    assert latest["is_new"] and latest["time"].startswith("2024-05-01T10:00:00")
    assert {row["time"] for row in before["history"]} == {None}
    assert view(client, events=events)["unknown_items"] == ["nothing"]
    assert "item_3" not in list_ids(after["items"] + after["candidates"])
    assert before["source"] == "history" and len(before["history"]) > 1


def test_a_reported_event_is_part_of_the_history(client):
    event = {"user_id": "Zoe", "item_id": "item_4", "event_type": "purchase"}
    assert client.post("/events", json={"events": [event]}).status_code == 200
    (past,) = view(client, user_id="Zoe")["history"]
    assert past["item_id"] == "item_4" and past["time"]


def test_filters_hold_for_candidates_too(client):
    about = client.get("/page/about").json()
    PageAbout.model_validate(about)
    filters = {one["name"]: one for one in about["filters"]}
    words = filters["category"]["words"]
    shown = view(client, where={"category": words[0]})
    rows = shown["items"]
    assert rows and {row["columns"]["category"] for row in rows} == {words[0]}
    ids = list_ids(shown["candidates"])
    found = client.post("/page/items", json={"item_ids": ids}).json()["items"]
    assert {row["columns"]["category"] for row in found} == {words[0]}
    low, high = filters["price"]["min"], filters["price"]["max"]
    middle = (low + high) / 2
    cheap = view(client, where={"price": {"max": middle}})["items"]
    assert max(row["columns"]["price"] for row in cheap) <= middle


def test_somebody_unknown_gets_what_is_popular(client):
    shown = view(client, user_id="nobody")
    assert shown["source"] == "popular" and len(shown["items"]) == 10
    assert shown["history"] == shown["candidates"] == []
    assert shown["place"] is None


def test_searches_find_beginnings(client):
    found = client.post("/page/items", json={"text": "thing 1", "k": 50}).json()
    FoundItems.model_validate(found)
    assert {row["title"] for row in found["items"]} >= {"Thing 1", "Thing 10"}
    assert all(row["title"].startswith("Thing 1") for row in found["items"])
    by_id = client.post("/page/items", json={"text": "item_149"}).json()["items"]
    assert list_ids(by_id) == ["item_149"]
    users = client.post("/page/users", json={"text": "user_1", "k": 50}).json()
    FoundUsers.model_validate(users)
    assert "user_1" in users["users"]
    assert all(user.startswith("user_1") for user in users["users"])
    assert client.post("/page/users", json={"text": "zzz"}).json() == {"users": []}


def test_the_map_holds_items_with_places(client):
    answer = client.get("/page/map").json()
    ItemMap.model_validate(answer)
    assert len(answer["items"]) == 150
    assert all(len(item["place"]) == 2 for item in answer["items"])
    assert {item["group"] for item in answer["items"]} <= set(range(6))
    assert client.get("/page/map?arm=B").status_code == 404
    assert client.get("/page/map?size=5").status_code == 422


ODD = {
    "nothing": "",
    "a list": "[]",
    "NaN as an id": '{"user_id": NaN}',
    "a lone surrogate": '{"user_id": "\\ud800", "text": "\\ud800"}',
    "an unknown field": f'{{"user_id": 1, "text": "a", "{SECRET}": 1}}',
    "too many": '{"user_id": 1, "k": 51, "text": "a"}',
    "k as a text": f'{{"user_id": 1, "k": "{SECRET}", "text": "{SECRET}"}}',
    "900 brackets": '{"user_id": ' + "[" * 900 + "]" * 900 + "}",
    "an unknown column": f'{{"user_id": 1, "where": {{"{SECRET}": 1}}}}',
    "a range of words": '{"user_id": 1, "where": {"category": {"min": "a"}}}',
    "an arm that nobody knows": '{"user_id": 1, "arm": "C"}',
    "a long text": json.dumps({"text": SECRET * 10}),
}


@pytest.mark.parametrize("body", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize("path", ["view", "items", "users"])
def test_an_odd_question_is_refused_without_an_echo(client, path, body):
    answer = client.post(f"/page/{path}", content=body, headers=JSON)
    assert answer.status_code == 422, answer.text
    assert SECRET not in answer.text and answer.json()["detail"]


def test_a_view_of_an_arm_that_is_not_there_is_not_found(client):
    body = '{"user_id": 1, "arm": "B"}'
    answer = client.post("/page/view", content=body, headers=JSON)
    assert answer.status_code == 404 and answer.json()["detail"]


def test_files_come_with_a_policy_and_without_a_token(model):
    settings = AppSettings(token=TOKEN)
    with TestClient(create_app(model, settings=settings)) as client:
        for name, kind in MEDIA_TYPES.items():
            answer = client.get(name_page_file(name))
            assert answer.status_code == 200 and answer.content
            assert answer.headers["content-type"] == kind
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
        for path in ("/page/about", "/page/map"):
            assert client.get(path).status_code == 401
        assert client.post("/page/view", json={"user_id": 1}).status_code == 401
        allowed = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/page/about", headers=allowed).status_code == 200


def test_the_page_and_the_search_can_be_left_out(model):
    closed = TestClient(create_app(model, settings=AppSettings(page=False)))
    for path in ("/", "/static/page.js", "/page/about", "/page/map"):
        assert closed.get(path).status_code == 404
    assert not any("page" in path for path in closed.app.openapi()["paths"])
    quiet = TestClient(create_app(model, settings=AppSettings(user_search=False)))
    assert quiet.get("/page/about").json()["finds_users"] is False
    assert quiet.post("/page/users", json={"text": "u"}).status_code in (404, 405)
    assert view(quiet)["items"]


def test_openapi_describes_what_the_page_asks(trained):
    schema = trained.get("/openapi.json").json()
    paths = {
        path: methods for path, methods in schema["paths"].items() if "page" in path
    }
    assert set(paths) == {
        "/page/about",
        "/page/view",
        "/page/items",
        "/page/users",
        "/page/map",
    }
    for methods in paths.values():
        for about in methods.values():
            assert {"200", "401", "413", "422", "503"} <= set(about["responses"])
    question = schema["components"]["schemas"]["ViewQuestion"]
    assert question["additionalProperties"] is False


def test_looking_changes_no_counter_and_writes_no_name(model, caplog):
    caplog.set_level("INFO", "recsys_nb.serving")
    with TestClient(create_app(model)) as client:
        view(client, user_id=SECRET)
        client.post("/page/users", json={"text": SECRET})
        page = client.get("/metrics").text
    assert "recsys_lists_total{" not in page
    assert 'address="/page/view"' in page
    logged = [str(vars(record)) for record in caplog.records]
    assert logged and not any(SECRET in line for line in logged)


def test_two_models_side_by_side(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = Popularity().fit(World(n_users=300, n_items=150, seed=3).sample(500))
    with TestClient(create_app(model, other=other)) as client:
        shown = {arm: view(client, arm=arm) for arm in "AB"}
        own = client.get(f"/recommend/{USER}").json()["arm"]
        assert client.get("/page/map?arm=B").json() == {"items": []}
        about = client.get("/page/about").json()
    assert {one["arm"] for one in shown.values()} == {"A", "B"}
    assert {one["own_arm"] for one in shown.values()} == {own}
    assert shown["B"]["model"] == "Popularity" and shown["B"]["place"] is None
    assert about["explains"] == {"A": True, "B": False}  # a source alone, trained


class Lists:
    "A model that gives lists and nothing else."

    def recommend(self, user_id, **question):
        items = [{"item_id": "a", "rank": 1, "score": 1.0}]
        known = {"user_id": user_id, "model": "lists", "unknown_items": []}
        return known | {"source": "popular", "items": items}

    def health(self):
        return {"status": "ok", "model": "lists"}


def test_a_model_without_anything_to_look_at_says_so():
    with TestClient(create_app(Lists())) as client:
        assert client.get("/").status_code == 200
        answer = client.get("/page/about")
    assert answer.status_code == 404
    assert "nothing to look at" in answer.json()["detail"]
