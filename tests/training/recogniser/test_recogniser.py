"""The recogniser: what it counts, what it learns from, and that it resumes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import make_recording, recogniser_of

from training import loop
from training.recogniser import recogniser as module
from training.recogniser.recogniser import (
    Recogniser,
    augment,
    ctc_loss,
    load_recogniser,
    train_recogniser,
)

RECORDINGS = [
    make_recording(text, "sad", seed)
    for seed, text in enumerate(["你好。", "早上好！", "我睡不着。", "你好吗？", "还有呢？"])
] + [make_recording("你好，我在。", "warm", None)]


def test_units_are_joined_to_syllables(monkeypatch: pytest.MonkeyPatch):
    ear = recogniser_of(["n", "i2", "h", "ao3", "ai4"])
    path = [0, 1, 1, 0, 2, 3, 3, 4, 4, 0, 5, 1]
    logits = torch.nn.functional.one_hot(torch.tensor(path), 6).float().T
    monkeypatch.setattr(ear, "forward", lambda features: logits[None])
    said = [("n", "i2"), ("h", "ao3"), ("ai4",), ("n",)]
    assert ear.read(torch.zeros(100, 24)) == said
    assert ear.count_errors("你好，爱。", np.zeros(9000), 22050) == (1, 3)
    assert ear.error_rate("你好", np.zeros(9000), 22050) == 1.0
    # What has no reading is wrong in all its characters.
    assert ear.count_errors("OK", np.zeros(9000), 22050) == (2, 2)
    assert ear.count_errors("", np.zeros(9000), 22050) == (1, 1)


def test_features_are_those_of_any_gain_and_rate(small_models):
    ear = recogniser_of(["a1"])
    wave = RECORDINGS[0].wave / np.float32(32768)
    features = ear.features(wave, 22050)
    assert features.shape == (100, len(wave) // 256) and abs(features.mean()) < 1e-5
    torch.testing.assert_close(ear.features(2 * wave, 22050), features, atol=0.05, rtol=0)
    twice = np.repeat(wave, 2)
    assert ear.features(twice, 44100).shape == features.shape
    assert ear.features(wave[:10], 22050).shape[1] >= 1
    with torch.no_grad():
        assert ear(features[None]).shape == (1, 2, (features.shape[1] + 1) // 2)


def test_augmented_features_stay_finite_and_near():
    features, lengths = torch.randn(3, 100, 80), torch.tensor([80, 60, 40])
    for seed in range(8):
        torch.manual_seed(seed)
        heard, new_lengths = augment(features, lengths)
        assert heard.shape[:2] == (3, 100) and torch.isfinite(heard).all()
        assert 0.85 * 80 <= heard.shape[2] <= 1.2 * 80 and new_lengths.max() <= heard.shape[2]
        torch.manual_seed(seed)
        assert torch.equal(augment(features, lengths)[0], heard)


def test_the_ctc_loss_is_pytorchs():
    logits = torch.randn(2, 5, 12)
    targets = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    found = ctc_loss(logits, torch.tensor([24, 17]), targets)
    losses = torch.nn.functional.ctc_loss(
        logits.permute(2, 0, 1).log_softmax(-1),
        torch.tensor([[1, 2, 3], [4, 0, 0]]),
        torch.tensor([12, 9]),
        torch.tensor([3, 1]),
        reduction="none",
    )
    torch.testing.assert_close(found, (losses / torch.tensor([3, 1])).mean())


class Clock:
    """Every look at it takes a second, so that every step does."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def train(folder: Path, recordings=RECORDINGS, steps: int = 6) -> dict:
    train_recogniser(recordings, RECORDINGS[:1], folder, steps / 60, "cpu")
    return torch.load(folder / "recogniser.pt", weights_only=True)


def test_a_resumed_training_is_the_uninterrupted_one(
    tmp_path: Path, small_models, made_up_teacher, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "time", Clock())
    stage = loop.Stage
    monkeypatch.setattr(module, "Stage", lambda **k: stage(**{**k, "validate_seconds": 3}))
    whole = train(tmp_path / "whole")
    calls = []

    def fail(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return augment(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "augment", fail)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    assert torch.load(tmp_path / "killed/recogniser.pt", weights_only=True)["step"] == 3
    resumed = train(tmp_path / "killed")
    assert resumed["step"] == whole["step"] == 6 and resumed["rows"] == whole["rows"]
    states = [state["modules"]["recogniser"] for state in (resumed, whole)]
    for name, tensor in states[0].items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(tensor, states[1][name]), name
    ear = load_recogniser(tmp_path / "killed/recogniser.pt")
    assert not ear.training and ear.units == states[0]["_extra_state"]


def test_what_came_since_is_learned_with_the_units_that_are_known(
    tmp_path: Path, small_models, made_up_teacher, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "time", Clock())
    units = train(tmp_path, steps=1)["modules"]["recogniser"]["_extra_state"]
    new = make_recording("春天去游泳。", "happy", 9)
    state = train(tmp_path, [*RECORDINGS, new], steps=2)
    assert state["step"] == 2 and state["modules"]["recogniser"]["_extra_state"] == units


def test_another_recogniser_is_refused():
    with pytest.raises(ValueError, match="trained for other dialogues"):
        Recogniser(["a1"]).load_state_dict(Recogniser(["b"]).state_dict())
