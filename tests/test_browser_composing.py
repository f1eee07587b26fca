"""What is sent in a real browser: once, and what the composer keeps of it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from browser import (
    ATTACHED,
    EXAMPLE,
    MARKS,
    Pages,
    bubbles,
    delay,
    playwright,
    said,
    wait_for_reply,
    wait_for_value,
    wait_until_silent,
    write,
)
from fake_model import FakeModel, held
from sounds import voice, written

import app
from page.session import Session

pytestmark = MARKS
PRESS = """([key, options, times]) => {
  const text = document.querySelector("#text");
  const given = { key, bubbles: true, cancelable: true, ...options };
  for (let i = 0; i < times; i++) text.dispatchEvent(new KeyboardEvent("keydown", given));
}"""
# What the server tells of its calls is read once it may be.
LATE = """{
const send = window.fetch;
window.fetch = async (what, options) => {
  const response = await send(what, options);
  if (!String(what.url ?? what).includes("/queue/data")) return response;
  const transform = async (piece, read) => {
    await window.late;
    read.enqueue(piece);
  };
  return new Response(response.body.pipeThrough(new TransformStream({ transform })), response);
};
window.holdBack = () => { window.late = new Promise((read) => { window.read = read; }); };
}"""
SEND_AND_WRITE = """words => {
  document.querySelector("#send").click();
  document.querySelector("#text").value += words;
}"""
AGAIN = """() => {
  [...document.querySelectorAll(".bot-row .again")].at(-1).click();
  return document.querySelector("#status .said").textContent;
}"""
IS_SEEN_WHOLE = """() => {
  const { clientHeight, scrollHeight } = document.querySelector("#text");
  return clientHeight > 30 && clientHeight >= scrollHeight - 4;
}"""
# A turn of hands-free talk that the server has heard to its end, and no reply of it yet.
SPEAK = """async () => {
  let hear;
  window.pageMicrophone.open = async (onPiece) => { hear = onPiece; return null; };
  window.pageAsk.open = window.pageAsk.hear = window.pageAsk.heard = () => {};
  document.querySelector("#hands-free").click();
  await null;
  window.pageHeard({ number: -1, change: null });
  for (let i = 0; i < 8; i += 1) hear(new Float32Array(480), 24000);
  window.pageHeard({ number: 0, change: "ended" });
}"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(autouse=True)
def as_it_was(model: FakeModel) -> None:
    model.__init__(num_frames=25, frame_seconds=0.01)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(written(voice(1), "WAV"))
    return path


def session_with_turn(page: playwright.Page, served: app.Page) -> Session:
    """The session that was opened last, once something was said in it."""
    for _ in range(500):
        sessions = list(served.sessions._sessions.values())
        if sessions and sessions[-1].turns:
            break
        page.wait_for_timeout(20)
    assert sessions[-1].turns
    return sessions[-1]


def wait_until_ended(page: playwright.Page, session: Session) -> None:
    for _ in range(500):
        if not session.is_busy:
            break
        page.wait_for_timeout(20)
    page.wait_for_timeout(100)  # it is told
    assert not session.is_busy


def test_what_the_page_says_itself_ends_no_reply(open_page: Pages, model: FakeModel):
    model.num_frames = 3
    page = open_page("en-US")
    write(page, "hello")
    wait_for_reply(page)
    wait_until_silent(page)
    calls = []
    page.route("**/queue/join*", lambda route: calls.append(route))
    page.set_input_files("#composer input[type=file]", EXAMPLE)
    page.wait_for_selector(ATTACHED.format("audio"))
    page.click("#composer .attached[data-kind=audio] .remove")
    write(page, "once")
    page.click(".bot-row .copy")
    page.wait_for_selector("#status .said:has-text('Copied')")
    assert page.is_visible("#stop")
    page.click("#send")
    page.set_input_files("#composer input[type=file]", EXAMPLE)
    page.wait_for_selector(ATTACHED.format("audio"))
    assert said(page) == "Sending" and page.is_visible("#stop")
    page.click("#composer .attached[data-kind=audio] .remove")
    page.click("#send")
    page.wait_for_timeout(100)
    assert said(page) == "Sending"
    assert sum('"once"' in call.request.post_data for call in calls) == 1
    page.unroute("**/queue/join*")  # which lets all of them go
    wait_for_reply(page, 2)
    page.wait_for_selector("#stop", state="hidden")
    page.evaluate(SPEAK)
    page.evaluate("window.pageStatus('note', 'copied')")
    page.wait_for_timeout(400)
    assert page.get_attribute("#hands-free", "data-state") == "thinking"
    page.evaluate("window.pageTell('leave')")


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_send_that_asks_for_nothing_leaves_the_reply_to_be_heard(
    open_page: Pages, model: FakeModel, is_taken: bool
):
    page = open_page("en-US")
    with held(model):
        page.fill("#text", "hello")
        page.evaluate(PRESS, ["Enter", {}, 1])
        if is_taken:
            page.wait_for_function("document.querySelector('#text').value === ''")
        page.evaluate(PRESS, ["Enter", {}, 1])
    page.wait_for_function("window.played.length > 0")
    assert len(bubbles(page, "user")) == 1


def test_what_is_sent_twice_is_answered_once(open_page: Pages, model: FakeModel):
    page = open_page("en-US")
    model.num_frames = 3
    ways = [
        lambda: page.dblclick("#send"),
        lambda: page.evaluate(PRESS, ["Enter", {}, 2]),
        lambda: (page.keyboard.press("Enter"), page.keyboard.press("Enter")),
        lambda: (page.keyboard.down("Enter"), page.keyboard.down("Enter")),
    ]
    for latency in (0, 150):
        delay(page, latency)
        for number, send in enumerate(ways, 1):
            page.fill("#text", "hello")
            send()
            wait_for_reply(page, number)
            assert len(bubbles(page, "user")) == number
            assert said(page) == "" and page.query_selector("#chat .cut") is None
            page.keyboard.up("Enter")
            page.wait_for_function("document.querySelector('#text').value === ''")
        page.click("#new")
        page.wait_for_selector("#chat .row", state="detached")
    model.num_frames = 400
    write(page, "hello")
    page.wait_for_function("window.pagePlayer.heard()?.seconds > 0.2")
    write(page, "hello")
    page.wait_for_selector("#chat .user-row >> nth=1")
    assert page.query_selector("#chat .bot-row .cut")


@pytest.mark.parametrize("late", ["taken", "end"])
def test_what_is_told_late_of_a_reply_is_not_told_of_the_one_that_was_sent_since(
    open_page: Pages, ours: tuple[app.Page, str], model: FakeModel, late: str
):
    page, calls = open_page("en-US", script=LATE), []
    model.num_frames = 3
    with ExitStack() as until_it_is_late:
        until_it_is_late.enter_context(held(model))
        if late == "taken":
            page.evaluate("window.holdBack()")
        write(page, "hello")
        session = session_with_turn(page, ours[0])
        if late == "end":
            wait_for_value(page, "#text", "")
            page.evaluate("window.holdBack()")
            until_it_is_late.close()
            wait_until_ended(page, session)
        page.route("**/queue/join*", lambda call: calls.append(call))
        write(page, "hello again")
        page.evaluate("window.read()")
        page.wait_for_selector("#chat .bot-row" if late == "taken" else "#chat .actions")
        page.wait_for_timeout(100)
        assert said(page) == "Sending" and page.is_visible("#stop")
        assert page.input_value("#text") == ""
        page.evaluate(PRESS, ["Enter", {}, 1])
        page.wait_for_timeout(100)
        assert sum('"hello again"' in call.request.post_data for call in calls) == 1
        with page.expect_response("**/queue/join*"):
            page.unroute("**/queue/join*")  # which lets all of them go
    wait_for_reply(page, 2)
    wait_for_value(page, "#text", "")
    page.wait_for_selector("#stop", state="hidden")
    assert len(bubbles(page, "user")) == 2


def test_a_refused_question_leaves_the_reply_before_it_to_be_stopped(
    open_page: Pages, ours: tuple[app.Page, str], model: FakeModel
):
    page = open_page("en-US")
    with held(model):
        write(page, "hello")
        wait_for_value(page, "#text", "")
        ours[0].calls.is_ending = True
        write(page, "hello again")
        page.wait_for_selector(".toast-message-text")
        ours[0].calls.is_ending = False
        assert page.is_visible("#stop")
        page.click("#stop")
        page.wait_for_timeout(100)
    page.wait_for_selector("#status .said:has-text('Stopped')")
    page.wait_for_selector("#stop", state="hidden")
    assert page.input_value("#text") == "hello again"


@pytest.mark.parametrize(("locale", "told"), [("en-US", "Sending"), ("zh-CN", "正在发送")])
def test_what_is_sent_leaves_the_composer_once_and_at_once(
    open_page: Pages, model: FakeModel, sound: Path, locale: str, told: str
):
    page, calls = open_page(locale), []
    model.num_frames = 3
    page.set_input_files("#composer input[type=file]", sound)
    page.wait_for_selector(ATTACHED.format("audio"))
    page.route("**/queue/join*", lambda call: calls.append(call))
    write(page, "one")
    assert page.input_value("#text") == "" and said(page) == told
    assert page.query_selector(ATTACHED.format("audio")) is None
    write(page, "two")
    page.fill("#text", "three")
    assert said(page) == told and page.evaluate("sessionStorage.draft") == "one\ntwo\nthree"
    calls.pop(0).continue_()
    page.wait_for_selector("#chat .user-row")
    assert page.input_value("#text") == "three" and said(page) == told
    page.unroute("**/queue/join*")  # which lets all of them go
    wait_for_reply(page, 2)
    assert [page.inner_text(f".user-row >> nth={row} >> .text") for row in (0, 1)] == ["one", "two"]
    assert page.input_value("#text") == "three" == page.evaluate("sessionStorage.draft")
    assert said(page) == ""
    assert page.evaluate(AGAIN) == told
    wait_for_reply(page, 3)


@pytest.mark.parametrize("end", ["refused", "unreachable", "fault", "stop", "new"])
def test_what_was_sent_and_not_taken_returns_to_the_composer(
    open_page: Pages, ours: tuple[app.Page, str], sound: Path, end: str
):
    page, sessions = open_page("en-US"), ours[0].sessions
    page.set_input_files("#composer input[type=file]", sound)
    page.wait_for_selector(ATTACHED.format("audio"))
    with ExitStack() as places:
        for _ in range(sessions.limits.max_replies):
            places.enter_context(sessions.limiter.reply())
        ours[0].calls.is_ending = end == "refused"
        if end == "unreachable":
            page.route("**/queue/join*", lambda call: call.abort())
        one = "x" * (sessions.limits.max_text_characters + 1) if end == "fault" else "one"
        page.fill("#text", one)
        page.evaluate(SEND_AND_WRITE, "two")
        if end in ("stop", "new"):
            page.wait_for_selector("#status :text-is('Listening')")
            page.click(f"#{end}")
        wait_for_value(page, "#text", f"{one}\ntwo")
        ours[0].calls.is_ending = False
        page.unroute("**/queue/join*")
        assert page.is_visible(ATTACHED.format("audio"))
        page.wait_for_function("document.querySelector('#status .status').dataset.kind !== 'busy'")
        page.wait_for_selector("#stop", state="hidden")
    page.fill("#text", "three")
    page.click("#send")
    wait_for_reply(page)
    assert bubbles(page, "user")[0].startswith("three") and page.input_value("#text") == ""


def test_what_another_question_replaced_before_it_was_taken_returns_to_the_composer(
    open_page: Pages, ours: tuple[app.Page, str]
):
    page, sessions = open_page("en-US"), ours[0].sessions
    with ExitStack() as places:
        for _ in range(sessions.limits.max_replies):
            places.enter_context(sessions.limiter.reply())
        write(page, "one")
        page.wait_for_selector("#status :text-is('Listening')")
        write(page, "two")
        page.wait_for_timeout(300)
    wait_for_reply(page)
    assert page.inner_text(".user-row .text") == "two" and page.input_value("#text") == "one"


def test_a_reply_that_is_made_once_more_takes_nothing_from_the_composer(
    open_page: Pages, model: FakeModel
):
    page = open_page("en-US")
    model.num_frames = 3
    write(page, "hello")
    wait_for_reply(page)
    page.fill("#text", "hello again")
    page.click(".bot-row .again")
    wait_for_reply(page, 2)
    assert page.input_value("#text") == "hello again"


def test_what_is_written_is_seen_whole_after_another_tab_was_shown(open_page: Pages):
    page = open_page("en-US")
    page.fill("#text", "a line\nand another one")
    page.click("#inspect-tab-button")
    page.set_viewport_size({"width": 900, "height": 700})
    page.wait_for_timeout(100)
    page.click("#talk-tab-button")
    page.wait_for_function(IS_SEEN_WHOLE)
    page.goto(f"{page.url}?test=abc")
    page.wait_for_selector("#hands-free[data-state]", state="attached")
    page.click("#talk-tab-button")
    wait_for_value(page, "#text", "a line\nand another one")
    page.wait_for_function(IS_SEEN_WHOLE)


def test_a_key_that_composes_chinese_stops_nothing(open_page: Pages, model: FakeModel):
    model.num_frames = 60
    page = open_page("en-US")
    write(page, "hello")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    page.evaluate(PRESS, ["Escape", {"isComposing": True}, 1])
    page.evaluate(PRESS, ["Escape", {"keyCode": 229}, 1])
    assert page.evaluate("window.pagePlayer.isSpeaking()")
    wait_for_reply(page)
    wait_until_silent(page)
    assert page.query_selector("#chat .cut") is None


def test_what_is_too_early_to_be_saved_is_told(open_page: Pages, model: FakeModel):
    page = open_page("en-US")
    with held(model):
        write(page, "hello")
        page.wait_for_selector("#chat .bot-row")
        page.click("#save")
        page.wait_for_selector("#status .fault:has-text('still being made')")
        assert page.inner_text("#status .said") == "Thinking" and page.is_visible("#stop")


def test_what_is_saved_while_a_reply_waits_changes_nothing_of_it(
    open_page: Pages, ours: tuple[app.Page, str]
):
    page, sessions = open_page("en-US"), ours[0].sessions
    write(page, "hello")
    wait_for_reply(page)
    with ExitStack() as places:
        for _ in range(sessions.limits.max_replies):
            places.enter_context(sessions.limiter.reply())
        write(page, "hello")
        page.wait_for_selector("#status [data-kind=busy]")
        with page.expect_download():
            page.click("#save")
        page.wait_for_timeout(300)
        assert said(page) == "Listening" and page.is_visible("#stop")
        page.click("#send")
        page.wait_for_timeout(300)
    wait_for_reply(page, 2)
    assert said(page) == "" and page.query_selector("#chat .cut") is None
    assert len(bubbles(page, "user")) == 2


def test_what_can_not_be_saved_ends_no_wait_of_hands_free_talk(open_page: Pages):
    page = open_page("en-US")
    page.evaluate(SPEAK)
    page.wait_for_selector("#hands-free[data-state=thinking]")
    page.click("#save")
    page.wait_for_selector("#status .fault:not(:empty)")
    page.wait_for_timeout(500)
    assert page.get_attribute("#hands-free", "data-state") == "thinking"
