"""What a model wrote down of the user's speech, in a browser: shown, kept, and compared."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import MARKS, Pages, playwright, record, wait_for_reply, write
from fake_model import FakeModel, OtherModel
from page_client import served

import app

pytestmark = MARKS
HEARD = "jin tian xin qing bu hao"


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel(num_frames=8)


@pytest.fixture(scope="module")
def ours(model: FakeModel) -> Iterator[tuple[app.Page, str]]:
    other = OtherModel(num_frames=8)
    other.heard = "jing tian"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("page.shelf.load_model", lambda *_: other)
        with served(model, compare_with=["other:float32"]) as page:
            yield page


def speak(page: playwright.Page, number: int = 1) -> None:
    record(page, 1)
    page.click("#send")
    wait_for_reply(page, number)


def lines(page: playwright.Page) -> list[str]:
    return [line.inner_text() for line in page.query_selector_all("#chat .heard")]


def test_a_spoken_turn_tells_what_was_heard_and_is_kept_with_it(
    open_page: Pages, model: FakeModel, tmp_path: Path
):
    model.heard = HEARD
    page = open_page()
    write(page, "你好")
    wait_for_reply(page)
    assert lines(page) == []
    speak(page, 2)
    assert lines(page) == [f"听到：{HEARD}"]
    assert page.query_selector("#chat .bot-row >> nth=1 >> .notes .badge.tone + .heard")
    page.reload()
    page.wait_for_selector("#chat .heard")
    with page.expect_download() as event:
        page.click("#save")
    event.value.save_as(tmp_path / "conversation.zip")
    with zipfile.ZipFile(tmp_path / "conversation.zip") as archive:
        turns = json.loads(archive.read("conversation.json"))["turns"]
    assert [turn["heard"] for turn in turns] == [None, HEARD]
    other = open_page("en-US")
    other.set_input_files("#bar input[type=file]", tmp_path / "conversation.zip")
    other.wait_for_selector("#chat .bot-row >> nth=1")
    assert lines(other) == [f"Heard: {HEARD}"]


def test_each_of_two_compared_models_tells_what_it_heard(open_page: Pages, model: FakeModel):
    model.heard = HEARD
    page = open_page("en-US")
    speak(page)
    page.click(".bot-row .compare")
    page.select_option(".panel select >> nth=0", "other:float32")
    page.click(".panel .primary")
    wait_for_reply(page, 2)
    shown = [row.inner_text() for row in page.query_selector_all("#chat .pair .bot-row")]
    assert f"Heard: {HEARD}" in shown[0] and "Heard: jing tian" in shown[1]


@pytest.mark.parametrize("width", [390, 1280])
def test_what_was_heard_is_text_and_cut_where_it_is_long(
    open_page: Pages, model: FakeModel, width: int
):
    model.heard = "<b>jin</b> $& " + "zhuang " * 64
    page = open_page("en-US", width, 844)
    speak(page)
    line = page.locator("#chat .heard")
    assert line.inner_html().startswith("Heard: &lt;b&gt;jin&lt;/b&gt; $&amp; zhuang ")
    assert line.get_attribute("title") == f"Heard: {model.heard}"
    assert line.evaluate("made => made.scrollHeight > made.clientHeight + 10")
    assert line.bounding_box()["height"] < 50
    assert page.evaluate("document.documentElement.scrollWidth") <= width
