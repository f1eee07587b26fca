"""Rows of the conversation in a browser: what plays, holds the focus or is read aloud stays so."""

from __future__ import annotations

import pytest
from browser import MARKS, Pages, playwright, said, wait_for_reply, wait_until_silent, write
from fake_model import FakeModel

pytestmark = MARKS
SOUND = "#chat .bot-row .sound"
FOCUS = "document.activeElement.className"
# Every change of a reply's row: whether its text was replaced, and was said to be under way.
WATCHED = """{
window.replaced = 0; window.early = 0;
new MutationObserver((changes) => {
  for (const { target, type, removedNodes } of changes) {
    const row = (target.closest ? target : target.parentElement)?.closest(".bot-row");
    if (!row) continue;
    const isGone = [...removedNodes].some((one) => one.matches?.(".bubble"));
    if (isGone || (target.matches?.(".text") && removedNodes.length)) window.replaced += 1;
    if (type === "characterData" && row.ariaBusy !== "true") window.early += 1;
  }
}).observe(document, { subtree: true, childList: true, characterData: true });
}"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel(num_frames=60, frame_seconds=0.01)


@pytest.fixture
def page(open_page: Pages) -> playwright.Page:
    page = open_page("en-US", script=WATCHED)
    write(page, "第一句")
    page.wait_for_selector(".bot-row[aria-busy=true]")
    wait_for_reply(page)
    wait_until_silent(page)
    page.wait_for_selector(".bot-row[aria-busy=false]")
    return page


def test_a_row_that_changes_keeps_its_text_its_sound_and_the_focus(page: playwright.Page):
    assert page.evaluate("window.replaced") == 0
    assert page.evaluate("window.early") <= 1  # the last change may end what is under way
    page.click(SOUND)
    page.wait_for_selector(f"{SOUND}.playing")
    page.focus(".bot-row .good")
    page.keyboard.press("Enter")
    page.wait_for_selector(".bot-row .good[aria-pressed=true]")
    assert page.query_selector(f"{SOUND}.playing")
    assert "good" in page.evaluate(FOCUS)
    page.click(SOUND)
    page.wait_for_selector(f"{SOUND}:not(.playing)")
    for end in ("Escape", "Enter"):
        page.click(".bot-row .compare")
        page.wait_for_selector(".panel .primary:not(:disabled)")
        page.keyboard.press("Tab")
        page.keyboard.press(end)
        page.wait_for_selector(".panel", state="detached")
        assert "compare" in page.evaluate(FOCUS)
    wait_for_reply(page, 2)


def test_a_text_that_is_cut_is_not_glossed(open_page: Pages, monkeypatch: pytest.MonkeyPatch):
    whole = 60 * "好"
    monkeypatch.setattr("page.chat.gloss_of", lambda text: "Good" if text == whole else None)
    page = open_page("en-US")
    write(page, "第一句")
    page.wait_for_selector(".bot-row .gloss:text-is('Good')")
    page.click("#stop")
    page.wait_for_selector(".bot-row .cut")
    assert page.query_selector(".bot-row .gloss") is None


def test_a_sound_that_did_not_come_is_asked_for_again_unless_it_is_gone(page: playwright.Page):
    page.route("**/file=**", lambda route: route.fulfill(status=503))
    page.click(SOUND)
    page.wait_for_selector("#status .fault:has-text('press it again')")
    page.unroute("**/file=**")
    page.context.set_offline(True)
    with page.expect_event("requestfailed"):
        page.click(SOUND)
    page.context.set_offline(False)
    page.click(SOUND)
    page.wait_for_selector(f"{SOUND}.playing")
    page.click(SOUND)
    page.click("#new")
    write(page, "第二句")
    wait_for_reply(page)
    page.route("**/file=**", lambda route: route.fulfill(status=404))
    page.click(SOUND)
    page.wait_for_selector(f"{SOUND}:disabled")
    assert said(page) == page.get_attribute(SOUND, "title") == "This sound is no longer kept"
    assert "log" in page.evaluate(FOCUS)
