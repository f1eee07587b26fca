"""What the page says while something goes wrong in a browser, and what it is on a turned phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import MARKS, Pages, said, wait_for_reply, write
from fake_model import FakeModel, held

import app

pytestmark = MARKS
# The server's answers to calls are held back, while what the calls bring comes by the stream.
LATE = """{
const send = window.fetch;
window.fetch = async (what, options) => {
  const response = await send(what, options);
  if (String(what.url ?? what).includes("/queue/join")) await window.late;
  return response;
};
}"""
# A request is among these once its answer has ended.
STREAMS_CLOSED = """number => performance.getEntriesByType("resource").filter(
  ({ name }) => name.includes("/queue/data")).length >= number"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel(num_frames=10)


@pytest.mark.parametrize(("locale", "told"), [("zh-CN", "连接不上服务器"), ("en-US", "be reached")])
def test_a_server_out_of_reach_is_told_in_the_pages_language(
    open_page: Pages, locale: str, told: str
):
    page = open_page(locale)
    page.wait_for_function(STREAMS_CLOSED, arg=1)  # of what a page asks first
    page.click(".examples.sounds button")
    page.wait_for_selector("#composer .attached:not([hidden])")
    # The recording is read ahead: Gradio loads a page anew whose stream can't be opened.
    page.wait_for_function(STREAMS_CLOSED, arg=2)
    page.evaluate("window.isThisPage = true")
    page.context.set_offline(True)
    for number in (1, 2):
        write(page, "第一句")
        page.wait_for_selector(f".toast-message-text:has-text('{told}') >> nth={number - 1}")
        assert "Connection" not in page.inner_text(".toast-wrap")
    page.context.set_offline(False)
    page.click("#send")
    page.wait_for_selector(".toast-body", state="detached")
    wait_for_reply(page)
    assert page.input_value("#text") == ""
    assert page.query_selector("#chat .user-row .sound")
    assert page.evaluate("window.isThisPage")


@pytest.mark.parametrize(("locale", "told"), [("zh-CN", "服务器正忙"), ("en-US", "busy: wait")])
def test_a_refused_call_is_told_in_the_pages_language(
    open_page: Pages, ours: tuple[app.Page, str], locale: str, told: str
):
    page = open_page(locale)
    ours[0].calls.is_ending = True
    write(page, "第一句")
    page.wait_for_selector(f".toast-message-text:has-text('{told}')")
    ours[0].calls.is_ending = False
    assert page.input_value("#text") == "第一句"


def test_a_look_and_a_test_that_were_refused_can_be_asked_for_again(
    open_page: Pages, ours: tuple[app.Page, str]
):
    page = open_page("en-US")
    for tab, done in (("inspect", ".said-text"), ("compare", ".built h2")):
        page.click(f"#{tab}-tab-button")
        page.fill(f"#{tab} textarea", "你好")
        asked = f"#{tab} .primary >> nth=0"
        ours[0].calls.is_ending = True
        page.click(asked)
        page.wait_for_selector(".toast-message-text")
        ours[0].calls.is_ending = False
        assert page.is_enabled(asked) and page.inner_text(f"#{tab} .line >> nth=0") == ""
        page.click(".toast-close")
        page.wait_for_selector(".toast-body", state="detached")
        page.click(asked)
        page.wait_for_selector(f"#{tab} {done}")


def test_a_comparison_whose_settings_are_refused_can_be_opened_again(
    open_page: Pages, ours: tuple[app.Page, str]
):
    page = open_page("en-US")
    write(page, "第一句")
    wait_for_reply(page)
    ours[0].calls.is_ending = True
    page.click(".bot-row .compare")
    page.wait_for_selector(".panel", state="detached")
    ours[0].calls.is_ending = False
    page.click(".bot-row .compare")
    page.wait_for_selector(".panel .primary:not(:disabled)")


def test_a_refused_call_ends_no_other_one(
    open_page: Pages, ours: tuple[app.Page, str], model: FakeModel
):
    page = open_page("en-US")
    page.click("#inspect-tab-button")
    page.fill("#inspect textarea", "你好")
    with held(model):
        page.click("#inspect .primary")
        page.wait_for_selector("#inspect progress:not([hidden])")
        ours[0].calls.is_ending = True
        page.evaluate("window.pageAsk.save({})")
        page.wait_for_selector(".toast-message-text")
        ours[0].calls.is_ending = False
        assert page.is_disabled("#inspect .primary")
    page.wait_for_selector("#inspect .said-text")


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_a_fault_stays_while_a_reply_goes_on_and_leaves_with_the_next_one(
    open_page: Pages, model: FakeModel, monkeypatch, tmp_path: Path, is_cut_off: bool
):
    if is_cut_off:
        chunk = model.chunk
        monkeypatch.setattr(
            model, "chunk", lambda frame, _, ended, sampling: chunk(frame, 10, False, sampling)
        )
    page = open_page("en-US")
    page.route("**/upload*", lambda route: route.fulfill(status=413, body="no"))
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with held(model):
        write(page, "第一句")
        page.wait_for_selector("#status:has-text('Thinking')")
        page.set_input_files("#composer input[type=file]", tmp_path / "a.wav")
        page.wait_for_selector("#status .fault:has-text('413')")
    wait_for_reply(page)
    assert "413" in said(page)
    assert bool(page.inner_text("#status .said")) == is_cut_off
    monkeypatch.undo()
    write(page, "第二句")
    wait_for_reply(page, 2)
    assert said(page) == ""


def test_a_fault_leaves_with_a_new_conversation_and_with_what_is_saved(open_page: Pages):
    page = open_page("en-US")
    gone = "document.querySelector('#status .fault').textContent === ''"
    for _ in range(2):
        page.click("#save")
        page.wait_for_selector("#status .fault:has-text('save')")
        page.click("#new")
        page.wait_for_function(gone, timeout=20_000)
    write(page, "第一句")
    wait_for_reply(page)
    for leave in ("#save", "#new", "#new"):
        page.click("#send")
        page.wait_for_selector("#status .fault:not(:empty)")
        page.click(leave)
        page.wait_for_function(gone, timeout=20_000)


def test_a_page_that_is_asked_to_go_and_stays_goes_on(open_page: Pages, model: FakeModel):
    page = open_page()
    page.route("**/nothing", lambda route: route.fulfill(status=204))
    with held(model):
        write(page, "第一句")
        page.wait_for_selector("#status [data-kind=busy]")
        page.evaluate("window.isThisPage = true")
        with page.expect_request("**/nothing"):
            page.evaluate("location.href = '/nothing'")
        page.wait_for_timeout(500)
        assert page.query_selector(".toast-body") is None
    wait_for_reply(page)
    assert page.evaluate("window.isThisPage")


def test_a_page_that_goes_in_the_middle_of_a_reply_leaves_no_error(
    open_page: Pages, model: FakeModel
):
    page = open_page()
    with held(model):
        write(page, "第一句")
        page.wait_for_selector("#status [data-kind=busy]")
        page.reload()
    page.wait_for_selector("#chat .user-row:has-text('第一句')")


def test_a_page_whose_calls_are_answered_before_they_are_taken_leaves_no_error(
    open_page: Pages, ours: tuple[app.Page, str], model: FakeModel
):
    page = open_page(script=LATE)
    write(page, "第一句")
    wait_for_reply(page)
    session = list(ours[0].sessions._sessions.values())[-1]
    with held(model):
        write(page, "第二句")
        page.wait_for_selector("#status [data-kind=busy]")
        page.evaluate("() => { window.late = new Promise((take) => (window.take = take)); }")
        page.click(".bot-row .good")
        for _ in range(400):
            if session.turns[0].rating == 1:
                break
            page.wait_for_timeout(50)
        assert session.turns[0].rating == 1
    wait_for_reply(page, 2)
    page.evaluate("window.take()")
    page.wait_for_selector(".bot-row .good[aria-pressed=true]")
    page.reload()
    page.wait_for_selector(".bot-row .good[aria-pressed=true]")


def test_what_is_written_is_seen_whole_on_a_turned_phone(open_page: Pages):
    page = open_page("en-US", 844, 390)
    page.fill("#text", "a line that fills a wide window's field and not a narrow one's")
    page.set_viewport_size({"width": 390, "height": 844})
    seen = "(({ clientHeight, scrollHeight }) => clientHeight >= scrollHeight - 4)"
    page.wait_for_function(f"{seen}(document.querySelector('#text'))")
