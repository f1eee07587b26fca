"""Every stage computes on the device that it is given; see `fake_device`."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch._dynamo  # comes with whatever uses it first, and names what is replaced here
import torch.nn.functional as F
from fake_device import NAME, Elsewhere, Placing, to_cpu
from recipe import make_recording, recogniser_of

from models.westlake.dual_ar import SamplingConfig, generation
from training import loop
from training.codec import encoder, hearing, polish, vocoder
from training.codec.config import new_codec
from training.language import model as language
from training.language import preference
from training.language.conversations import Conversations
from training.language.corpus import _write
from training.language.model import new_language_model
from training.recogniser import recogniser as recognition

pytestmark = pytest.mark.usefixtures("elsewhere", "small_models")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch):
    generator, save, tensor = torch.Generator, torch.save, torch.tensor
    # These three ask for the device's own, past what is made up.
    monkeypatch.setattr(
        torch, "tensor", lambda data, device="cpu", **kind: tensor(data, **kind).to(device)
    )
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())
    monkeypatch.setattr(torch, "save", lambda state, path: save(to_cpu(state), path))
    stages = (encoder, hearing, vocoder, polish, recognition, language, preference, loop)
    for module in stages:
        monkeypatch.setattr(module, "autocast", lambda device: contextlib.nullcontext())
    for name in ("_step", "_read"):  # inference mode knows no tensors that are made up
        monkeypatch.setattr(
            generation, name, torch.no_grad()(getattr(generation, name).__wrapped__)
        )
    ctc_loss = F.ctc_loss  # its lengths may lie on the CPU, but not beside what is made up

    def ctc_loss_there(scores, targets, *lengths, **options):
        return ctc_loss(scores, targets, *(x.to(scores.device) for x in lengths), **options)

    monkeypatch.setattr(F, "ctc_loss", ctc_loss_there)
    draw_points = generation.draw_points
    monkeypatch.setattr(generation, "draw_points", lambda *args: draw_points(*args).to(NAME))
    with Placing():
        yield


def test_what_is_made_up():
    there = torch.ones(3, device=NAME)
    assert isinstance(there, Elsewhere) and there.device.type == NAME
    assert (there + 1).tolist() == [2, 2, 2] and torch.equal(there.cpu(), torch.ones(3))
    assert isinstance(torch.ones(3).to(NAME), Elsewhere)
    with pytest.raises(RuntimeError, match="not all tensors on one device"):
        there + torch.ones(3)


def test_preference(tmp_path: Path, conversations: Conversations, tokenizer):
    model, codec, recogniser = (
        new_language_model(tokenizer),
        new_codec(),
        recogniser_of(["a1", "b"]),
    )
    preference.train_preference(
        model,
        codec,
        conversations,
        recogniser,
        SamplingConfig(),
        tmp_path,
        1e-6,
        NAME,
    )
    assert (tmp_path / "preferred.pt").exists()
    for module in (model, codec, recogniser):
        assert {weight.device.type for weight in module.parameters()} == {NAME}


@pytest.fixture
def no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps go forward alone: not all gradients are to be had from what is made up."""

    def learn(stage, step, optimizers, progress) -> None:
        loss = step(progress.step)
        assert isinstance(loss, Elsewhere) and loss.requires_grad
        progress.losses.append(loss.item())
        progress.step += 1

    monkeypatch.setattr(loop.Stage, "_learn", learn)


def test_the_codec(clip: Path, tmp_path: Path, no_gradients):
    speech, folder = {clip: 1.0}, tmp_path / "stages"
    ears = [recogniser_of(["a1"]) for _ in range(3)]  # each stage moves its own
    codes, slow = folder / "codes.pt", folder / "slow_stages.pt"
    encoder.train_codes(speech, clip, folder, 1e-6, NAME)
    vocoder.train_slow_stages(codes, ears[0], speech, speech, folder, 1e-6, NAME)
    vocoder.train_vocoder(codes, slow, ears[1], speech, speech, folder, 1e-6, NAME)
    polish.polish_vocoder(codes, folder / "vocoder.pt", ears[2], speech, speech, folder, 1e-6, NAME)
    assert (folder / "polished.pt").exists()


def test_the_encoder_by_words(clip: Path, tmp_path: Path, made_up_teacher, no_gradients):
    encoder.train_codes({clip: 1.0}, clip, tmp_path, 1e-6, NAME)
    recordings = [make_recording("你好。", "sad", seed) for seed in (1, 2)]
    hearing.train_hearing(tmp_path / "codes.pt", recordings, recordings, tmp_path, 1e-6, NAME)
    assert (tmp_path / "hearing.pt").exists()


def test_the_recogniser(tmp_path: Path, made_up_teacher):
    recordings = [make_recording("你好。", "sad", 1), make_recording("你好，我在。", "warm", None)]
    recognition.train_recogniser(recordings, recordings[:1], tmp_path, 1e-6, NAME)
    assert (tmp_path / "recogniser.pt").exists()


def test_the_language_model(
    tmp_path: Path, dialogues, tokenizer, spoken_users, spoken_replies, no_converter, no_gradients
):
    for name, spoken in (
        ("users", spoken_users), ("replies", spoken_replies), ("heldout_users", spoken_users[:4]),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        _write(tmp_path / name / "0.pt", spoken)
    language.train_understanding(dialogues, tokenizer, tmp_path, 1e-6, NAME)
    language.train_language_model(dialogues, tokenizer, tmp_path, 1e-6, NAME)
    assert (tmp_path / "language_model.pt").exists()
