"""The talk tab in a real browser: replies, what can be done with them, and conversations."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import (
    MARKS,
    Pages,
    attach_recording,
    bubbles,
    path_of,
    playwright,
    record,
    said,
    text_of,
    wait_for_reply,
    wait_for_value,
    wait_until_silent,
    write,
)
from fake_model import FakeModel

import app

pytestmark = MARKS


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(autouse=True)
def as_it_was(model: FakeModel) -> None:
    model.__init__(num_frames=25, frame_seconds=0.01)


def test_a_reply_made_fast_is_heard_whole(open_page: Pages, model: FakeModel):
    model.num_frames, model.frame_seconds = 120, 0.0
    page = open_page()
    write(page, "你好")
    wait_for_reply(page)
    wait_until_silent(page)
    heard = [sample for piece in page.evaluate("window.played") for sample in piece["samples"]]
    sound = _read(page, ".bot-row a.download")
    np.testing.assert_allclose(heard, sound, atol=1)
    assert len(sound) == 120 * 800


def test_the_keyboard_sends_and_stops(open_page: Pages, model: FakeModel):
    model.num_frames, model.frame_seconds = 400, 0.001
    page = open_page()
    page.fill("#text", "第一行")
    page.press("#text", "Shift+Enter")
    page.keyboard.type("第二行")
    page.press("#text", "Enter")
    page.wait_for_function("window.pagePlayer.heard()?.seconds > 0.4")
    page.keyboard.press("Escape")
    assert page.evaluate("window.sounding.size") == 0
    page.wait_for_selector("#chat .bot-row .cut")
    assert page.inner_text("#chat .user-row .text") == "第一行\n第二行"
    assert 0 < len(text_of(page)) < 400


def test_stop_is_there_where_it_would_end_something(open_page: Pages, model: FakeModel):
    model.num_frames, model.frame_seconds = 400, 0.001
    page = open_page()
    assert not page.is_visible("#stop")
    write(page, "你好")
    page.wait_for_selector("#stop:visible")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    assert page.is_visible("#stop")
    page.focus("#stop")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat .log:focus")  # the keyboard goes on from what was said
    page.wait_for_selector("#stop", state="hidden")
    page.click("#hands-free")
    page.wait_for_selector("#stop:visible")
    page.click("#stop")
    page.wait_for_selector("#stop", state="hidden")


def test_escape_says_nothing_where_nothing_goes_on(open_page: Pages):
    page = open_page()
    write(page, "你好")
    wait_for_reply(page)
    wait_until_silent(page)
    page.evaluate("""() => {
      window.told = [];
      window.addEventListener("status", ({ detail }) => window.told.push(detail.kind));
    }""")
    page.keyboard.press("Escape")
    page.wait_for_function("window.told.length > 0")
    assert page.evaluate("window.told") == [""] and said(page) == ""
    record(page, 1)
    page.keyboard.press("Escape")
    page.wait_for_selector("#status [data-kind=note]")
    assert said(page) == "已停止"


def test_an_old_sound_silences_the_reply(open_page: Pages, model: FakeModel):
    page = open_page()
    write(page, "你好")
    wait_for_reply(page)
    model.num_frames, model.frame_seconds = 400, 0.001
    write(page, "第二句")
    page.wait_for_function("window.pagePlayer.heard()?.seconds > 0.2")
    page.click("#chat .bot-row .sound >> nth=0")
    page.wait_for_selector("#chat .bot-row .sound.playing")
    assert page.evaluate("window.sounding.size") == 0
    write(page, "第三句")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    assert page.query_selector("#chat .sound.playing") is None


def test_a_feeling_is_read_in_what_is_written_and_heard_in_what_is_said(open_page: Pages):
    page = open_page()
    write(page, "你好")
    wait_for_reply(page)
    attach_recording(page)
    page.click("#send")
    wait_for_reply(page, 2)
    badges = [
        " ".join(row.inner_text().split()) for row in page.query_selector_all(".user-row .badge")
    ]
    assert badges == ["看起来 难过", "听起来 难过"]


def test_a_reply_again_has_another_seed_and_a_seed_repeats_it(open_page: Pages):
    page = open_page()
    write(page, "你好")
    wait_for_reply(page)
    wait_until_silent(page)
    page.click(".bot-row .again")
    wait_for_reply(page, 2)
    seeds = [seed.inner_text() for seed in page.query_selector_all(".bot-row .seed")]
    sounds = [_read(page, f".bot-row >> nth={number} >> a.download") for number in range(2)]
    assert len(set(seeds)) == 2 and len(bubbles(page, "user")) == 1
    assert not np.array_equal(*sounds)
    page.click(".bot-row .seed >> nth=1")
    page.click("#new")
    page.wait_for_function("!document.querySelector('#chat .row')")
    write(page, "你好")
    wait_for_reply(page)
    assert page.inner_text(".bot-row .seed") == seeds[1]
    np.testing.assert_array_equal(_read(page, ".bot-row a.download"), sounds[1])


def _read(page: playwright.Page, link: str) -> np.ndarray:
    return soundfile.read(path_of(page, link), dtype="int16")[0]


def test_replies_are_copied_rated_and_timed(open_page: Pages):
    page = open_page()
    write(page, "你好")
    wait_for_reply(page)
    page.click(".bot-row .copy")
    page.wait_for_selector("#status .said:has-text('已复制')")
    assert page.evaluate("navigator.clipboard.readText()") == "好" * 25
    page.click(".bot-row .good")
    page.wait_for_selector(".bot-row .good[aria-pressed=true]")
    assert "秒后出声" in page.inner_text(".bot-row .first")
    page.reload()
    page.wait_for_selector(".bot-row .good[aria-pressed=true]")
    assert "秒后出声" in page.inner_text(".bot-row .first")


def test_a_conversation_is_saved_and_goes_on_elsewhere(
    open_page: Pages, ours: tuple[app.Page, str], tmp_path: Path
):
    page = open_page()
    write(page, "第一句")
    wait_for_reply(page)
    page.click(".bot-row .good")
    page.wait_for_selector(".bot-row .good[aria-pressed=true]")
    page.click(".bot-row .seed")
    with page.expect_download() as event:
        page.click("#save")
    event.value.save_as(tmp_path / "conversation.zip")
    with zipfile.ZipFile(tmp_path / "conversation.zip") as archive:
        about = json.loads(archive.read("conversation.json"))
        (turn,) = about["turns"]
        assert {turn["reply_audio"], "conversation"} <= set(archive.namelist())
    assert (turn["text"], turn["rating"], turn["reply"]) == ("第一句", 1, "好" * 25)
    assert turn["seed"] == about["settings"]["sampling"]["seed"]

    other = open_page("en-US")
    other.set_input_files("#bar input[type=file]", tmp_path / "conversation.zip")
    other.wait_for_selector("#chat .user-row:has-text('第一句')")
    assert other.query_selector(".bot-row .good[aria-pressed=true]")
    other.click("#advanced button")
    wait_for_value(other, "#seed input", str(turn["seed"]))
    write(other, "第二句")
    wait_for_reply(other, 2)
    sessions = list(ours[0].sessions._sessions.values())
    heard = [text for text, _ in sessions[-1].conversation.heard]
    assert heard == ["第一句", "第二句"]
    (tmp_path / "wrong.zip").write_bytes(b"PK nothing")
    other.set_input_files("#bar input[type=file]", tmp_path / "wrong.zip")
    other.wait_for_selector("#status .fault:has-text('no conversation')")
    assert len(bubbles(other, "user")) == 2


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_what_one_needs_is_in_sight(open_page: Pages, width: int, height: int):
    page = open_page("en-US", width, height)
    places = [page.locator("#send").bounding_box()]
    for number in range(1, 5):
        write(page, "我想全职去打游戏，成为一名电竞选手，但是家里人不同意。")
        wait_for_reply(page, number)
        places.append(page.locator("#send").bounding_box())
    for box in (*places, page.locator(".bot-row:last-child .bubble").bounding_box()):
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert box["y"] >= 0 and box["y"] + box["height"] <= height
    assert all(place == places[0] for place in places)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = """() => [...document.querySelectorAll("button, a[href], input:not([type=file])")]
      .map((made) => made.closest("label") ?? made)
      .filter((made) => made.checkVisibility() && !made.closest("footer, [aria-hidden=true]"))
      .filter((made) => Math.min(made.offsetWidth, made.offsetHeight) < 24)
      .map((made) => made.outerHTML.slice(0, 80))"""
    assert page.evaluate(small) == []


def test_what_is_set_as_soon_as_the_settings_open_counts(open_page: Pages):
    late = """
      const frame = window.requestAnimationFrame.bind(window);
      window.requestAnimationFrame = (draw) => setTimeout(() => frame(draw), 3000);
    """
    page = open_page(script=late)
    page.click("#advanced button")
    page.fill("#seed input", "7")
    page.press("#seed input", "Tab")
    write(page, "你好")
    wait_for_reply(page)
    assert page.inner_text(".bot-row .seed").endswith(" 7")
    assert page.input_value("#seed input") == "7"


def test_what_was_set_is_there_after_a_reload(open_page: Pages):
    page = open_page()
    page.click("#style label:has-text('沉静')")
    page.click("#advanced button")
    page.fill("#seed input", "7")
    page.press("#seed input", "Tab")
    write(page, "你好")
    wait_for_reply(page)
    page.reload()
    page.wait_for_selector("#style label:has-text('沉静') input:checked")
    page.click("#advanced button")
    wait_for_value(page, "#seed input", "7")
    write(page, "再来")
    wait_for_reply(page, 2)
    assert page.inner_text(".bot-row:last-child .seed").endswith(" 7")


def test_wrong_settings_are_told_in_the_pages_language(open_page: Pages):
    page = open_page()
    page.click("#advanced button")
    page.fill("#seed input", "-5")
    page.press("#seed input", "Tab")
    write(page, "你好")
    page.wait_for_selector("#status .fault:has-text('随机种子')")
    assert "允许" in said(page) and bubbles(page, "user") == []
