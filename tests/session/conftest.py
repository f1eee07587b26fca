"""A session of a visitor, whose files are gone in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_model import FakeModel
from visiting import LIMITS, NewSession

from page.files import Files
from page.limiter import Limiter
from page.session import Session


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, LIMITS)


@pytest.fixture
def new_session(model: FakeModel, files: Files) -> Iterator[NewSession]:
    sessions = []

    def new_session() -> Session:
        limiter = Limiter(LIMITS.max_replies, LIMITS.wait_seconds)
        sessions.append(Session(f"v{len(sessions)}", model, files, limiter, LIMITS))
        return sessions[-1]

    yield new_session
    for session in sessions:
        session.close()
    assert list(files.folder.iterdir()) == []


@pytest.fixture
def session(new_session: NewSession) -> Session:
    return new_session()
