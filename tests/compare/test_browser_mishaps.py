"""What a rater and a builder see in a browser whose calls are refused or not answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import MARKS, new_window, playwright
from fake_model import FakeModel
from page_client import served
from rating import build, opened, score

import app

pytestmark = MARKS


@pytest.fixture(scope="module")
def ours() -> Iterator[tuple[app.Page, str]]:
    with served(FakeModel(num_frames=8)) as page:
        yield page


def hear_and_choose(page: playwright.Page) -> None:
    for play in page.query_selector_all(".trial .play"):
        play.click()
    score(3)(page)


def told(page: playwright.Page) -> None:
    """Wait for the notice that a call failed, and close it."""
    page.wait_for_selector(".toast-message-text")
    page.evaluate("document.querySelectorAll('.toast-close').forEach((one) => one.click())")
    page.wait_for_selector(".toast-body", state="detached")


def test_a_rating_that_is_refused_is_given_again(context, ours: tuple[app.Page, str]):
    ours_page, url = ours
    code, _ = build(opened(context(), url), "mos", "one\ntwo")
    page = new_window(context())
    page.goto(f"{url}?test={code}")
    page.get_by_label("Your name").fill("Ann")
    ours_page.calls.is_ending = True
    page.click("text=Begin")
    told(page)
    assert page.query_selector(".tests .line:has-text('Loading')") is None
    ours_page.calls.is_ending = False
    page.click("text=Begin")
    page.wait_for_selector(".trial .play")
    hear_and_choose(page)
    ours_page.calls.is_ending = True
    page.click("text=Next")
    told(page)
    ours_page.calls.is_ending = False
    assert page.is_enabled("text=Next")
    assert page.evaluate("document.activeElement.innerText") == "Next"
    page.click("text=Next")
    page.wait_for_selector(".trial .count:has-text('2 of 4')")
    page.route("**/file=**", lambda route: route.fulfill(status=503))
    hear_and_choose(page)
    page.click("text=Next")
    page.wait_for_selector(".tests .line.fault:has-text('press Begin')")
    page.unroute("**/file=**")
    page.click("text=Begin")
    page.wait_for_selector(".trial .count:has-text('3 of 4')")
