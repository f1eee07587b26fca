"""The page in a real browser: what is clicked, what is seen, and every sample that is played."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import (
    LISTEN_IN,
    MARKS,
    Pages,
    attach_recording,
    bubbles,
    download,
    new_window,
    playwright,
    said,
    text_of,
    wait_for_reply,
    wait_for_value,
    wait_until_ready,
    write,
)
from fake_model import SAMPLE_RATE, FakeModel
from page_client import served

import app
from page.limits import Limits
from page.session import Session
from page.talk import EXAMPLE_FOLDER

pytestmark = MARKS


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel(num_frames=25, frame_seconds=0.02)


@pytest.fixture
def page_of_ours(ours: tuple[app.Page, str]) -> app.Page:
    return ours[0]


def upload(page: playwright.Page, path: Path) -> None:
    page.set_input_files("#composer input[type=file]", path)
    page.wait_for_selector("#composer .attached:not([hidden])")


def test_stop_silences_and_a_further_turn_works(
    open_page: Pages, page_of_ours: app.Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page_of_ours.sessions.model, "num_frames", 400)
    page = open_page()
    write(page, "最近心情不好，能聊聊吗？")
    page.wait_for_function("window.pagePlayer.heard()?.seconds > 0.2")
    page.click("#stop")
    assert page.evaluate("window.sounding.size") == 0
    num_pieces = page.evaluate("window.played.length")
    wait_for_reply(page)
    assert page.evaluate("window.played.length") == num_pieces
    assert page.query_selector(".player.speaking") is None
    assert page.wait_for_selector("#chat .bot-row .cut")
    partial = download(page, tmp_path)
    assert 0 < len(partial) < 20 * SAMPLE_RATE
    monkeypatch.setattr(page_of_ours.sessions.model, "num_frames", 25)
    write(page, "我并不喜欢现在的工作。")
    wait_for_reply(page, 2)
    assert len(bubbles(page, "user")) == 2
    assert len(page.evaluate("window.played")) > num_pieces


def test_what_was_heard_does_not_shrink_where_speech_comes_slower_than_it_sounds(
    open_page: Pages, page_of_ours: app.Page, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page_of_ours.sessions.model, "frame_seconds", 0.2)
    monkeypatch.setattr(page_of_ours.sessions.model, "num_frames", 10)
    page = open_page()
    page.evaluate(
        """() => {
          window.heard = [];
          setInterval(() => window.heard.push(window.pagePlayer.heard()?.seconds ?? 0), 10);
        }"""
    )
    write(page, "最近心情不好，能聊聊吗？")
    wait_for_reply(page)
    heard = np.trim_zeros(page.evaluate("window.heard"))
    assert np.all(np.diff(heard) >= 0) and len(np.unique(heard)) > 10


# What the page is told of the next reply reaches it half a second late, as where a slow machine has
# more to show of it than it can: Gradio's client takes what each call is told by itself.
HOLD_BACK = """() => {
  const later = window.setTimeout;
  let held = null;
  window.numHeld = 0;
  window.setTimeout = (what, milliseconds, ...given) => {
    const { event_id: call, msg: kind } = given[0] ?? {};
    if (kind === "process_generating") held ??= call;
    if (!call || call !== held) return later(what, milliseconds, ...given);
    window.numHeld += 1;
    return later(() => { what(...given); window.numHeld -= 1; }, 500);
  };
}"""


def test_what_a_slow_page_comes_to_late_does_not_replace_what_it_was_told_since(
    open_page: Pages, page_of_ours: app.Page, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page_of_ours.sessions.model, "num_frames", 400)
    page = open_page()
    page.evaluate(HOLD_BACK)
    write(page, "最近心情不好，能聊聊吗？")
    page.wait_for_function("window.pagePlayer.heard()?.seconds > 0.2")
    page.click("#stop")
    page.wait_for_selector("#status [data-kind=note]")
    assert page.evaluate("window.numHeld") > 0
    cut = text_of(page)
    page.wait_for_function("window.numHeld === 0")
    page.wait_for_timeout(2000)  # for so long the text follows what was heard
    assert (said(page), text_of(page)) == ("已停止", cut)
    monkeypatch.setattr(page_of_ours.sessions.model, "num_frames", 25)
    write(page, "我并不喜欢现在的工作。")
    wait_for_reply(page, 2)


def test_a_second_tab_keeps_its_conversation(open_page: Pages):
    first, second = open_page(), open_page()
    write(first, "家里人不同意我去当电竞选手。")
    write(second, "我想打游戏")
    wait_for_reply(first)
    wait_for_reply(second)
    assert "家里人" not in "".join(bubbles(second, "user"))
    first.click("#new")
    first.wait_for_function("!document.querySelector('#chat .user-row')")
    assert len(bubbles(second, "user")) == 1


def test_who_has_the_page_open_keeps_the_conversation(
    open_page: Pages, page_of_ours: app.Page, monkeypatch: pytest.MonkeyPatch
):
    page = open_page()
    write(page, "第一句")
    wait_for_reply(page)
    monkeypatch.setattr(page_of_ours.sessions, "limits", Limits(linger_seconds=0.1))
    page.wait_for_timeout(500)
    page_of_ours.sessions.sweep()
    write(page, "第二句")
    wait_for_reply(page, 2)
    assert page.locator("#chat .break").count() == 0


def test_a_page_says_that_it_is_open_once_it_is_shown_again(
    open_page: Pages, page_of_ours: app.Page
):
    page, seen = open_page(), dict(page_of_ours.sessions._seen)
    visitor = max(seen, key=seen.__getitem__)
    with page.expect_response("**/here") as told:
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert told.value.status == 204 and page_of_ours.sessions._seen[visitor] > seen[visitor]


def test_a_browser_holds_any_number_of_tabs(open_page: Pages):
    """It has six connections with a server, of all tabs together."""
    first = open_page()
    for _ in range(6):
        tab = new_window(first.context)
        tab.add_init_script(LISTEN_IN)
        tab.goto(first.url)
        wait_until_ready(tab)
    write(tab, "你好")
    tab.wait_for_selector("#chat .bot-row")


def test_a_tab_closed_while_it_speaks_is_forgotten(
    open_page: Pages, page_of_ours: app.Page, monkeypatch: pytest.MonkeyPatch
):
    def of_tab() -> list[weakref.ref[Session]]:
        gc.collect()
        return [weakref.ref(thing) for thing in gc.get_objects() if type(thing) is Session]

    others = {ref() for ref in of_tab()}
    page = open_page()
    write(page, "你好")
    page.wait_for_function("window.played.length > 0")
    (session,) = (ref for ref in of_tab() if ref() not in others)
    del others
    other = open_page()
    monkeypatch.setattr(page_of_ours.sessions, "limits", Limits(linger_seconds=1))
    monkeypatch.setattr("page.sessions.HERE_SECONDS", 1.0)
    page.close()
    for _ in range(600):
        other.wait_for_timeout(100)
        page_of_ours.sessions.sweep()  # as happens every few seconds
        gc.collect()
        if session() is None:
            return
    pytest.fail("the session of the closed tab is still there")


def test_bad_input_is_said_and_nothing_is_lost(open_page: Pages, tmp_path: Path):
    page = open_page()
    page.click("#send")
    page.wait_for_selector("#status .fault:has-text('没有语音')")
    path = tmp_path / "damaged.wav"
    path.write_bytes(b"RIFF....WAVEfmt nonsense")
    page.fill("#text", "留着这句话")
    upload(page, path)
    page.click("#send")
    page.wait_for_selector("#status .fault:has-text('读不出声音文件 damaged.wav')")
    assert page.input_value("#text") == "留着这句话"
    assert page.query_selector("#composer .attached:not([hidden])")
    assert bubbles(page, "user") == []
    page.click("#composer .remove")
    page.click("#send")
    wait_for_reply(page)
    assert page.inner_text("#status .fault") == ""


@pytest.mark.parametrize(
    ("locale", "send", "title"),
    [
        ("zh-CN", "发送", "情感语音对话"),
        ("zh", "发送", "情感语音对话"),
        ("en-US", "Send", "Emotional voice chat"),
    ],
)
def test_the_page_speaks_the_browsers_language(
    open_page: Pages, locale: str, send: str, title: str
):
    page = open_page(locale, width=390)
    page.wait_for_selector(f"#send:has-text('{send}')")
    assert page.inner_text("h1") == title
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("locale", ["zh", "zh-SG", "zh-Hans-CN"])
def test_no_chinese_browser_ever_sees_english(open_page: Pages, locale: str):
    watch = """
      window.english = [];
      new MutationObserver(() => {
        const text = document.body?.innerText ?? "";
        const english = /Tone of the reply|Settings|Listening tests|Inspect/;
        if (english.test(text)) window.english.push(text);
      }).observe(document, {subtree: true, childList: true, characterData: true});
    """
    page = open_page(locale, script=watch)
    page.wait_for_selector("#style:has-text('回复的语气')")
    for tab, name in {"compare": "听音测试", "inspect": "查看内部"}.items():
        assert page.inner_text(f"#{tab}-tab-button") == name
    assert page.evaluate("window.english") == []


@pytest.mark.parametrize(
    ("locale", "label"), [("en-US", "I don't like my job"), ("zh-CN", "我并不喜欢现在的工作")]
)
def test_an_example_recording_is_attached_by_what_is_said_and_waits_to_be_sent(
    open_page: Pages, locale: str, label: str
):
    page = open_page(locale)
    example = page.locator(".examples.sounds button >> nth=1")
    assert example.inner_text() == label
    example.click()
    page.wait_for_function("document.activeElement.id === 'send'")
    assert page.inner_text("#composer .attached:not([hidden]) .name") == label
    page.keyboard.press("Enter")
    wait_for_reply(page)


@pytest.mark.parametrize(
    ("locale", "tone", "chat", "parts"),
    [
        ("en-US", "Tone of the reply", "Conversation", ("Temperature", "Back to the default")),
        ("zh-CN", "回复的语气", "对话", ("温度", "恢复默认值")),
    ],
)
def test_tone_and_settings_are_named_and_moved_in_by_arrows(
    open_page: Pages, locale: str, tone: str, chat: str, parts: tuple[str, str]
):
    page = open_page(locale)
    assert page.get_by_role("log", name=chat, exact=True).count() == 1
    tones = page.get_by_role("radiogroup", name=tone, exact=True).get_by_role("radio")
    tones.first.focus()
    page.keyboard.press("ArrowDown")
    assert tones.nth(1).is_checked() and not tones.first.is_checked()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") != "radio"
    page.click("#advanced .disclosure")
    for role in ("spinbutton", "slider"):
        assert page.get_by_role(role, name=parts[0], exact=True).is_visible()
    assert page.get_by_role("button", name=parts[1], exact=True).count() > 1
    assert page.query_selector("#side [aria-label*='number input'], [aria-label^=Reset]") is None


def test_examples_are_taken(open_page: Pages):
    page = open_page("en-US")
    page.click("text=I don't really like my present job.")
    assert page.input_value("#text") == "我并不喜欢现在的工作。"
    page.fill("#text", "")
    page.click(".examples.sounds button >> nth=1")
    page.wait_for_selector("#composer .attached:not([hidden])")
    page.click("#send")
    wait_for_reply(page)
    assert page.query_selector("#chat .user-row .sound")
    write(page, "我并不喜欢现在的工作。")
    page.wait_for_selector(".user-row .gloss:has-text('my present job')")


def test_another_page_on_this_machine_takes_no_sound_along(open_page: Pages, tmp_path: Path):
    page = open_page()
    write(page, "你好")
    wait_for_reply(page)
    with served(FakeModel()) as (_, address):
        other = open_page(address=address)
        other.click(".examples.sounds button >> nth=0")
        other.wait_for_function("document.querySelector('#composer audio').duration > 1")
        other.close()  # before its server
    assert len(download(page, tmp_path))
    page.click("#new")
    example = page.locator(".examples.sounds button >> nth=0")
    example.click()
    page.wait_for_function("document.querySelector('#composer audio').duration > 1")
    path = Path(json.loads(example.get_attribute("data-example"))["path"])
    assert path.parent == EXAMPLE_FOLDER  # which nothing empties


def test_nothing_stands_loose_at_the_foot(open_page: Pages):
    for width in (1280, 390):
        page = open_page(width=width)
        foot = page.inner_text("footer").strip()
        assert foot and foot[-1] != "·", foot


def test_what_is_written_is_shown_as_written(open_page: Pages):
    page, asked = open_page(), []
    page.on("request", lambda request: asked.append(request.url))
    text = "a<b>c</b> <img src='http://127.0.0.1:9/x.png'> **d** $e$ &lt;\n<script>f()</script>"
    write(page, text)
    wait_for_reply(page)
    assert page.inner_text("#chat .user-row .text") == text
    assert page.query_selector("#chat img, #chat script, #chat b") is None
    assert not any(":9/" in url for url in asked)


def test_what_is_typed_meanwhile_stays(open_page: Pages):
    page = open_page()
    write(page, "我并不喜欢现在的工作。")
    page.fill("#text", "下一句")
    wait_for_reply(page)
    assert page.input_value("#text") == "下一句"
    page.click("#send")
    wait_for_reply(page, 2)
    wait_for_value(page, "#text", "")
    page.fill("#text", "我想")
    page.evaluate("""async () => {
      document.querySelector("#send").click();
      await new Promise((resolve) => setTimeout(resolve));
      const text = document.querySelector("#text");
      text.value += "再说一句";
      text.dispatchEvent(new Event("input"));
    }""")
    wait_for_reply(page, 3)
    assert page.inner_text("#chat .user-row >> nth=2 >> .text") == "我想"
    assert page.input_value("#text") == "再说一句"


def test_a_cut_connection_loses_nothing(open_page: Pages):
    page = open_page()
    write(page, "第一句")
    wait_for_reply(page)
    page.context.set_offline(True)
    page.fill("#text", "没有网的时候")
    page.click("#send")
    page.wait_for_timeout(1000)
    assert page.input_value("#text") == "没有网的时候"
    page.context.set_offline(False)
    page.reload()
    page.wait_for_selector("#chat .user-row:has-text('第一句')")
    wait_until_ready(page)
    wait_for_value(page, "#text", "没有网的时候")
    page.click("#send")
    wait_for_reply(page, 2)
    assert len(bubbles(page, "user")) == 2
    page.goto("about:blank")
    page.go_back()
    page.wait_for_function("document.querySelectorAll('#chat .user-row').length == 2")


def test_a_conversation_that_has_ended_is_said(open_page: Pages, page_of_ours: app.Page):
    page = open_page()
    write(page, "第一句")
    wait_for_reply(page)
    for visitor in list(page_of_ours.sessions._sessions):
        page_of_ours.sessions._sessions.pop(visitor).close()
    write(page, "第二句")
    page.wait_for_selector("#chat .break:has-text('新对话')")
    wait_for_reply(page, 2)
    page_of_ours.sessions._sessions.clear()
    page.reload()
    page.wait_for_selector("#chat .break:has-text('新对话')")
    assert bubbles(page, "user") == []


def test_an_upload_that_a_proxy_refuses_is_told(open_page: Pages, tmp_path: Path):
    page = open_page()
    page.route(
        "**/upload*",
        lambda route: route.fulfill(
            status=413, content_type="text/html", body="<html><h1>413 Too Large</h1></html>"
        ),
    )
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    page.set_input_files("#composer input[type=file]", tmp_path / "a.wav")
    page.wait_for_selector("#status .fault:has-text('413')")
    told = said(page)
    assert "到达本页面之前" in told and "html" not in told


def test_old_sounds_can_be_heard_and_only_one_at_a_time(open_page: Pages):
    page = open_page()
    attach_recording(page)
    page.click("#send")
    wait_for_reply(page)
    page.click("#chat .user-row .sound")
    page.wait_for_selector("#chat .user-row .sound.playing")
    page.click("#chat .bot-row .sound")
    page.wait_for_selector("#chat .bot-row .sound.playing")
    assert page.query_selector("#chat .user-row .sound.playing") is None
    assert page.evaluate("window.sounding.size") == 0


def test_no_request_leaves_the_machine_and_nothing_is_complained_of(open_page: Pages):
    page, complaints, hosts = open_page(), [], set()
    address = page.url
    page.goto("about:blank")  # what a page leaves unanswered when it goes is no complaint
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
    page.goto(address)
    wait_until_ready(page)
    write(page, "你好")
    wait_for_reply(page)
    page.click("#new")
    page.wait_for_function("!document.querySelector('#chat .row')")
    assert complaints == []
    assert hosts <= {"127.0.0.1"}
