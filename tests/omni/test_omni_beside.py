"""The families side by side: each checkpoint answers what another one was asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from omni_talk import SHORT, picture

from generate import generate_long
from models.audio import to_pcm16
from models.contract import SpeechModel
from models.errors import UserError
from models.load import load_model
from models.omni.sampling import FlowConfig
from page.files import Files
from page.limiter import Limiter
from page.limits import Limits
from page.once_more import beside
from page.session import Session

LIMITS = Limits(reply_seconds=2)
NUM_FRAMES = 5


@pytest.fixture(scope="module")
def families(omni, mini_omni) -> dict[str, SpeechModel]:
    return {"omni": omni, "mini_omni": mini_omni, "westlake": load_model("tiny", dtype="float32")}


@pytest.fixture
def talk(families, tmp_path: Path) -> Iterator[Any]:
    """Opens a session of a family's checkpoint."""
    sessions = []

    def begin(family: str) -> Session:
        limiter, files = Limiter(1, 10.0), Files(tmp_path, LIMITS)
        sessions.append(Session("ann", families[family], files, limiter, LIMITS))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


def options(model: SpeechModel) -> dict[str, Any]:
    sampling = replace(model.sampling, seed=3)
    if hasattr(sampling, "flow"):
        sampling = replace(sampling, flow=FlowConfig(num_steps=2))
    return {"sampling": sampling, "max_new_tokens": NUM_FRAMES}


@pytest.mark.parametrize("own", ["omni", "mini_omni", "westlake"])
def test_any_two_answer_the_same_turn(families, talk, own):
    session, model = talk(own), families[own]
    for _ in range(2):
        list(session.answer(None, SHORT, **options(model)))
    asked = session.turns[-1]
    kept = session.conversation
    for name, other in families.items():
        *_, shown = beside(session, asked.name, other, name, **options(other))
        assert (shown.model, shown.beside, shown.text) == (name, asked.name, SHORT)
        assert shown.knows_before == (name == own)
        sound, rate = soundfile.read(shown.reply_audio, dtype="int16")
        if name == own:
            assert shown.reply == asked.reply
            continue
        chunks = list(generate_long(other, text=SHORT, **options(other)))
        assert shown.reply == "".join(chunk.new_text for chunk in chunks)
        assert rate == other.sample_rate
        wave = np.concatenate([chunk.new_audio for chunk in chunks])
        np.testing.assert_array_equal(sound, to_pcm16(wave))
    assert session.conversation is kept


def test_who_sees_nothing_says_so_beside_a_picture(families, talk, tmp_path: Path):
    picture().save(tmp_path / "shown.png")
    session = talk("omni")
    image = str(tmp_path / "shown.png")
    list(session.answer(None, SHORT, image=image, **options(families["omni"])))
    (asked,) = session.turns
    for name in ("mini_omni", "westlake"):
        other = families[name]
        with pytest.raises(UserError) as caught:
            list(beside(session, asked.name, other, name, **options(other)))
        assert caught.value.code == "error_not_accepted"
    *_, shown = beside(session, asked.name, families["omni"], "omni", **options(families["omni"]))
    assert shown.reply == asked.reply and session.turns == [asked, shown]
