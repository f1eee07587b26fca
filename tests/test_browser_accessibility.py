"""axe-core finds nothing to complain of, in any state of the talk tab, theme and language."""

from __future__ import annotations

import pytest
from axe import violations
from browser import MARKS, Pages, record, wait_for_reply, write
from fake_model import FakeModel, held

import app

pytestmark = MARKS
CLIPPED = """() => {
  const edge = document.querySelector("#card").getBoundingClientRect().right;
  const isOver = (each) => each.getBoundingClientRect().right > edge;
  return [...document.querySelectorAll("#card button")].filter(isOver).map((each) => each.id);
}"""
REFUSE = """() => {
  navigator.mediaDevices.getUserMedia = async () => {
    throw new DOMException("no", "NotAllowedError");
  };
}"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    """Its sounds are long and of few pieces, as each of them is work for the page."""
    model = FakeModel(num_frames=40, frame_seconds=0.025)
    model.frame_rate = 4.0
    return model


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_the_talk_tab_is_for_everybody(
    open_page: Pages, ours: tuple[app.Page, str], model: FakeModel, locale: str
):
    page = open_page(locale)
    found = violations(page, "empty")
    page.click("#advanced button")
    page.click("#send")
    page.wait_for_selector("#status .fault:not(:empty)")
    found += violations(page, "fault, settings open")
    write(page, "你好")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    found += violations(page, "speaking")
    page.keyboard.press("Escape")
    wait_for_reply(page)
    page.click(".bot-row .good")
    page.wait_for_selector(".bot-row .good[aria-pressed=true]")
    page.click(".bot-row .seed")
    found += violations(page, "stopped, rated, its seed kept")
    page.click(".bot-row .compare")
    page.wait_for_selector(".panel .primary:not(:disabled)")
    found += violations(page, "comparing")
    page.click(".panel .primary")
    wait_for_reply(page, 2)
    page.keyboard.press("Escape")
    found += violations(page, "compared")
    record(page, 1)
    found += violations(page, "recording")
    page.click("#composer .record")
    page.wait_for_selector("#composer .attached:not([hidden])")
    found += violations(page, "attached")
    page.click("#hands-free")
    page.wait_for_selector("#hands-free[data-state=listening]")
    found += violations(page, "listening")
    with held(model):
        page.wait_for_selector("#hands-free[data-state=thinking]")
        found += violations(page, "thinking")
    page.wait_for_selector("#hands-free[data-state=speaking]")
    found += violations(page, "hands-free reply")
    page.keyboard.press("Escape")
    page.evaluate(REFUSE)
    page.click("#hands-free")
    page.wait_for_selector("#hands-free[data-state=error]")
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#card .about")
    found += violations(page, "no microphone, on a phone, the model explained")
    assert page.evaluate(CLIPPED) == []
    ours[0].sessions._sessions.clear()
    page.reload()
    page.wait_for_selector("#chat .break")
    found += violations(page, "the conversation is lost")
    assert found == []


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_notices_are_for_everybody(open_page: Pages, ours: tuple[app.Page, str], locale: str):
    page = open_page(locale)
    ours[0].calls.is_ending = True
    write(page, "你好")
    page.wait_for_selector(".toast-body")
    found = violations(page, "refused, with a notice")
    ours[0].calls.is_ending = False
    page.evaluate("document.querySelector('.toast-close')?.click()")  # if its time isn't over
    page.wait_for_selector(".toast-body", state="detached")
    page.context.set_offline(True)
    page.click("#send")
    page.wait_for_selector(".toast-body")
    found += violations(page, "the server can't be reached")
    page.context.set_offline(False)
    assert found == []
