"""The pictures of chapter 50i: the page for people over two stages that learnt from
MovieLens, 1400 and 390 pixels wide. Needs Playwright and a Chromium of the system.

    python .ci/page_pictures.py
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from recsys_nb.data import load
from recsys_nb.recommenders import ItemKNN, Popularity, Recommender, TwoTowerRetriever
from recsys_nb.serving import export

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from _service import serving  # noqa: E402

PICTURES = ROOT / "nbs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
USER, CLICKED = "5", "Matrix, The"
TODAY = "2018-09-25T12:00:00Z"  # the day after the last one of the log


def export_films(
    folder: Path,  # a new one
) -> Path:  # the same
    "Two stages over MovieLens, with the days of the histories."
    log = load("movielens-small")
    tower = TwoTowerRetriever(profile="sequential", seed=0)
    sources = {"Popularity": Popularity(), "ItemKNN": ItemKNN(), "Two-Tower": tower}
    model = Recommender(sources, ranker="dlrm", answer="two stages", candidates=100)
    return export(model.fit(log), folder, log=log)


def ask(
    page: Page,  # of the service
) -> None:
    "Ask for a user who has just clicked on a film, and for the reasons of the second."
    page.get_by_label("User", exact=True).fill(USER)
    page.keyboard.press("Enter")
    page.get_by_label("Has just clicked").fill(CLICKED)
    page.get_by_role("list", name="Items found").get_by_role("button").first.wait_for()
    page.keyboard.press("Enter")
    page.get_by_text("from the clicks and the history").wait_for()
    page.get_by_role("button", name="Why: ").nth(1).click()
    page.locator(".shares li").first.wait_for()
    page.get_by_role("img", name="Map of").wait_for()
    page.mouse.move(0, 0)  # no button looks touched


def take_pictures(
    address: str,  # of the service
) -> None:
    "The pictures, on a wide screen and on a phone."
    program = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--font-render-hinting=none"]  # the same every time
        options = {"executable_path": program, "args": flags}
        browser = playwright.chromium.launch(**options)

        def open_page(**options):
            page = browser.new_page(locale="en-US", timezone_id="UTC", **options)
            page.clock.set_fixed_time(TODAY)
            page.goto(address)
            ask(page)
            return page

        wide = open_page(viewport={"width": 1400, "height": 900})
        wide.screenshot(path=PICTURES / "page_wide.png", animations="disabled")
        size = {"width": 390, "height": 844}
        look = {"color_scheme": "dark", "device_scale_factor": 2}
        phone = open_page(viewport=size, **look)
        for name, place in {
            "page_phone": phone.get_by_role("list", name="List"),
            "page_phone_history": phone.locator("summary", has_text="History"),
        }.items():
            place.evaluate("one => scrollTo(0, one.offsetTop - 90)")
            phone.screenshot(path=PICTURES / f"{name}.png", animations="disabled")
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = export_films(Path(place) / "films-two-stages")
        with serving(folder) as port:
            take_pictures(f"http://127.0.0.1:{port}/")


if __name__ == "__main__":
    main()
