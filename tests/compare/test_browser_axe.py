"""axe-core finds nothing in the tabs beside the conversation, in any theme and language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from axe import violations
from browser import MARKS, new_window, playwright
from fake_model import FakeModel, held
from page_client import served
from rating import opened

from models.load import load_model
from page.limits import Limits

pytestmark = [*MARKS, pytest.mark.parametrize("locale", ["en-US", "zh-CN"])]
# What a list has no room for: of its options, or of a condition's what is chosen.
CUT = """() => [...document.querySelectorAll(".tests select")].flatMap((select) => {
  if (!select.offsetParent) return [];
  const style = getComputedStyle(select);
  const room = select.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = style.font;
  const options = select.closest("fieldset") ? select.selectedOptions : select.options;
  const texts = [...options].map(({ text }) => text);
  return texts.filter((text) => pen.measureText(text).width > room);
})"""
NARROW = {"width": 390, "height": 844}


class TwoTones(FakeModel):
    """Answers warmly and calmly in turn, as a test of tones needs it."""

    styles = ("calm", "warm")

    def chunk(self, frame, *rest):
        chunk = super().chunk(frame, *rest)
        return type(chunk)(**{**vars(chunk), "style": self.styles[self.num_replies % 2]})


@pytest.fixture(scope="module")
def model() -> TwoTones:
    return TwoTones(num_frames=8)


@pytest.fixture(scope="module")
def url(model: TwoTones) -> Iterator[str]:
    with served(model) as (_, address):
        yield address


@pytest.fixture(scope="module")
def tiny_url() -> Iterator[str]:
    with served(load_model("tiny"), Limits(reply_seconds=1)) as (_, address):
        yield address


def fits(page: playwright.Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def begin(page: playwright.Page, link: str) -> playwright.Page:
    rating = new_window(page.context, **NARROW)
    rating.goto(link)
    rating.fill(".tests input[autocomplete=nickname]", "Ann")
    rating.click(".tests form .primary")
    rating.wait_for_selector(".trial .play")
    return rating


def test_listening_tests_from_building_to_results(context, url: str, model: TwoTones, locale: str):
    page = opened(context(locale), url, **NARROW)
    found = violations(page, "to be built")
    page.select_option(".tests section select >> nth=1", "folder")
    found += violations(page, "of a folder")
    page.select_option(".tests section select >> nth=1", "made")
    with held(model):
        page.click(".tests section .primary >> nth=0")
        page.wait_for_selector(".tests section progress")
        found += violations(page, "being built")
        assert fits(page)
    page.wait_for_selector(".built h2")
    page.evaluate("document.querySelector('.built').replaceChildren()")
    for kind in ("mos", "ab", "abx", "mushra", "emotion"):
        page.select_option(".tests section select >> nth=0", kind)
        page.click(".tests section .primary >> nth=0")
        page.wait_for_selector(".built h2")
        if kind in ("mos", "mushra"):
            found += violations(page, f"{kind} built")
        assert fits(page), kind
        rating = begin(page, page.input_value(".built input >> nth=0"))
        if kind == "mushra":  # one of its sounds goes on until another one is chosen
            rating.click(".trial .play >> nth=0")
            rating.wait_for_selector(".trial .play.playing")
        found += violations(rating, f"{kind} asked")
        assert fits(rating), kind
        rating.close()
        page.evaluate("document.querySelector('.built').replaceChildren()")
    page.click("#compare [role=tab]:nth-child(2)")
    page.click(".tests form .primary")
    page.wait_for_selector(".tests section:not([hidden]) .line.fault")
    found += violations(page, "asked for a code, none given")
    assert found == []


def test_results(context, url: str, locale: str):
    page = opened(context(locale), url, **NARROW)
    page.click(".tests section .primary >> nth=0")
    page.wait_for_selector(".built h2")
    page.click(".built .primary")
    page.fill(".tests input[autocomplete=nickname]", "Ann")
    page.click(".tests form .primary")
    for number in range(3):
        page.wait_for_function(f"document.querySelector('.trial progress')?.value === {number}")
        for play in page.query_selector_all(".trial .play"):
            play.click()
        page.check(".trial input[value='0']")
        page.click(".trial .primary")
    page.wait_for_selector(".trial .done")
    assert violations(page, "all rated") == [] and fits(page)
    page.click("#compare [role=tab]:last-child")
    page.click("#compare .files .link")
    page.wait_for_selector(".plot")
    page.click(".tests details summary >> nth=0")
    assert violations(page, "results") == [] and fits(page)
    letters = page.evaluate("document.querySelector('.plot text').getBoundingClientRect().height")
    assert letters > 12  # as large as the text around it, on a phone, too
    narrow = page.evaluate("document.querySelector('.plot').viewBox.baseVal.width")
    page.set_viewport_size({"width": 844, "height": 390})  # it is turned
    page.wait_for_function(
        "narrow => document.querySelector('.plot').viewBox.baseVal.width > narrow", arg=narrow
    )


def test_the_look_inside(context, tiny_url: str, locale: str, tmp_path: Path):
    soundfile.write(tmp_path / "p.wav", 0.2 * np.sin(np.arange(16_000) * 0.1), 16_000)
    page = opened(context(locale), tiny_url, "inspect", **NARROW)
    found = violations(page, "empty")
    page.click("#inspect .primary >> nth=-1")
    page.wait_for_selector("#inspect .line.fault")
    found += violations(page, "fault")
    page.set_input_files("#inspect input[type=file]", tmp_path / "p.wav")
    page.wait_for_selector(".inspect .hint:has-text('p.wav')")
    page.fill("#inspect textarea", "你好")
    page.click("#inspect .primary >> nth=-1")
    page.wait_for_function("document.querySelectorAll('.inspect .tokens').length === 3")
    found += violations(page, "looked at")
    assert found == [] and fits(page)


def test_a_look_under_way(context, url: str, model: TwoTones, locale: str):
    page = opened(context(locale), url, "inspect", **NARROW)
    page.fill("#inspect textarea", "你好")
    with held(model):
        page.click("#inspect .primary >> nth=-1")
        page.wait_for_selector("#inspect progress")
        found = violations(page, "under way")
        assert fits(page)
    page.wait_for_selector("#inspect .said-text")
    found += violations(page, "of a model without codes")
    assert found == [] and fits(page)


def test_what_is_chosen_is_read_whole(context, url: str, locale: str):
    page, cut = opened(context(locale), url), []
    for width in (360, 390, 640, 768, 1024, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        cut += [f"{text} at {width}" for text in page.evaluate(CUT)]
        assert fits(page)
    assert cut == []
