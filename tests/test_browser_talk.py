"""The talk tab in a real browser: hands-free talk, the microphone, replies and conversations."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import (
    MARKS,
    Pages,
    bubbles,
    playwright,
    record,
    said,
    wait_for_reply,
    wait_for_value,
    wait_until_silent,
    write,
)
from fake_model import FakeModel

import app
from page.ears import Ears

pytestmark = MARKS
# A browser whose microphone can't be opened.
REFUSING = """
navigator.mediaDevices.getUserMedia = async () => {
  throw new DOMException("no", "NAME");
};
"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(autouse=True)
def as_it_was(model: FakeModel) -> None:
    model.__init__(num_frames=25, frame_seconds=0.01)


def wait_for_state(page: playwright.Page, state: str) -> None:
    page.wait_for_selector(f"#hands-free[data-state={state}]")


def text_of(page: playwright.Page, number: int = 1) -> str:
    return page.inner_text(f".bot-row >> nth={number - 1} >> .text")


def test_hands_free_talk_goes_on_by_itself_and_is_left_for_good(open_page: Pages):
    page = open_page()
    page.click("#hands-free")
    wait_for_reply(page, 2)
    assert page.evaluate("window.liveTracks()") == 1
    states = page.evaluate("window.states")
    turn = ["listening", "thinking", "speaking"]
    assert states[: 1 + 2 * len(turn)] == ["idle", *turn, *turn]
    assert len(page.query_selector_all("#chat .user-row .sound")) >= 2
    page.click("#hands-free")
    wait_for_state(page, "idle")
    assert page.evaluate("window.liveTracks()") == 0
    assert page.evaluate("window.sounding.size") == 0


def test_speaking_over_a_reply_stops_it(open_page: Pages, model: FakeModel):
    model.num_frames, model.frame_seconds = 200, 0.03  # 10 s, made in less
    page = open_page()
    page.click("#hands-free")
    page.wait_for_selector("#chat .bot-row .cut")
    said = text_of(page)
    assert 0 < len(said) < 200
    reply = soundfile.info(_path_of(page, ".bot-row >> nth=0 >> a.download"))
    assert abs(len(said) - 20 * reply.duration) <= 2  # a character a frame
    page.wait_for_function("document.querySelectorAll('#chat .user-row').length >= 2")
    page.keyboard.press("Escape")
    wait_for_state(page, "idle")
    assert page.evaluate("window.liveTracks()") == 0


def test_the_sound_that_may_end_speech_is_sent_as_soon_as_it_is_there(open_page: Pages):
    page = open_page()
    sizes = page.evaluate(
        """async () => {
          const sizes = [];
          let hear;
          window.pageMicrophone.open = async (onPiece) => { hear = onPiece; return null; };
          window.pageAsk.open = () => {};
          window.pageAsk.hear = ({ pcm }) => sizes.push(atob(pcm).length / 2 / 480);
          document.querySelector("#hands-free").click();
          await null;
          const piece = new Float32Array(480);
          window.pageHeard({ number: -1, change: null });
          for (const [number, to_end] of [null, 0.1, 0.2, 0.5].entries()) {
            while (sizes.length === number) hear(piece, 24000);
            window.pageHeard({ number, change: null, to_end });
          }
          while (sizes.length === 4) hear(piece, 24000);
          return sizes;
        }"""
    )
    assert sizes == [8, 8, 5, 10, 8]  # pieces of 20 ms


def test_nothing_is_heard_before_the_server_listens(
    open_page: Pages, monkeypatch: pytest.MonkeyPatch
):
    open_ear = Ears.open

    def open_late(self, *given):
        time.sleep(1)
        return open_ear(self, *given)

    monkeypatch.setattr(Ears, "open", open_late)
    page = open_page()
    page.click("#hands-free")
    page.wait_for_selector("#status [data-kind=hearing]")
    assert page.evaluate("window.states") == ["idle", "listening"]
    page.keyboard.press("Escape")


def test_a_microphone_that_the_server_has_closed_is_told(
    open_page: Pages, monkeypatch: pytest.MonkeyPatch
):
    page = open_page()
    page.click("#hands-free")
    page.wait_for_selector("#status [data-kind=hearing]")
    monkeypatch.setattr(Ears, "hear", lambda self, *given: None)
    page.wait_for_selector("#status .fault:has-text('麦克风')")
    wait_for_state(page, "error")
    assert page.evaluate("window.liveTracks()") == 0


@pytest.mark.parametrize("end", ["window.pageTell('leave')", "lose('microphone_lost')"])
def test_a_microphone_that_is_left_is_not_opened_again_by_a_refusal(open_page: Pages, end: str):
    page = open_page()
    opened = page.evaluate(
        f"""async () => {{
          const opened = [];
          let lose;
          window.pageMicrophone.open = async (_, onLost) => {{ lose = onLost; return null; }};
          window.pageAsk.open = ({{ open }}) => opened.push(open);
          document.querySelector("#hands-free").click();
          await null;
          {end};
          window.setTimeout = (run) => run();
          window.pageTell("refused");
          return opened;
        }}"""
    )
    assert opened == [True, False]


def _path_of(page: playwright.Page, link: str) -> str:
    return page.get_attribute(link, "href").partition("file=")[2]


@pytest.mark.parametrize("way", ["button", "stop", "escape", "new", "send", "record"])
def test_whatever_leaves_hands_free_talk_closes_the_microphone(open_page: Pages, way: str):
    page = open_page()
    page.fill("#text", "你好")
    page.click("#hands-free")
    wait_for_state(page, "listening")
    page.wait_for_function("window.liveTracks() === 1")
    if way == "escape":
        page.keyboard.press("Escape")
    else:
        ids = {"button": "#hands-free", "record": "#composer .record"}
        page.click(ids.get(way, f"#{way}"))
    wait_for_state(page, "idle")
    if way == "record":  # it is another microphone, which is seen
        page.wait_for_selector("#composer .record[aria-pressed=true]")
        page.click("#composer .record")
        page.wait_for_selector("#composer .record[aria-pressed=false]")
    page.wait_for_function("window.liveTracks() === 0")


@pytest.mark.parametrize(
    ("name", "told"),
    [("NotAllowedError", "没有开放麦克风"), ("NotFoundError", "没有找到麦克风")],
)
def test_a_microphone_that_can_not_be_opened_is_told_in_every_mode(
    open_page: Pages, name: str, told: str
):
    page = open_page(script=REFUSING.replace("NAME", name))
    page.click("#hands-free")
    wait_for_state(page, "error")
    page.wait_for_selector(f"#status .fault:has-text('{told}')")
    page.click("#composer .record")
    page.wait_for_selector("#composer .record[aria-pressed=false]")
    page.wait_for_selector(f"#status .fault:has-text('{told}')")
    wait_for_state(page, "idle")
    write(page, "你好")  # what goes well clears it
    wait_for_reply(page)
    assert page.inner_text("#status .fault") == ""


def test_sending_while_recording_sends_the_recording(open_page: Pages):
    page = open_page()
    record(page)
    page.click("#send")
    wait_for_reply(page)
    assert page.query_selector("#chat .user-row .sound")
    assert page.evaluate("window.liveTracks()") == 0


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


def test_a_replys_text_grows_with_its_sound(open_page: Pages, model: FakeModel):
    model.num_frames, model.frame_seconds = 160, 0.001  # 8 s, made at once
    page = open_page()
    write(page, "你好")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    page.wait_for_selector(".bot-row .actions")  # all of it has come
    before = 0
    for _ in range(2):  # a character a frame, 20 a second
        page.wait_for_function(f"""() => {{
          const {{ length }} = document.querySelector(".bot-row .text").textContent;
          const said = 20 * window.pagePlayer.heard()?.seconds;
          return length > {before} && length < 155 && Math.abs(length - said) <= 4;
        }}""")
        before = len(text_of(page))
    wait_until_silent(page)
    page.wait_for_function("document.querySelector('.bot-row .text').textContent.length == 160")


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
    return soundfile.read(_path_of(page, link), dtype="int16")[0]


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


def test_wrong_settings_are_told_in_the_pages_language(open_page: Pages):
    page = open_page()
    page.click("#advanced button")
    page.fill("#seed input", "-5")
    page.press("#seed input", "Tab")
    write(page, "你好")
    page.wait_for_selector("#status .fault:has-text('seed')")
    assert "允许" in said(page) and bubbles(page, "user") == []
