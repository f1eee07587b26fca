"""Samples of a listening test: from a folder, or made, and made again."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_model import FakeModel
from small import small_model
from small_listening import new

from listening.folder import read_folder
from listening.limits import TestLimits
from listening.making import Condition, Prompt, make_sample, recorded_prompt, remake
from listening.sounds import as_wav, digest, unpack
from models.errors import UserError

LIMITS = TestLimits()


def test_a_folder_of_sounds_becomes_samples(tmp_path: Path):
    path = tmp_path / "sounds.zip"
    wave = 0.1 * np.sin(np.arange(4000))
    soundfile.write(tmp_path / "x.wav", wave, 16_000)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("all/a/1.wav", "all/b/1.wav", "all/a/.hidden", "__MACOSX/a/1.wav"):
            file.write(tmp_path / "x.wav", name)
    samples = list(read_folder(path, LIMITS))
    assert [(item.condition, item.prompt) for item in samples] == [("a", "1"), ("b", "1")]
    np.testing.assert_allclose(samples[0].samples, wave, atol=1e-4)
    with pytest.raises(UserError, match="2 sounds"):
        list(read_folder(path, TestLimits(max_sounds=1)))
    with zipfile.ZipFile(path, "w") as file:
        file.write(tmp_path / "x.wav", "1.wav")
    with pytest.raises(UserError, match=r"1\.wav"):
        list(read_folder(path, LIMITS))


def test_what_is_heard_is_what_is_stored():
    test, sounds = new()
    data = sounds[test.stimuli[0].digest]
    stored = unpack(data, 60)
    assert stored.sample_rate == 16_000
    assert as_wav(data)[:4] == b"RIFF"
    assert digest(data) == test.stimuli[0].digest


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Prompt:
    path = tmp_path_factory.mktemp("recording") / "speech.wav"
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.3, 0.3, 11_025)
    wave[np.arange(len(wave)) % 3000 > 1800] = 0
    soundfile.write(path, wave, 22_050, subtype="FLOAT")
    return recorded_prompt("said", path, LIMITS)


@pytest.mark.parametrize(
    "condition",
    [
        Condition(name="reply", model="m", max_seconds=0.5),
        Condition(
            name="styled", model="m", style="calm", sampling={"temperature": 0.9}, seed=5,
            max_seconds=0.5,
        ),
        Condition(name="copy", source="copy", model="m"),
        Condition(name="recording", source="recording"),
    ],
    ids=lambda condition: condition.name,
)  # fmt: skip
def test_a_sample_can_be_made_again(model, recording: Prompt, condition: Condition):
    made = make_sample(condition, recording, lambda name: model, LIMITS)
    settings = json.loads(json.dumps(made.settings))
    again = remake(settings, made.prompt_sound, lambda name: model, LIMITS)
    np.testing.assert_array_equal(again.samples, made.samples)
    assert len(made.samples) and again.sample_rate == made.sample_rate
    if condition.source == "reply":
        assert isinstance(settings["sampling"]["seed"], int)
        assert settings["style"] == condition.style or condition.style is None


def test_what_a_condition_needs_is_said(model):
    written = Prompt(name="written", text="你好")
    for source in ("copy", "recording"):
        with pytest.raises(UserError, match="needs a recording"):
            make_sample(Condition(name="x", source=source), written, lambda name: model, LIMITS)
    with pytest.raises(UserError, match="allowed are reply, copy, recording"):
        Condition(name="x", source="other")


def test_a_model_without_a_codec_copies_nothing(recording: Prompt):
    with pytest.raises(UserError, match="fake has no codec"):
        make_sample(Condition(name="x", source="copy"), recording, lambda name: FakeModel(), LIMITS)
