"""Sounds of every format are uploaded and answered in a browser; what is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import MARKS, Pages, playwright, said, wait_for_reply
from fake_model import FakeModel
from sounds import PHONE_FORMATS, phone_file, voice, written

import app

pytestmark = MARKS
SECONDS = 1.5
KINDS = ("wav", "mp3", "flac", "ogg", *PHONE_FORMATS)
# Once `isLate`, keeps back that a stream of events is closed until a call has been answered.
READS_LATE = """{
const fetch = window.fetch;
let answered = () => {};
Object.assign(window, { isLate: false, keptBack: false, numClosed: 0 });
window.fetch = async (what, options) => {
  const { pathname } = new URL(what.url ?? what, document.baseURI);
  const response = await fetch(what, options);
  if (pathname.endsWith("/queue/join")) answered();
  if (!pathname.endsWith("/queue/data")) return response;
  const late = new TransformStream({
    async transform(chunk, stream) {
      const isLast = new TextDecoder().decode(chunk).includes('"close_stream"');
      if (isLast && window.isLate) {
        Object.assign(window, { isLate: false, keptBack: true });
        await new Promise((done) => { answered = () => setTimeout(done, 300); });
      }
      stream.enqueue(chunk);
      window.numClosed += isLast;
    },
  });
  return new Response(response.body.pipeThrough(late), response);
};
}"""


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel(num_frames=3)


@pytest.fixture
def page(open_page: Pages, ours: tuple[app.Page, str]) -> playwright.Page:
    ours[0].sessions._sessions.clear()
    return open_page()


def upload(page: playwright.Page, path: Path) -> None:
    page.set_input_files("#composer input[type=file]", path)
    page.wait_for_selector(f"#composer .attached .name:has-text('{path.name}')")
    page.click("#send")


def test_every_format_is_heard(ours: tuple[app.Page, str], page: playwright.Page, tmp_path: Path):
    heard = {}
    for number, kind in enumerate(KINDS, 1):
        path = tmp_path / f"speech.{kind}"
        is_phones = kind in PHONE_FORMATS
        path.write_bytes(
            phone_file(kind, voice(SECONDS)) if is_phones else written(voice(SECONDS), kind.upper())
        )
        upload(page, path)
        wait_for_reply(page, number)
        (session,) = ours[0].sessions._sessions.values()
        heard[kind] = session.turns[-1].audio_seconds
        assert page.inner_text("#status .fault") == "", kind
    assert heard == pytest.approx(dict.fromkeys(KINDS, SECONDS), abs=0.15)


@pytest.mark.parametrize("text", ["", "你好"])
def test_what_can_not_be_answered_is_told_before_it_is_sent(
    page: playwright.Page, tmp_path: Path, text: str
):
    page.fill("#text", text)
    sounds = {
        "text.wav": (b"hello" * 1000, "text.wav"),
        "long.wav": (written(voice(61), "WAV"), "61.0"),
        "silent.wav": (written(0 * voice(3), "WAV"), "静音"),
        "short.wav": (written(voice(0.1), "WAV"), "半秒"),
        "empty.wav": (b"", "empty.wav"),
    }
    for name, (content, told) in sounds.items():
        path = tmp_path / name
        path.write_bytes(content)
        page.set_input_files("#composer input[type=file]", path)
        page.wait_for_selector(f"#status .fault:has-text('{told}')", timeout=20_000)
    path.write_bytes(written(voice(1), "WAV"))
    upload(page, path)
    wait_for_reply(page)
    assert said(page) == ""


def test_what_is_sent_while_events_are_read_late_is_heard(open_page: Pages, tmp_path: Path):
    """The page learns that the stream in which the sound was prepared is closed after it sent."""
    page, path = open_page(script=READS_LATE), tmp_path / "speech.wav"
    path.write_bytes(written(voice(SECONDS), "WAV"))
    page.wait_for_function("window.numClosed")  # what the page asked for as it was opened
    page.evaluate("window.isLate = true")
    page.set_input_files("#composer input[type=file]", path)
    page.wait_for_selector("#composer .attached .name:has-text('speech')")
    page.wait_for_function("window.keptBack")
    page.click("#send")
    page.wait_for_selector("#chat .bot-row .actions")


def test_what_is_no_sound_is_refused_without_the_servers_places(
    ours: tuple[app.Page, str], page: playwright.Page, tmp_path: Path
):
    for kind in KINDS:
        path = tmp_path / f"broken.{kind}"
        path.write_bytes(b"not a sound at all, but some words")
        upload(page, path)
        page.wait_for_selector("#status .fault:has-text('broken')")
        told = said(page)
        assert str(ours[0].files.folder) not in told and len(told) < 120, told
        page.click("#composer .remove")
