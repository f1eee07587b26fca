"""The page in a real browser: what is clicked, what is seen, and every sample that is played."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

import app
from models.load import load_model
from page.session import Session

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the path"),
]

# What the page's player gives to Web Audio: where each piece starts, its samples, and its end.
LISTEN_IN = """
window.played = []; window.sounding = new Set();
const {start, stop} = AudioBufferSourceNode.prototype;
AudioBufferSourceNode.prototype.start = function (when) {
  const {sampleRate} = this.buffer;
  const samples = Array.from(this.buffer.getChannelData(0), (x) => Math.round(x * 32768));
  window.played.push({rate: sampleRate, first: Math.round(when * sampleRate), samples});
  window.sounding.add(this);
  this.addEventListener("ended", () => window.sounding.delete(this));
  return start.call(this, when);
};
AudioBufferSourceNode.prototype.stop = function () {
  window.sounding.delete(this);
  return stop.call(this);
};
"""
OpenPage = Callable[..., "playwright.Page"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        demo = app.build_demo(load_model("tiny"), reply_seconds=2)
        yield demo.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)[1]
        demo.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[playwright.Browser]:
    """Chromium, whose microphone hears a recording."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    samples = 3000 * np.sin(np.arange(4 * 48_000) * 0.02)
    soundfile.write(path, samples.astype(np.int16), 48_000, subtype="PCM_16")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={path}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: playwright.Browser, url: str) -> Iterator[OpenPage]:
    """Opens the page in a fresh window; its errors fail the test."""
    contexts, errors = [], []

    def open_page(locale: str = "zh-CN", width: int = 1280, **options) -> playwright.Page:
        context = browser.new_context(
            locale=locale,
            permissions=["microphone"],
            viewport={"width": width, "height": 844},
            **options,
        )
        contexts.append(context)
        context.add_init_script(LISTEN_IN)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#send")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def choose(page: playwright.Page, kind: str) -> None:
    chosen = f"#composer[data-kind={kind}]"
    for _ in range(10):  # a click is lost that comes while the page still starts
        page.click(f"#kind input[value={kind}]", force=True)
        with suppress(playwright.TimeoutError):
            page.wait_for_selector(chosen, timeout=3000)
            return
    page.wait_for_selector(chosen)


def write(page: playwright.Page, text: str) -> None:
    choose(page, "written")
    page.fill("#text textarea", text)
    page.click("#send")


def record(page: playwright.Page) -> None:
    page.click("#audio button.record-button")
    page.wait_for_timeout(1500)
    page.click("#audio button.stop-button")
    page.wait_for_function(
        "!['', '0:00', undefined].includes(document.querySelector('#audio #duration')?.innerText)"
    )


def bubbles(page: playwright.Page, who: str) -> list[str]:
    return [row.inner_text() for row in page.query_selector_all(f"#chat .{who}-row")]


def wait_for_reply(page: playwright.Page, number: int = 1) -> None:
    """Wait until the last of so many replies can be heard again."""
    page.wait_for_function(
        f"document.querySelectorAll('#chat .bot-row .minimal-audio-player').length == {number}"
    )


def download(page: playwright.Page, folder: Path) -> np.ndarray:
    with page.expect_download() as event:
        page.click("#download")
    path = folder / event.value.suggested_filename
    event.value.save_as(path)
    return soundfile.read(path, dtype="int16")[0]


def sessions() -> list[weakref.ref[Session]]:
    gc.collect()
    return [weakref.ref(thing) for thing in gc.get_objects() if type(thing) is Session]


def test_a_recording_is_answered_and_played_exactly(open_page: OpenPage, tmp_path: Path):
    page = open_page()
    record(page)
    page.click("#send")
    wait_for_reply(page)
    played = page.evaluate("window.played")
    samples = np.concatenate([piece["samples"] for piece in played])
    np.testing.assert_array_equal(samples, download(page, tmp_path))
    assert {piece["rate"] for piece in played} == {22050}
    for before, after in zip(played, played[1:]):
        assert after["first"] >= before["first"] + len(before["samples"])
    assert page.query_selector("#chat .user-row .minimal-audio-player")
    assert page.query_selector("#audio .record-button")  # it was taken, and a new one can be made


def test_stop_silences_and_a_further_turn_works(open_page: OpenPage, tmp_path: Path):
    page = open_page()
    write(page, "最近心情不好，能聊聊吗？")
    page.wait_for_function("window.played.length > 0")
    page.click("#stop")
    assert page.evaluate("window.sounding.size") == 0
    num_pieces = page.evaluate("window.played.length")
    wait_for_reply(page)
    assert page.evaluate("window.played.length") == num_pieces
    assert page.query_selector(".player.speaking") is None
    partial = download(page, tmp_path)
    assert 0 < len(partial) < 2 * 22050
    write(page, "我并不喜欢现在的工作。")
    wait_for_reply(page, 2)
    assert len(bubbles(page, "user")) == 2
    assert len(page.evaluate("window.played")) > num_pieces


def test_a_second_tab_keeps_its_conversation(open_page: OpenPage):
    first, second = open_page(), open_page()
    write(first, "家里人不同意我去当电竞选手。")
    write(second, "我想打游戏")
    wait_for_reply(first)
    wait_for_reply(second)
    assert "家里人" not in "".join(bubbles(second, "user"))
    first.click("#new")
    first.wait_for_function("!document.querySelector('#chat .user-row')")
    assert len(bubbles(second, "user")) == 1


def test_a_tab_closed_while_it_speaks_is_forgotten(open_page: OpenPage):
    others = {ref() for ref in sessions()}
    page = open_page()
    write(page, "你好")
    page.wait_for_function("window.played.length > 0")
    (session,) = (ref for ref in sessions() if ref() not in others)
    folder = session().folder
    other = open_page()
    page.close()
    for _ in range(100):
        other.wait_for_timeout(100)
        gc.collect()
        if session() is None and not folder.exists():
            return
    pytest.fail("the session of the closed tab is still there")


def test_it_listens_while_one_speaks(open_page: OpenPage):
    page = open_page()
    choose(page, "talk")
    page.click("#microphone button.record-button")
    page.wait_for_selector("#status .status")
    page.wait_for_timeout(2600)
    page.click("#microphone button:has-text('停止')")
    wait_for_reply(page)
    assert page.query_selector("#chat .user-row .minimal-audio-player")
    assert page.evaluate("window.played.length") > 1


def test_bad_input_is_said_and_nothing_is_lost(open_page: OpenPage, tmp_path: Path):
    page = open_page()
    page.click("#send")
    assert "请先录音" in page.wait_for_selector(".toast-body").inner_text()
    choose(page, "both")
    path = tmp_path / "damaged.wav"
    path.write_bytes(b"RIFF....WAVEfmt nonsense")
    page.click("#audio [aria-label='Upload file']")
    page.set_input_files("#audio input[type=file]", path)
    page.wait_for_selector("#audio .top-panel a")
    page.fill("#text textarea", "留着这句话")
    page.click("#send")
    page.wait_for_selector(".toast-body:has-text('read as sound')")
    assert page.input_value("#text textarea") == "留着这句话"
    assert page.query_selector("#audio .top-panel a")
    assert bubbles(page, "user") == []


@pytest.mark.parametrize(
    ("locale", "send", "title"),
    [
        ("zh-CN", "发送", "情感语音对话"),
        ("zh", "发送", "情感语音对话"),
        ("en-US", "Send", "Emotional voice chat"),
    ],
)
def test_the_page_speaks_the_browsers_language(
    open_page: OpenPage, locale: str, send: str, title: str
):
    page = open_page(locale, width=390)
    page.wait_for_selector(f"#send:has-text('{send}')")
    assert page.inner_text("h1") == title
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_examples_are_taken(open_page: OpenPage):
    page = open_page()
    page.click("text=我并不喜欢现在的工作。")
    page.wait_for_selector("#composer[data-kind=written]")
    assert page.input_value("#text textarea") == "我并不喜欢现在的工作。"
    if any(app.EXAMPLE_RECORDINGS.glob("*.wav")):
        page.click("#recordings button")
        page.wait_for_selector("#composer[data-kind=speech]")
        page.wait_for_selector("#audio .top-panel a")
