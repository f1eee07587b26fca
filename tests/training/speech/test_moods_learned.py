"""The classifier of voices: it learns moods by how they are said, whatever is said how loud."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import interpolated

from models.prosody import NUM_COLOURS, prosody
from models.westlake.moods import COLOURS, MOODS_FILE, features, read_moods
from training.dialogues import EMOTIONS, UNTOLD
from training.speech import speakers
from training.speech.moods import held_out_share, train_moods
from training.speech.recordings import Line, Recording
from training.speech.speakers import SAMPLE_RATE

HERTZ = dict(zip(EMOTIONS, (150, 210, 110, 290, 400, 80)))


def sung(mood: str, seed: int) -> Recording:
    """A second of a voice that has a pitch of its own in each mood, and sways a little."""
    rng = np.random.default_rng(seed)
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    hertz = HERTZ.get(mood, 500) * rng.uniform(0.97, 1.03)
    phase = 2 * np.pi * hertz * time + rng.uniform(0.5, 2) * np.sin(12 * time)
    wave = sum(np.sin(k * phase) / k for k in range(1, 6)) * (0.2 + np.sin(15 * time) ** 2)
    line = Line(source="talk.hello", text="你好。", manner=mood, seed=seed)
    return Recording(line=line, wave=(4000 * wave).astype(np.int16), onsets=())


@pytest.fixture(scope="module", autouse=True)
def resampler() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(speakers, "_resample", interpolated)
        yield


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moods") / MOODS_FILE
    moods = [*EMOTIONS, UNTOLD]
    recordings = [sung(mood, seed) for mood in moods for seed in range(8)]
    train_moods(recordings, [sung("sad", 9)], path, steps=600)
    return path


def test_moods_are_learned_of_those_that_are_told(learned: Path):
    classifier = read_moods(learned)
    assert classifier.classes == EMOTIONS
    heldout = [sung(mood, seed) for mood in EMOTIONS for seed in range(10, 14)]
    assert held_out_share(classifier, heldout, seed=1) > 0.9
    shifted = [heldout[index - 4].line.manner for index in range(len(heldout))]
    wrong = [replace(r, line=replace(r.line, manner=mood)) for r, mood in zip(heldout, shifted)]
    assert held_out_share(classifier, wrong, seed=1) < 0.1


def test_how_loud_a_microphone_is_tells_little(learned: Path):
    classifier = read_moods(learned)
    for mood in EMOTIONS:
        for gain in (0.5, 1, 2):
            told = features(prosody(gain * sung(mood, 20).wave / 32768, SAMPLE_RATE), 2)
            assert classifier.classes[int(classifier.opinion(told).argmax())] == mood


def test_what_a_microphone_colours_tells_little(learned: Path):
    classifier = read_moods(learned)
    for mood in EMOTIONS:
        for tilt in (-20, 20):  # dB from the lowest band to the highest
            told = features(prosody(sung(mood, 20).wave / 32768, SAMPLE_RATE), 2)
            told[COLOURS] += tilt * torch.linspace(-0.5, 0.5, NUM_COLOURS)
            assert classifier.classes[int(classifier.opinion(told).argmax())] == mood


def test_the_same_seed_learns_the_same(tmp_path: Path):
    recordings, states = [sung(mood, 0) for mood in EMOTIONS], []
    for seed in (0, 0, 1):
        train_moods(recordings, recordings, tmp_path / MOODS_FILE, seed, steps=3)
        states.append(read_moods(tmp_path / MOODS_FILE).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["layers.0.weight"], states[2]["layers.0.weight"])


def test_recordings_of_no_mood_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no recording has a mood"):
        train_moods([sung(UNTOLD, 0)], [], tmp_path / MOODS_FILE)
