"""What ends a reply on the page, whenever it comes, in a real browser."""

from __future__ import annotations

import pytest
from browser import MARKS, Pages, delay, playwright, said, write
from fake_model import FakeModel, held

import app

pytestmark = MARKS
GAPS = (0, 10, 30, 100, 250)  # milliseconds from a question to what ends its reply
SEND_AND = """([end, gap]) => {
  document.querySelector("#send").click();
  const then = () => document.querySelector(end).click();
  if (gap) setTimeout(then, gap);
  else then();
}"""
IS_IDLE = """() => {
  const isEnded = (row) => row.querySelector(".actions");
  return !window.pagePlayer.isSpeaking()
    && document.querySelector("#status .status").dataset.kind !== "busy"
    && [...document.querySelectorAll("#chat .bot-row")].every(isEnded)
    && !document.querySelector(".stoppable");
}"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel(num_frames=400, frame_seconds=0.02)


def wait_until_told(page: playwright.Page, served: app.Page) -> None:
    """Wait until all that was asked is answered."""
    page.wait_for_timeout(300)  # it has reached the server
    for _ in range(500):
        if not any(served.demo._queue.pending_event_ids_session.values()):
            break
        page.wait_for_timeout(20)
    page.wait_for_function(IS_IDLE, timeout=5_000)


@pytest.mark.parametrize("latency", [0, 150])
def test_a_reply_that_is_stopped_at_once_ends_or_never_begins(
    open_page: Pages, ours: tuple[app.Page, str], latency: int
):
    page = open_page("en-US")
    delay(page, latency)
    for gap in GAPS:
        page.fill("#text", "hello")
        page.evaluate(SEND_AND, ["#stop", gap])
        page.wait_for_selector("#status .said:has-text('Stopped')", timeout=5_000)
        wait_until_told(page, ours[0])
        assert said(page) == "Stopped", gap


@pytest.mark.parametrize("latency", [0, 150])
def test_a_new_chat_soon_after_a_question_is_empty(
    open_page: Pages, ours: tuple[app.Page, str], latency: int
):
    page = open_page("en-US")
    delay(page, latency)
    for gap in GAPS:
        page.fill("#text", "hello")
        page.evaluate(SEND_AND, ["#new", gap])
        wait_until_told(page, ours[0])
        assert page.query_selector("#chat .row, #chat .break") is None, gap
        assert said(page) == "", gap


@pytest.mark.parametrize("end", ["#stop", "#new"])
def test_a_reply_that_was_ended_before_its_first_sound_is_not_heard(
    open_page: Pages, ours: tuple[app.Page, str], model: FakeModel, end: str
):
    page, ending = open_page("en-US"), []
    with held(model):
        write(page, "hello")
        page.wait_for_selector("#chat .bot-row")
        page.route("**/queue/join*", lambda call: ending.append(call))
        page.click(end)
    page.wait_for_function("document.querySelector('.bot-row .text').textContent.length > 10")
    assert page.evaluate("window.played") == []
    ending[0].continue_()
    page.unroute("**/queue/join*")
    wait_until_told(page, ours[0])
    write(page, "hello")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    page.click("#stop")
