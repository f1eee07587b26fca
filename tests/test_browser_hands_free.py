"""The microphone in a real browser: hands-free talk, recordings, and whatever closes it."""

from __future__ import annotations

import time

import pytest
import soundfile
from browser import (
    MARKS,
    Pages,
    path_of,
    playwright,
    record,
    text_of,
    wait_for_reply,
    wait_until_recorded,
    write,
)
from fake_model import FakeModel

from page.ears import Ears
from page.limits import Limits

pytestmark = MARKS
LIMITS = Limits(max_audio_seconds=300)  # no recording ends by itself
# A browser whose microphone can't be opened.
REFUSING = """
if (navigator.mediaDevices) navigator.mediaDevices.getUserMedia = async () => {
  throw new DOMException("no", "NAME");
};
"""
# A recorder that began after the page's own has a block of sound: what is shorter is no sound.
A_BLOCK_IS_RECORDED = """() => new Promise((resolve) => {
  const recorder = new MediaRecorder(new MediaStream([window.tracks.at(-1)]));
  recorder.ondataavailable = ({ data }) => data.size && resolve(true);
  recorder.start(200);
})"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    model = FakeModel()
    model.max_input_seconds = LIMITS.max_audio_seconds
    return model


@pytest.fixture(autouse=True)
def as_it_was(model: FakeModel) -> None:
    model.__init__(num_frames=25, frame_seconds=0.01)


def wait_for_state(page: playwright.Page, state: str) -> None:
    page.wait_for_selector(f"#hands-free[data-state={state}]", state="attached")


def num_heard(page: playwright.Page, path: str) -> int:
    """Characters of the first reply, once its sound is cut where its text is: one a frame."""
    for _ in range(1200):
        said = len(text_of(page))
        if abs(said - 20 * soundfile.info(path).duration) <= 2:
            return said
        page.wait_for_timeout(100)
    pytest.fail(f"{said} characters are left of {soundfile.info(path).duration} s of speech")


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
    path = path_of(page, ".bot-row >> nth=0 >> a.download")
    assert 0 < num_heard(page, path) < 200
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


def test_a_page_that_did_not_run_does_not_blame_the_server(open_page: Pages):
    page = open_page()
    states = page.evaluate(
        """async () => {
          const [piece, states] = [new Float32Array(480), []];
          let [now, hear] = [performance.now(), null];
          performance.now = () => now;
          window.pageMicrophone.open = async (onPiece) => { hear = onPiece; return null; };
          window.pageAsk.open = window.pageAsk.hear = () => {};
          document.querySelector("#hands-free").click();
          await null;
          window.pageHeard({ number: -1, change: null });
          const pass = (milliseconds, count) => {
            for (let i = 0; i < count; i += 1) {
              now += milliseconds;
              hear(piece, 24000);
            }
            states.push(document.querySelector("#hands-free").dataset.state);
          };
          pass(20, 8); // a call begins, and nothing answers it
          pass(20000, 3);
          pass(20, 300);
          pass(20, 100);
          return states;
        }"""
    )
    assert states == ["listening", "listening", "listening", "error"]


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
          window.setTimeout = (run, _, ...given) => run(...given);
          window.pageTell("refused", {{ name: "open_microphone" }});
          return opened;
        }}"""
    )
    assert opened == [True, False]


def test_what_was_refused_alone_is_sent_again(open_page: Pages):
    page = open_page()
    opened = page.evaluate(
        """async () => {
          const opened = [];
          window.pageMicrophone.open = async () => null;
          window.pageAsk.open = ({ open }) => opened.push(open);
          document.querySelector("#hands-free").click();
          await null;
          const { setTimeout } = window;
          window.setTimeout = (run, _, ...given) => run(...given);
          for (const name of ["rate", "hear", "open_microphone"])
            window.pageTell("refused", { name });
          window.setTimeout = setTimeout;
          window.pageTell("leave");
          return opened;
        }"""
    )
    assert opened == [True, True, False]


@pytest.mark.parametrize("way", ["button", "stop", "escape", "new", "send", "record", "tab"])
def test_whatever_leaves_hands_free_talk_closes_the_microphone(open_page: Pages, way: str):
    page = open_page()
    page.fill("#text", "你好")
    page.click("#hands-free")
    wait_for_state(page, "listening")
    page.wait_for_function("window.liveTracks() === 1")
    if way == "escape":
        page.keyboard.press("Escape")
    else:
        ids = {
            "button": "#hands-free",
            "record": "#composer .record",
            "tab": "#inspect-tab-button",
        }
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


def test_a_recording_goes_on_in_no_other_tab(open_page: Pages):
    page = open_page()
    record(page)
    page.click("#inspect-tab-button")
    page.wait_for_function("window.liveTracks() === 0")
    page.click("#inspect .plain:has-text('录音')")
    page.wait_for_function("window.liveTracks() === 1")
    page.click("#talk-tab-button")
    page.wait_for_function("window.liveTracks() === 0")
    page.wait_for_selector("#composer .attached[data-kind=audio]:not([hidden])")  # it is kept
    page.click("#inspect-tab-button")
    page.click("#inspect .plain:has-text('录音')")
    page.wait_for_function("window.liveTracks() === 1")
    page.wait_for_function(A_BLOCK_IS_RECORDED)
    page.click("#inspect .primary")  # it ends, and is what is looked at
    page.wait_for_selector("#inspect audio")
    assert page.evaluate("window.liveTracks()") == 0


def test_the_keyboard_records(open_page: Pages):
    page = open_page()
    page.focus("#composer .record")
    for _ in range(2):
        page.keyboard.press("Enter")
        wait_until_recorded(page, 1)
        page.keyboard.press("Enter")
        page.wait_for_selector("#composer .record[aria-pressed=false]:focus")
        page.wait_for_selector("#composer .attached[data-kind=audio]:not([hidden])")
        page.click("#composer .remove")
        page.focus("#composer .record")
    assert page.evaluate("window.liveTracks()") == 0
