"""Building, rating and reading listening tests in a browser."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from browser import new_window, playwright


def opened(
    context: playwright.BrowserContext, url: str, tab: str = "compare", **window
) -> playwright.Page:
    """A tab of the page; see `new_window` for the window."""
    page = new_window(context, **window)
    page.goto(url)
    page.wait_for_selector("#send")
    page.click(f"#{tab}-tab-button")
    page.wait_for_selector(f"#{tab} .plain, #{tab} .primary")
    return page


def build(page: playwright.Page, kind: str, texts: str) -> tuple[str, str]:
    """Build a test of two conditions; returns its code and its key."""
    page.get_by_label("Kind").select_option(kind)
    page.get_by_label("Written, one a line").fill(texts)
    page.click("text=Build the test")
    page.wait_for_selector(".built h2")
    link = page.get_by_label("For raters").input_value()
    return re.search(r"test=(\w+)", link)[1], page.locator(".built").get_by_label(
        "Key to the results"
    ).input_value()


def begin(
    context: playwright.BrowserContext, url: str, code: str, name: str, script: str = ""
) -> playwright.Page:
    """A rater follows the link that they were sent."""
    page = new_window(context)
    page.add_init_script(script)
    page.goto(f"{url}?test={code}")
    page.get_by_label("Your name").fill(name)
    page.click("text=Begin")
    page.wait_for_selector(".trial .play, .trial .done")
    return page


def answer(page: playwright.Page, choose: Callable[[playwright.Page], None]) -> None:
    """Hear all sounds of a question, answer it, and wait for the next one."""
    count = page.inner_text(".trial .count")
    assert page.is_disabled("text=Next")
    for play in page.query_selector_all(".trial .play"):
        play.click()
    choose(page)
    page.click("text=Next")
    page.wait_for_function(
        "old => document.querySelector('.trial .count').innerText !== old", arg=count
    )


def score(value: int) -> Callable[[playwright.Page], None]:
    return lambda page: page.check(f".trial input[value='{value}']")


def cells(page: playwright.Page, caption: str) -> list[list[str]]:
    rows = page.query_selector_all(f".scroll[aria-label^='{caption}'] tbody tr")
    return [[cell.inner_text() for cell in row.query_selector_all("th, td")] for row in rows]


def ratings_csv(page: playwright.Page, folder: Path) -> list[dict[str, str]]:
    with page.expect_download() as event:
        page.click("text=Ratings as CSV")
    event.value.save_as(folder / "ratings.csv")
    with (folder / "ratings.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def shown_p(p: float) -> str:
    """A p value as the page shows it: browsers round halves up, Python to even."""
    return f"{p + 1e-9:.3f}"
