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
