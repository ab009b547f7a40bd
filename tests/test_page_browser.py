"""The page for people in a browser: by keyboard, on a phone, in the dark, with titles
that are no markup. Needs Playwright and a Chromium of the system."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api",
    reason="Playwright drives the browser and is not installed: pip install playwright",
)
pytest.importorskip("uvicorn")

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from conftest import processes  # noqa: E402
from service_client import find_port  # noqa: E402

from recsys_nb.cli import main  # noqa: E402
from recsys_nb.data import Dataset  # noqa: E402
from recsys_nb.recommenders import (  # noqa: E402
    EASE,
    Popularity,
    Recommender,
    TwoTowerRetriever,
)
from recsys_nb.serving.parts import AppSettings  # noqa: E402
from recsys_nb.serving.server import serve  # noqa: E402

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MARKUP = "<img src=x onerror=\"document.title='run'\"><b>Mug</b> 'n' more"
TITLES = {
    "coffee": "Filter coffee",
    "filter": "Paper filters",
    "kettle": "Kettle, red",
    "milk": "Oat milk",
    "mug": MARKUP,
    "tea": "Green tea",
}
TOKEN = "a token of many characters"


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        options = {"executable_path": program, "args": ["--no-sandbox"]}
        started = playwright.chromium.launch(**options)
        yield started
        started.close()


def make_shop():
    pairs = ["Ada tea", "Ada kettle", "Ada mug", "Ben tea", "Ben kettle"]
    pairs += ["Cleo coffee", "Cleo mug", "Dan coffee", "Dan filter", "Dan mug"]
    log = pd.DataFrame([pair.split() for pair in pairs], columns=["user_id", "item_id"])
    items = pd.DataFrame({"item_id": TITLES.keys(), "title": TITLES.values()})
    items["price"] = [8.0, 3.0, 40.0, 2.0, 9.0, 5.0]
    items["kind"] = ["drink", "tool", "tool", "drink", "tool", "drink"]
    return Dataset(log, items=items)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Two models: one with reasons, one with vectors."
    place, shop = tmp_path_factory.mktemp("models"), make_shop()
    chosen = Recommender([EASE(l2=1), Popularity()], answer="EASE").fit(shop)
    chosen.save(place / "reasons")
    tower = TwoTowerRetriever(dim=8, epochs=1, profile="noisy", seed=1)
    tower.fit(shop).save(place / "vectors")
    return place / "reasons", place / "vectors"


def run_server(port, folders, settings):
    "What a server process does; nobody reads what it says."
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    first, other = [*folders, None][:2]
    serve(first, port=port, other=other, settings=AppSettings(**settings))


class Server:
    "A service in a process of its own."

    def __init__(self, *folders, **settings):
        port = find_port()
        self.url = f"http://127.0.0.1:{port}/"
        args = port, folders, settings
        self.process = processes.Process(target=run_server, args=args)
        self.process.start()

    def __enter__(self):
        for _ in range(900):
            assert self.process.is_alive()
            try:
                urllib.request.urlopen(self.url + "livez", timeout=5).close()
            except OSError:
                time.sleep(0.1)
                continue
            return self
        return pytest.fail("the service did not answer")

    def __exit__(self, *error):
        self.process.kill()
        self.process.join()


@pytest.fixture(scope="module")
def both(folders):
    with Server(*folders) as server:
        yield server.url


@pytest.fixture
def open_page(browser):
    "Opens the page; at the end nothing may have been refused or have failed."
    contexts, complaints = [], []

    def open_it(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    open_it.complaints = complaints
    yield open_it
    for context in contexts:
        context.close()
    assert not complaints


def ask_for(page, user):
    page.get_by_label("User", exact=True).fill(user)
    page.keyboard.press("Enter")


def list_of(page, name):
    return page.get_by_role("region", name=name).get_by_role("list", name="List")


def test_two_models_stand_side_by_side(open_page, both):
    page = open_page(both, viewport={"width": 1400, "height": 1000})
    ask_for(page, "Ben")
    first, second = list_of(page, "A: reasons"), list_of(page, "B: vectors")
    sync_api.expect(first.get_by_role("listitem")).to_have_count(4)
    sync_api.expect(second.get_by_role("listitem")).to_have_count(4)
    places = [one.bounding_box() for one in (first, second)]
    assert places[0]["x"] + places[0]["width"] <= places[1]["x"]
    sync_api.expect(page.get_by_text("the model that the user gets")).to_have_count(1)
    sync_api.expect(page.get_by_role("img", name="Map of 6 items")).to_be_visible()
    sync_api.expect(page.locator("svg .user")).to_have_count(1)


def test_a_title_is_text_and_never_markup(open_page, both):
    page = open_page(both)
    ask_for(page, "Ben")
    card = list_of(page, "A: reasons").get_by_text(MARKUP, exact=True)
    sync_api.expect(card).to_be_visible()
    assert page.title() == "Recommendations"
    assert page.locator("#answers img, #answers b").count() == 0


def test_somebody_becomes_a_user_by_keyboard_alone(open_page, both):
    page = open_page(both)
    status = page.get_by_text("nothing is known of this user").first
    sync_api.expect(status).to_be_visible()
    page.get_by_label("Has just clicked").focus()
    page.keyboard.type("fil")
    found = page.get_by_role("list", name="Items found").get_by_role("button")
    sync_api.expect(found).to_have_count(2)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    clicks = page.get_by_role("list", name="Clicks")
    sync_api.expect(clicks).to_contain_text("Paper filters")
    sync_api.expect(page.get_by_text("from the clicks").first).to_be_visible()
    history = page.get_by_role("region", name="A: reasons").get_by_text("History (1)")
    sync_api.expect(history).to_be_visible()
    back = page.get_by_role("button", name="Take back the click on Paper filters")
    back.focus()
    page.keyboard.press("Enter")
    sync_api.expect(status).to_be_visible()


def test_reasons_and_similar_items_open_below(open_page, both):
    page = open_page(both)
    ask_for(page, "Ben")
    why = page.get_by_role("button", name="Why: Filter coffee")
    why.click()
    shares = page.locator(".shares li")
    sync_api.expect(shares.first).to_be_visible()
    sync_api.expect(page.get_by_text("In the history, nearest")).to_be_visible()
    why.click()
    sync_api.expect(shares).to_have_count(0)
    page.get_by_role("button", name="Similar: Filter coffee").first.click()
    panel = page.locator(".panel").first
    sync_api.expect(panel).to_contain_text("Paper filters")


def test_what_was_found_goes_when_a_user_is_chosen(open_page, both):
    page = open_page(both)
    page.get_by_label("User", exact=True).press_sequentially("Be")
    found = page.get_by_role("list", name="Users found").get_by_role("button")
    sync_api.expect(found).to_have_count(1)
    ask_for(page, "Ben")  # the search for it begins after the user was chosen
    page.wait_for_timeout(600)
    sync_api.expect(found).to_have_count(0)
    sync_api.expect(page.get_by_text("from the history").first).to_be_visible()


def test_a_history_shows_its_days(open_page, tmp_path):
    pytest.importorskip("onnxruntime")
    shop = make_shop()
    days = pd.to_datetime("2024-02-28") + pd.to_timedelta(range(len(shop)), "D")
    dated = shop.replace(shop.interactions.assign(timestamp=days))
    chosen = Recommender([EASE(l2=1), Popularity()], answer="EASE").fit(dated)
    chosen.save(tmp_path / "saved")
    words = ["export", "--model", str(tmp_path / "saved"), "--out"]
    assert main([*words, str(tmp_path / "dated")]) == 0
    with Server(tmp_path / "dated") as server:
        page = open_page(server.url)
        ask_for(page, "Ada")
        sync_api.expect(page.get_by_text("History (3)")).to_be_visible()
        days = page.locator(".past small").all_inner_texts()
        assert days == ["Mar 1, 2024", "Feb 29, 2024", "Feb 28, 2024"]
        page.close()  # before the service ends, or what it still loads is cut off


def test_filters_change_the_list(open_page, both):
    page = open_page(both)
    ask_for(page, "Ben")
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("kind").select_option("drink")
    cards = list_of(page, "A: reasons").get_by_role("listitem")
    sync_api.expect(cards).to_have_count(2)
    page.get_by_label("price, at most").fill("5")
    page.get_by_label("price, at most").press("Tab")
    sync_api.expect(cards).to_have_count(1)
    sync_api.expect(cards).to_contain_text("Oat milk")


def test_the_command_asks_the_same(open_page, both):
    page = open_page(both)
    ask_for(page, "O'Hara")
    page.get_by_text("The same by curl").click()
    command = page.locator("#command")
    sync_api.expect(command).to_contain_text("O'\\''Hara")
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    words = ["sh", "-c", command.inner_text()]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["user_id"] == "O'Hara"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(open_page, both, scheme):
    size = {"width": 390, "height": 844}
    page = open_page(both, viewport=size, color_scheme=scheme)
    ask_for(page, "Ben")
    sync_api.expect(page.locator(".list li")).to_have_count(8)
    for fold in page.locator("summary").all():
        if fold.locator("..").get_attribute("open") is None:
            fold.click()
    assert page.locator("html").evaluate("page => page.scrollWidth") == 390
    colour = page.locator("body").evaluate("page => getComputedStyle(page).color")
    red = int(colour.split("(")[1].split(",")[0])
    assert (red > 128) == (scheme == "dark")


def test_colours_can_be_read(open_page, both):
    "Text and its ground have the contrast that WCAG 2.2 asks for, 4.5 to 1."
    for scheme in ("light", "dark"):
        page = open_page(both, color_scheme=scheme)
        ask_for(page, "Ben")
        sync_api.expect(page.locator(".list li").first).to_be_visible()
        for name in ("--ink", "--soft", "--accent", "--above", "--below"):
            contrast = page.locator("html").evaluate(CONTRAST, name)
            assert contrast >= 4.5, (scheme, name, contrast)


CONTRAST = """(root, name) => {
  const style = getComputedStyle(root);
  const brightness = (colour) => {
    const number = parseInt(style.getPropertyValue(colour).trim().slice(1), 16);
    const parts = [number >> 16, (number >> 8) & 255, number & 255];
    const linear = parts.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const both = [brightness(name), brightness("--sheet")].sort();
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
}"""


def test_a_token_is_asked_for_and_used(browser, open_page, folders):
    with Server(folders[0], token=TOKEN, user_search=False) as server:
        page = open_page(server.url)
        page.get_by_label("This service asks for a token").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        sync_api.expect(page.locator("#token-form")).to_be_visible()
        page.get_by_label("This service asks for a token").fill(TOKEN)
        page.get_by_role("button", name="Use it").click()
        sync_api.expect(page.locator("#served")).to_contain_text("reasons: ")
        sync_api.expect(page.get_by_text("Type the whole id.")).to_be_visible()
        ask_for(page, "Ben")
        sync_api.expect(page.locator(".list li")).to_have_count(4)
        sync_api.expect(page.locator("#command")).to_contain_text("$TOKEN")
        assert TOKEN not in page.locator("#command").inner_text()
        page.close()
    refused = [text for text in open_page.complaints if "401" in text]
    assert refused == open_page.complaints
    open_page.complaints.clear()


def test_scripts_are_small_modules():
    static = Path(__file__).parent.parent / "recsys_nb" / "serving" / "static"
    for path in static.glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 350 and max(map(len, lines)) <= 88, path.name
