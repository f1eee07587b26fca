"""The embedded checkpoint in a real browser: what it says, sample by sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import (
    MARKS,
    Pages,
    attach_recording,
    download,
    wait_for_reply,
    wait_until_silent,
    write,
)

from models.contract import SpeechModel
from models.load import load_model
from page.limits import Limits

pytestmark = MARKS
LIMITS = Limits(reply_seconds=2)


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    return load_model("tiny")


def test_a_recording_is_answered_and_played_exactly(open_page: Pages, tmp_path: Path):
    page = open_page()
    attach_recording(page)
    page.click("#send")
    wait_for_reply(page)
    played = page.evaluate("window.played")
    samples = np.concatenate([piece["samples"] for piece in played])
    np.testing.assert_array_equal(samples, download(page, tmp_path))
    assert {piece["rate"] for piece in played} == {22050}
    for before, after in zip(played, played[1:]):
        assert after["first"] >= before["first"] + len(before["samples"])
    assert page.query_selector("#chat .user-row .sound")
    assert page.query_selector("#composer .attached[hidden]")  # it was taken


def test_a_style_is_forced_and_a_seed_repeats_a_reply_exactly(open_page: Pages, tmp_path: Path):
    page = open_page()
    page.click("#advanced button")
    page.fill("#seed input", "7")
    page.press("#seed input", "Tab")
    sounds = {}
    for style in ("安慰", "欢快", "安慰"):
        page.click(f"#style label:has-text('{style}')")
        write(page, "我并不喜欢现在的工作。")
        wait_for_reply(page)
        wait_until_silent(page)
        assert page.inner_text(".bot-row .badge .word") == style
        assert page.inner_text(".bot-row .seed").endswith(" 7")
        sound = download(page, tmp_path)
        np.testing.assert_array_equal(sound, sounds.setdefault(style, sound))
        page.click("#new")
        page.wait_for_function("!document.querySelector('#chat .row')")
    assert not np.array_equal(*sounds.values())
