"""The command line with a small model, and a recording to ask it."""

import pytest
import soundfile
import torch
from command_line import RATE
from small import small_model

import generate


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


@pytest.fixture
def small(model, monkeypatch, tmp_path):
    """The command line with a small model, in a folder of its own."""
    monkeypatch.setattr(generate, "load_model", lambda *arguments: model)
    monkeypatch.chdir(tmp_path)
    return model


@pytest.fixture
def question(tmp_path):
    path = tmp_path / "question.wav"
    samples = torch.rand(RATE // 2, generator=torch.Generator().manual_seed(0)) - 0.5
    soundfile.write(path, samples.numpy(), RATE)
    return str(path)
