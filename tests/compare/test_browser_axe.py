"""axe-core finds nothing in the tabs beside the conversation, in any theme and language."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import MARKS
from fake_model import FakeModel
from page_client import served
from rating import opened, violations

from models.load import load_model
from page.limits import Limits

pytestmark = [
    *MARKS,
    pytest.mark.parametrize("scheme", ["light", "dark"]),
    pytest.mark.parametrize("locale", ["en-US", "zh-CN"]),
]


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_a_listening_test_from_building_to_results(
    context, locale: str, scheme: str, tmp_path: Path
):
    with served(FakeModel(num_frames=8), data_folder=tmp_path) as (_, url):
        page = opened(context(locale, 390, color_scheme=scheme), url)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(page) == []
        page.click(".tests .primary")
        page.wait_for_selector(".built h2")
        assert violations(page) == []
        page.click(".built .primary")
        page.fill(".tests input[autocomplete=nickname]", "Ann")
        page.click(".tests form .primary")
        page.wait_for_selector(".trial .play")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for play in page.query_selector_all(".trial .play"):
            play.click()
        page.check(".trial input[value='0']")
        page.click(".trial .primary")
        page.click("#compare [role=tab]:last-child")
        page.click("#compare .files .link")
        page.wait_for_selector(".plot")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Of two prompts, for copies and recordings."""
    paths = [tmp_path / f"{name}.wav" for name in "pq"]
    for path in paths:
        soundfile.write(path, 0.2 * np.sin(np.arange(16_000) * 0.1), 16_000)
    return paths


def test_every_kind_of_question(context, locale: str, scheme: str):
    class TwoTones(FakeModel):
        styles = ("calm", "warm")

        def chunk(self, frame, *rest):
            chunk = super().chunk(frame, *rest)
            return type(chunk)(**{**vars(chunk), "style": self.styles[self.num_replies % 2]})

    with served(TwoTones(num_frames=8)) as (_, url):
        maker, rater = (context(locale, width, color_scheme=scheme) for width in (1280, 390))
        page = opened(maker, url)
        for kind in ("ab", "abx", "mushra", "emotion"):
            page.select_option(".tests section select >> nth=0", kind)
            assert violations(page) == [], kind
            page.click(".tests section .primary >> nth=0")
            page.wait_for_selector(".built h2")
            link = page.input_value(".built input >> nth=0")
            rating = rater.new_page()
            rating.goto(link)
            rating.fill(".tests input[autocomplete=nickname]", "Ann")
            rating.click(".tests form .primary")
            rating.wait_for_selector(".trial .play")
            assert violations(rating) == [], kind
            assert rating.evaluate("document.documentElement.scrollWidth") <= 390
            rating.close()
            page.evaluate("document.querySelector('.built').hidden = true")


def test_the_look_inside(context, tiny, locale: str, scheme: str, recordings: list[Path]):
    with served(tiny, Limits(reply_seconds=1)) as (_, url):
        page = opened(context(locale, 1280, color_scheme=scheme), url, "inspect")
        assert violations(page) == []
        page.set_input_files("#inspect input[type=file]", recordings[0])
        page.wait_for_selector(".inspect .hint:has-text('p.wav')")
        page.fill("#inspect textarea", "你好")
        page.click("#inspect .primary >> nth=-1")
        page.wait_for_function("document.querySelectorAll('.inspect .tokens').length === 3")
        assert violations(page) == []
