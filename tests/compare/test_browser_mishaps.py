"""What is seen in a browser whose calls are refused, or whose files are not taken or come late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import MARKS, new_window, playwright
from fake_model import FakeModel
from page_client import served
from rating import build, opened, score

import app
from page.limits import Limits

pytestmark = MARKS
LIMIT = 200_000
NOTICES = "[...document.querySelectorAll('.toast-message-text')].map((one) => one.innerText)"


@pytest.fixture(scope="module")
def ours() -> Iterator[tuple[app.Page, str]]:
    with served(FakeModel(num_frames=8), Limits(max_upload_bytes=LIMIT)) as page:
        yield page


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One that may be uploaded, and one that is too large."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, seconds in (("good", 1), ("large", 8)):
        soundfile.write(folder / f"{name}.wav", np.zeros(16_000 * seconds), 16_000)
    return folder / "good.wav", folder / "large.wav"


def hear_and_choose(page: playwright.Page) -> None:
    for play in page.query_selector_all(".trial .play"):
        play.click()
    score(3)(page)


def told(page: playwright.Page) -> None:
    """Wait for the notice that a call failed, and close it."""
    page.wait_for_selector(".toast-message-text")
    page.evaluate("document.querySelectorAll('.toast-close').forEach((one) => one.click())")
    page.wait_for_selector(".toast-body", state="detached")


def test_a_rating_that_is_refused_is_given_again(context, ours: tuple[app.Page, str]):
    ours_page, url = ours
    code, _ = build(opened(context(), url), "mos", "one\ntwo")
    page = new_window(context())
    page.goto(f"{url}?test={code}")
    page.get_by_label("Your name").fill("Ann")
    ours_page.calls.is_ending = True
    page.click("text=Begin")
    told(page)
    assert page.query_selector(".tests .line:has-text('Loading')") is None
    ours_page.calls.is_ending = False
    page.click("text=Begin")
    page.wait_for_selector(".trial .play")
    hear_and_choose(page)
    ours_page.calls.is_ending = True
    page.click("text=Next")
    told(page)
    ours_page.calls.is_ending = False
    assert page.is_enabled("text=Next")
    assert page.evaluate("document.activeElement.innerText") == "Next"
    page.click("text=Next")
    page.wait_for_selector(".trial .count:has-text('2 of 4')")
    page.route("**/file=**", lambda route: route.fulfill(status=503))
    hear_and_choose(page)
    page.click("text=Next")
    page.wait_for_selector(".tests .line.fault:has-text('press Begin')")
    page.unroute("**/file=**")
    page.click("text=Begin")
    page.wait_for_selector(".trial .count:has-text('3 of 4')")


def test_a_file_that_is_not_taken_is_told_in_the_pages_language(
    context, ours: tuple[app.Page, str], sounds: tuple[Path, Path]
):
    page, (good, large) = new_window(context("zh-CN")), sounds
    page.goto(ours[1])
    page.wait_for_selector("#hands-free[data-state]")
    for file in ("#composer input[type=file]", ".bar input[type=file]"):
        page.set_input_files(file, large)
        page.wait_for_selector(
            "#status .fault:has-text('large.wav 有 256044 字节，最多允许 200000')"
        )
        page.context.set_offline(True)
        page.set_input_files(file, good)
        page.wait_for_selector("#status .fault:has-text('连接不上服务器，good.wav 没有上传')")
        page.context.set_offline(False)
    page.click("#inspect-tab-button")
    page.set_input_files("#inspect input[type=file]", large)
    page.wait_for_selector("#inspect .fault:has-text('large.wav 有 256044 字节')")
    page.click("#compare-tab-button")
    page.set_input_files(".tests input[multiple]", [large, good, large])
    page.wait_for_selector(".tests .fault:has-text('large.wav 有 256044 字节')")
    assert page.inner_text(".tests .fault").count("large.wav") == 2
    assert [one.inner_text() for one in page.query_selector_all(".files li span")] == ["good.wav"]
    assert not any("Connection" in text for text in page.evaluate(NOTICES))


def test_what_is_named_is_looked_at(context, ours: tuple[app.Page, str], sounds: tuple[Path, Path]):
    page = opened(context(), ours[1], "inspect")
    page.evaluate(
        """() => {
          const ask = window.inspectAsk;
          window.looked = [];
          window.inspectAsk = (value) => { window.looked.push(value.path); ask(value); };
        }"""
    )
    hint = ".inspect .buttons .hint"
    page.select_option(".inspect select", index=1)
    held = []
    page.route("**/upload*", lambda route: held.append(route))
    page.set_input_files("#inspect input[type=file]", sounds[0])
    page.wait_for_selector(f"{hint}:has-text('good.wav')")
    page.click("text=Look at the sound")
    assert page.evaluate("window.looked") == [] and page.is_disabled("text=Look at the sound")
    held[0].continue_()
    page.unroute("**/upload*")
    page.wait_for_selector(".inspect .sound")
    assert page.evaluate("window.looked.at(-1)").endswith("good.wav")
    page.select_option(".inspect select", index=1)
    example = page.inner_text(hint)
    page.click(".inspect button:text-is('Record')")
    page.click(".inspect button:text-is('Stop recording')")
    page.wait_for_selector(f"{hint}:has-text('the recording')")
    assert page.input_value(".inspect select") == ""
    page.click("text=Look at the sound")
    page.wait_for_function("window.looked.length === 2")
    page.wait_for_selector("#inspect .primary:enabled")
    assert "recording" in page.evaluate("window.looked.at(-1)")
    page.route("**/upload*", lambda route: held.append(route))
    page.set_input_files("#inspect input[type=file]", sounds[0])
    page.wait_for_selector("#inspect .line:has-text('Uploading')")
    page.select_option(".inspect select", index=1)
    assert page.inner_text(hint) == example and page.inner_text("#inspect .line") == ""


def test_a_test_that_is_deleted_is_shown_nowhere(context, ours: tuple[app.Page, str]):
    page = opened(context(), ours[1])
    build(page, "mos", "one")
    page.click(".built .primary")
    page.get_by_label("Your name").fill("Ann")
    page.click("text=Begin")
    page.wait_for_selector(".trial .play")
    page.click("#compare [role=tab]:has-text('Results')")
    page.click("#compare .files .link")
    page.wait_for_selector(".tests .stack h2:has-text('My listening test')")
    page.click("text=Delete the test")
    page.click("text=Delete all sounds and ratings?")
    page.wait_for_selector(".line:has-text('The test is deleted.')")
    assert page.evaluate("document.activeElement.tagName") == "INPUT"
    page.click("#compare [role=tab]:has-text('Rate')")
    assert page.is_hidden(".trial") and page.input_value("section:not([hidden]) input") == ""
    page.click("#compare [role=tab]:has-text('Build')")
    assert page.is_hidden(".built")


def test_what_is_removed_passes_the_focus_on(
    context, ours: tuple[app.Page, str], sounds: tuple[Path, Path]
):
    page = opened(context(), ours[1])
    focused = "document.activeElement.ariaLabel ?? document.activeElement.innerText"

    def remove(name: str) -> str:
        page.focus(f"[aria-label='Remove {name}']")
        page.keyboard.press("Enter")
        return page.evaluate(focused)

    found = [remove("A"), remove("B")]
    folder = sounds[0].parent
    names = [f"{name}.wav" for name in "pqr"]
    for name in names:
        (folder / name).write_bytes(sounds[0].read_bytes())
    page.set_input_files(".tests input[multiple]", [folder / name for name in names])
    page.wait_for_selector(".files li:nth-child(3)")
    found += [remove(f"{name}.wav") for name in "qrp"]
    assert found == [
        "Remove B", "Add a condition", "Remove r.wav", "Remove p.wav", "Upload recordings",
    ]  # fmt: skip
