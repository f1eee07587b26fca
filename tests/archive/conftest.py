"""A session, and the file that its conversation was saved as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from archives import LIMITS
from fake_model import FakeModel

from page.archive import write_archive
from page.files import Files
from page.limiter import Limiter
from page.once_more import again
from page.session import Session


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def session(model: FakeModel, tmp_path: Path) -> Iterator[Session]:
    folder = tmp_path / "kept"
    folder.mkdir()
    session = Session("v", model, Files(folder, LIMITS), Limiter(1, 1), LIMITS)
    yield session
    session.close()


@pytest.fixture
def new_file(tmp_path: Path) -> Callable[[str], Path]:
    numbers = iter(range(1000))

    def new_file(name: str) -> Path:
        folder = tmp_path / f"new{next(numbers)}"
        folder.mkdir()
        return folder / name

    return new_file


@pytest.fixture
def saved(session: Session, model: FakeModel, tmp_path: Path) -> Path:
    speech = session.files.new_folder() / "speech.wav"
    samples = 0.2 * np.sin(np.arange(16_000) * 0.1)
    samples[np.arange(16_000) % 4000 > 2500] = 0
    soundfile.write(speech, samples, 16_000)
    session.files.add(speech, "v")
    model.heard = "di er ju"
    list(session.answer(None, "第一句"))
    list(session.answer(str(speech), "第二句"))
    list(again(session, session.turns[1].name))
    session.turns[0].rating = 1
    path = tmp_path / "conversation.zip"
    write_archive(path, model, session.turns, session.transcript.state, {"style": ""}, LIMITS)
    return path
