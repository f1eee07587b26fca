"""What is attached in a real browser: uploads, recordings and examples, whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from browser import (
    ATTACHED,
    MARKS,
    Pages,
    bubbles,
    playwright,
    record,
    said,
    wait_for_reply,
    wait_until_silent,
    write,
)
from fake_model import FakeModel, held
from sounds import voice, written
from strangers import wait_until

import app
from models.errors import UserError

pytestmark = MARKS
DROP = """files => {
  const dataTransfer = new DataTransfer();
  for (const [name, type] of files) dataTransfer.items.add(new File([name], name, { type }));
  const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
  document.querySelector("#text").dispatchEvent(event);
}"""
EXAMPLE = ".examples.sounds button >> nth=0"
EXAMPLES = "**/file=**/examples/*"
RECORD_IN_INSPECT = "#inspect .buttons >> nth=0 >> .plain >> nth=1"
LOOK = "#inspect .buttons:has(.primary) .plain"
SAYS_UPLOADING = "document.querySelector('#status .said').textContent === 'Uploading'"


class SeeingModel(FakeModel):
    accepts = frozenset({"audio", "text", "image", "video"})


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return SeeingModel()


@pytest.fixture(autouse=True)
def as_it_was(model: FakeModel) -> None:
    model.__init__(num_frames=25, frame_seconds=0.01)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(written(voice(1), "WAV"))
    return path


class Uploads:
    """A page's uploads, or other requests, each of which waits until it is let go."""

    def __init__(self, page: playwright.Page, address: str = "**/upload*") -> None:
        self.page, self.waiting = page, []
        page.route(address, lambda route: self.waiting.append(route))

    def wait(self, number: int = 1) -> list[playwright.Route]:
        """So many that have begun, and wait no more here."""
        for _ in range(500):
            if len(self.waiting) == number:
                break
            self.page.wait_for_timeout(20)
        begun = self.waiting.copy()
        self.waiting.clear()
        assert len(begun) == number
        return begun

    def let_go(self, number: int = 1) -> None:
        for route in self.wait(number):
            route.continue_()


def test_stop_ends_what_waits_for_an_upload(open_page: Pages, sound: Path, tmp_path: Path):
    page = open_page("en-US")
    uploads = Uploads(page)
    (tmp_path / "wrong.zip").write_bytes(b"PK nothing")
    page.fill("#text", "hello")
    for field, path in (("#composer", sound), ("#bar", tmp_path / "wrong.zip")):
        page.set_input_files(f"{field} input[type=file]", path)
        (upload,) = uploads.wait()
        if field == "#composer":
            page.click("#send")
        page.click("#stop")
        page.wait_for_selector("#status .said:has-text('Stopped')")
        with page.expect_response("**/upload*"):
            upload.continue_()
        page.wait_for_timeout(300)
        assert said(page) == "Stopped"
    assert page.input_value("#text") == "hello"
    assert page.query_selector("#chat .row") is None


def test_a_refused_stop_leaves_nothing_told_that_has_ended(
    open_page: Pages, ours: tuple[app.Page, str], sound: Path
):
    page = open_page("en-US")
    uploads = Uploads(page)
    ours[0].calls.is_ending = True
    try:
        for field, end in (("#composer", "#stop"), ("#bar", "#stop"), ("#bar", "#new")):
            page.set_input_files(f"{field} input[type=file]", sound)
            (upload,) = uploads.wait()
            assert "Uploading" in said(page)
            page.click(end)
            assert said(page) == "" and page.is_hidden("#stop")
            upload.abort()
        record(page, 1)
        page.keyboard.press("Escape")
        assert said(page) == ""
    finally:
        ours[0].calls.is_ending = False


def test_hands_free_talk_ends_what_waits_for_an_upload(open_page: Pages, sound: Path):
    page = open_page("en-US")
    uploads = Uploads(page)
    page.evaluate("""() => {
      window.asked = [];
      window.pageMicrophone.open = async () => null;
      for (const name of ["load", "answer"]) window.pageAsk[name] = () => window.asked.push(name);
    }""")
    page.fill("#text", "hello")
    for field in ("#composer", "#bar"):
        page.set_input_files(f"{field} input[type=file]", sound)
        (upload,) = uploads.wait()
        if field == "#composer":
            page.click("#send")
        page.click("#hands-free")
        with page.expect_response("**/upload*"):
            upload.continue_()
        page.wait_for_timeout(300)
        assert page.evaluate("window.asked") == [], field
        page.click("#hands-free")


def test_what_is_replaced_while_it_is_uploaded_is_sent_as_it_is_then(
    open_page: Pages, sound: Path, tmp_path: Path
):
    page = open_page("en-US")
    uploads = Uploads(page)
    other = tmp_path / "other.wav"
    other.write_bytes(written(voice(3), "WAV"))
    for number, is_first_first in enumerate((True, False), 1):
        page.fill("#text", "hello")
        page.set_input_files("#composer input[type=file]", sound)
        (first,) = uploads.wait()
        page.click("#send")
        page.set_input_files("#composer input[type=file]", other)
        (second,) = uploads.wait()
        for upload in (first, second) if is_first_first else (second, first):
            with page.expect_response("**/upload*"):
                upload.continue_()
            page.wait_for_timeout(100)
        wait_for_reply(page, number)
        assert page.inner_text(f".user-row >> nth={number - 1} >> .time") == "0:03"


def test_nothing_is_sent_of_which_a_part_did_not_come(open_page: Pages, sound: Path):
    page = open_page("en-US")
    uploads = Uploads(page)
    page.fill("#text", "hello")
    page.set_input_files("#composer input[type=file]", sound)
    (upload,) = uploads.wait()
    page.click("#send")
    upload.fulfill(status=413, body="too large")
    page.wait_for_selector("#status .fault:has-text('413')")
    page.wait_for_timeout(300)
    assert "413" in said(page) and bubbles(page, "user") == []
    record(page, 1)
    page.click("#send")
    (upload,) = uploads.wait()
    upload.abort()
    page.wait_for_selector(ATTACHED.format("audio"))
    told = said(page)
    page.wait_for_timeout(300)
    assert told and said(page) == told and bubbles(page, "user") == []
    assert page.input_value("#text") == "hello"
    calls = []
    page.on("request", lambda request: calls.append(request.url))
    page.fill("#text", "")
    page.click("#send")
    uploads.let_go()
    wait_for_reply(page)
    assert sum("/queue/join" in url for url in calls) == 1  # nothing prepares what is on its way
    assert page.query_selector("#chat .user-row .sound")
    assert said(page) == ""


def test_of_an_example_and_a_file_what_was_chosen_last_is_sent(open_page: Pages, sound: Path):
    page = open_page("en-US")
    uploads, examples = Uploads(page), Uploads(page, EXAMPLES)
    for is_example_last in (True, False):
        choose = [
            lambda: page.set_input_files("#composer input[type=file]", sound),
            lambda: page.click(EXAMPLE),
        ]
        for one in choose if is_example_last else reversed(choose):
            one()
        (upload,), (example,) = uploads.wait(), examples.wait()
        first, last = (upload, example) if is_example_last else (example, upload)
        for request in (last, first):
            with page.expect_response(request.request.url):
                request.continue_()
            page.wait_for_selector(ATTACHED.format("audio"))
            page.wait_for_timeout(100)
            is_file = page.inner_text(f"{ATTACHED.format('audio')} .name") == sound.name
            assert is_file is not is_example_last
        assert said(page) == ""
        page.click("#composer .attached[data-kind=audio] .remove")
    page.set_input_files("#composer input[type=file]", sound)
    page.click(EXAMPLE)
    page.click("#send")
    page.wait_for_timeout(100)
    assert said(page) == "Fetching the example" and page.query_selector("#chat .row") is None
    examples.let_go()
    wait_for_reply(page)
    assert page.inner_text(".user-row .time") > "0:01"
    uploads.let_go()
    page.wait_for_timeout(300)
    assert page.query_selector(ATTACHED.format("audio")) is None


def test_an_example_that_does_not_come_is_told_and_nothing_is_sent(open_page: Pages):
    page = open_page("en-US")
    examples = Uploads(page, EXAMPLES)
    page.fill("#text", "hello")
    for end in (lambda one: one.abort(), lambda one: one.fulfill(status=503, body="busy")):
        page.click(EXAMPLE)
        page.click("#send")
        (example,) = examples.wait()
        end(example)
        page.wait_for_selector("#status .fault:has-text('example could not be fetched')")
        assert page.is_hidden("#stop") and page.query_selector(ATTACHED.format("audio")) is None
    page.wait_for_timeout(300)
    assert bubbles(page, "user") == []


@pytest.mark.parametrize(
    ("locale", "again", "look"), [("en-US", "Send", "Look at"), ("zh-CN", "发送", "查看声音")]
)
def test_a_recording_that_could_not_be_uploaded_is_kept_for_another_try(
    open_page: Pages, sound: Path, locale: str, again: str, look: str
):
    page = open_page(locale)
    uploads = Uploads(page)
    record(page, 1)
    page.click("#composer .record")
    (upload,) = uploads.wait()
    upload.abort()
    page.wait_for_selector(f"#status .fault:has-text('“{again}')")
    assert page.query_selector(ATTACHED.format("audio"))
    page.click("#inspect-tab-button")
    page.set_input_files("#inspect input[type=file]", sound)
    (replaced,) = uploads.wait()
    page.click(LOOK)
    page.click(RECORD_IN_INSPECT)
    page.wait_for_timeout(1000)
    page.click(RECORD_IN_INSPECT)
    (upload,) = uploads.wait()
    upload.abort()
    page.wait_for_selector(f"#inspect .fault:has-text('“{look}')")
    replaced.continue_()
    page.wait_for_selector(f"{LOOK}:not(:disabled)")
    assert look in page.inner_text("#inspect .fault")
    page.click(LOOK)
    uploads.let_go()
    page.wait_for_selector("#inspect .sound audio")


def test_a_recording_that_is_removed_while_it_is_sent_again_is_not_sent(open_page: Pages):
    page = open_page("en-US")
    uploads = Uploads(page)
    record(page, 1)
    page.click("#composer .record")
    (upload,) = uploads.wait()
    upload.abort()
    page.wait_for_selector(ATTACHED.format("audio"))
    page.fill("#text", "hello")
    page.click("#send")
    (upload,) = uploads.wait()
    page.click("#composer .attached[data-kind=audio] .remove")
    wait_for_reply(page)
    assert page.inner_text(".user-row .text") == "hello"
    assert page.query_selector(".user-row .sound") is None
    with page.expect_response("**/upload*"):
        upload.continue_()
    page.wait_for_timeout(100)
    assert page.query_selector(ATTACHED.format("audio")) is None and said(page) == ""


@pytest.mark.parametrize("field", ["#composer", "#bar"])
def test_an_upload_that_outlasts_a_reply_is_told_and_can_be_stopped(
    open_page: Pages, model: FakeModel, sound: Path, field: str
):
    page = open_page("en-US")
    uploads = Uploads(page)
    model.num_frames = 3
    with held(model):
        write(page, "hello")
        page.wait_for_selector("#status:has-text('Thinking')")
        page.set_input_files(f"{field} input[type=file]", sound)
        (upload,) = uploads.wait()
    page.wait_for_selector("#chat .bot-row .actions")
    wait_until_silent(page)
    page.wait_for_function(SAYS_UPLOADING)
    assert page.is_visible("#stop")
    page.evaluate("window.pageStatus('fault', 'not_copied')")
    assert said(page) != "Uploading" == page.inner_text("#status .said")
    if field == "#composer":
        page.evaluate("window.pageStatus('note', 'copied')")
        page.click("#send")
        assert said(page) == "Uploading" and page.is_visible("#stop")
    page.click("#stop")
    page.wait_for_selector("#status .said:has-text('Stopped')")
    assert page.is_hidden("#stop")
    upload.continue_()
    page.wait_for_timeout(300)
    assert len(bubbles(page, "user")) == 1 and said(page) == "Stopped"


def test_why_the_server_refused_an_upload_is_told_in_its_own_words(
    open_page: Pages, ours: tuple[app.Page, str], sound: Path, monkeypatch
):
    def refuse() -> Path:
        raise UserError("error_no_room")

    page = open_page("en-US")
    monkeypatch.setattr(ours[0].files, "new_folder", refuse)
    for field in ("#composer", "#bar"):
        page.set_input_files(f"{field} input[type=file]", sound)
        page.wait_for_selector("#status .fault:has-text('no room')")
        assert said(page).casefold().startswith("the server has no room")
        page.evaluate("window.pageStatus('')")


def test_what_is_attached_together_is_kept_together(open_page: Pages, sound: Path):
    page = open_page("en-US")
    uploads = Uploads(page)
    page.set_input_files("#composer input[type=file]", sound)
    page.evaluate(DROP, [["a.png", "image/png"], ["b.mp4", "video/mp4"]])
    uploads.let_go(3)
    for kind in ("audio", "image", "video"):
        page.wait_for_selector(ATTACHED.format(kind))
    assert said(page) == ""
    page.evaluate(DROP, [["one.mp4", "video/mp4"], ["two.mp4", "video/mp4"]])
    uploads.let_go()
    page.wait_for_selector("#status .fault:has-text('one file of a kind')")
    page.wait_for_selector(f"{ATTACHED.format('video')}:has-text('two.mp4')")
    page.evaluate(DROP, [["c.png", "image/png"], ["d.png", "image/png"]])
    (upload,) = uploads.wait()
    upload.fulfill(status=413, body="too large")
    page.wait_for_selector("#status .fault:has-text('413')")
    page.wait_for_timeout(100)
    assert "413" in said(page)


@pytest.mark.parametrize("after", ["it was removed", "it was replaced", "nothing"])
def test_that_nothing_can_be_answered_in_a_recording_is_told_while_it_is_attached(
    open_page: Pages, sound: Path, monkeypatch, after: str
):
    looked, end = [], threading.Event()

    def look(*given) -> None:
        looked.append(given)
        if len(looked) == 1:
            end.wait(60)
            raise UserError("error_silent")

    monkeypatch.setattr("page.talking.read_speech", look)
    page = open_page("en-US")
    page.set_input_files("#composer input[type=file]", sound)
    wait_until(lambda: looked)
    if after == "it was removed":
        page.click("#composer .attached[data-kind=audio] .remove")
    elif after == "it was replaced":
        page.set_input_files("#composer input[type=file]", sound)
        wait_until(lambda: len(looked) == 2)
    end.set()
    if after == "nothing":
        page.wait_for_selector("#status .fault:has-text('no speech was heard')")
    page.wait_for_timeout(300)
    assert bool(said(page)) is (after == "nothing")


def test_a_microphone_that_was_taken_away_is_told(open_page: Pages):
    page = open_page("en-US")
    record(page, 1)
    page.evaluate("window.tracks.forEach((track) => track.dispatchEvent(new Event('ended')))")
    page.wait_for_selector(ATTACHED.format("audio"))
    assert "taken away" in said(page)
