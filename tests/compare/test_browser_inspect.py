"""The look inside in a real browser: what is shown of a sound and of a turn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import MARKS
from fake_model import FakeModel
from page_client import served
from PIL import Image
from rating import opened

from models.audio import load_audio
from models.load import load_model
from page.limits import Limits

pytestmark = MARKS


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    t = np.arange(24_000) / 16_000
    wave = 0.2 * np.sin(2 * np.pi * 200 * t) * (0.05 + np.sin(2 * np.pi * 2 * t) ** 2)
    soundfile.write(path, wave, 16_000)
    return path


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_inspect_shows_a_sound_its_copy_and_the_turn(context, tiny, speech: Path):
    with served(tiny, Limits(reply_seconds=1)) as (_, url):
        page = opened(context(), url, "inspect", theme="dark")
        page.click("text=Look at the sound")
        assert "nothing to look at" in page.wait_for_selector(".line.fault").inner_text()
        with page.expect_file_chooser() as chooser:
            page.click("text=Upload a sound")
        chooser.value.set_files(speech)
        page.wait_for_selector(".inspect .hint:has-text('speech.wav')")
        page.click("text=Let the model answer")
        page.wait_for_function("document.querySelectorAll('.inspect .tokens').length === 3")
        titles = [head.inner_text() for head in page.query_selector_all(".inspect h2")]
        assert titles == [
            "The sound", "Its copy", "Its codes", "How the model reads the turn", "The reply",
            "The reply's sound", "Timings", "What the reply is made of",
        ]  # fmt: skip
        codes = tiny.encode(load_audio(speech).samples, 16_000)
        rows = page.query_selector_all(".inspect .tokens")[0].query_selector_all("tr")[1:]
        shown = [[int(cell.inner_text()) for cell in row.query_selector_all("td")] for row in rows]
        np.testing.assert_array_equal(shown, codes)
        facts = dict(
            [cell.inner_text() for cell in row.query_selector_all("th, td")]
            for row in page.query_selector_all(".inspect table:not(.tokens) tr")
        )
        assert facts["Frames"] == str(round(tiny.frame_rate))
        assert float(facts["First token"].split()[0]) <= float(facts["First sound"].split()[0])
        sounds = page.query_selector_all(".inspect audio")
        assert len(sounds) == 3
        picture = Image.open(io.BytesIO(sounds[0].screenshot())).convert("L")
        assert np.median(np.asarray(picture)) < 110  # a dark player on a dark page
        for sound in sounds:
            path = sound.get_attribute("src")
            assert page.request.get(url.rstrip("/") + path).body()[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("seconds", "loudness", "told"),
    [
        (0.1, 0.2, ["How lively it is can't be told: less than a third of a second of it"]),
        (1.0, 0.0, ["None of it has a pitch.", "How lively it is can't be told: less than"]),
    ],
)
def test_inspect_tells_what_a_sound_has_too_little_of(
    context, tmp_path: Path, seconds: float, loudness: float, told: list[str]
):
    wave = loudness * np.sin(2 * np.pi * 200 * np.arange(int(16_000 * seconds)) / 16_000)
    soundfile.write(tmp_path / "short.wav", wave, 16_000)
    with served(FakeModel(num_frames=8)) as (_, url):
        page = opened(context(), url, "inspect")
        page.set_input_files("#inspect input[type=file]", tmp_path / "short.wav")
        page.wait_for_selector(".inspect .hint:has-text('short.wav')")
        page.click("text=Look at the sound")
        page.wait_for_selector(".sound .hint:has-text('How lively')")
        hints = page.locator(".sound .hint").all_inner_texts()[2:]
        assert [hint[: len(begin)] for hint, begin in zip(hints, told, strict=True)] == told


def test_inspect_does_without_a_codec(context, speech: Path):
    model = FakeModel(num_frames=8)
    model.heard = "jin tian"
    with served(model) as (_, url):
        page = opened(context("zh-CN"), url, "inspect", width=390, height=844)
        with page.expect_file_chooser() as chooser:
            page.click("text=上传声音")
        chooser.value.set_files(speech)
        page.wait_for_selector(".inspect .hint:has-text('speech.wav')")
        page.click("text=查看声音")
        page.wait_for_selector(".inspect .hint:has-text('没有可复制声音的编解码器')")
        page.click("text=让模型回答")
        page.wait_for_selector(".inspect .said-text:has-text('好好好好好好好好')")
        told = page.inner_text(".inspect .said-text + .hint")
        assert "听起来: 难过 · 语气: 沉静" in told and told.endswith("听到：jin tian")
        assert page.query_selector(".inspect .tokens") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
