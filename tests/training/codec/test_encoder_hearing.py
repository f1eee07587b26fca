"""The encoder learns that words are read off its codes, and stays near what it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import make_recording

from training.codec import encoder, hearing
from training.recogniser.spelling import Spelling
from training.speech.recordings import Recording

pytestmark = pytest.mark.usefixtures("made_up_teacher")

TEXTS = ("你好。", "晚上睡不着觉怎么办？", "早上好！")
RECORDINGS = [make_recording(text, "sad", seed) for text in TEXTS for seed in (1, 2)]


@pytest.fixture
def codes(clip: Path, tmp_path: Path, small_models) -> Path:
    encoder.train_codes({clip: 1.0}, clip, tmp_path, 1e-6, "cpu")
    return tmp_path / "codes.pt"


def new_hearing(codes: Path) -> hearing.Hearing:
    return hearing.Hearing(encoder.load_codes(codes), Spelling(TEXTS))


def batch(recordings: list[Recording]) -> list[hearing.Heard]:
    rng = np.random.default_rng(0)
    return [hearing.hear(recording, rng) for recording in recordings]


def test_what_was_not_changed_by_a_microphone_is_coded_as_before(codes: Path):
    heard = [replace(one, wave=one.clean) for one in batch(RECORDINGS[:2])]
    distance, _, moved = new_hearing(codes).losses(heard)
    assert (distance, moved) == (0, 0)
    louder = [replace(one, wave=3 * one.clean) for one in heard]
    distance, _, moved = new_hearing(codes).losses(louder)
    assert distance > 0 and moved > 0


def test_what_lies_behind_a_recording_does_not_count(codes: Path, monkeypatch):
    short, long = batch([RECORDINGS[0], RECORDINGS[2]])
    assert len(short.wave) < len(long.wave)
    monkeypatch.setattr(hearing, "DROPOUT", 0.0)
    made = new_hearing(codes)
    alone, beside = made.losses([short]), made.losses([short, short, long])
    other = made.losses([long])
    lengths = [-(-len(one.wave) // hearing.FRAME) for one in (short, long)]
    expected = (2 * lengths[0] * alone[0] + lengths[1] * other[0]) / (2 * lengths[0] + lengths[1])
    torch.testing.assert_close(beside[0], expected, rtol=1e-2, atol=1e-4)
    spelt = (2 * alone[1] + other[1]) / 3
    torch.testing.assert_close(beside[1], spelt, rtol=1e-3, atol=1e-4)


def test_nothing_is_read_behind_a_recording(small_models, monkeypatch):
    monkeypatch.setattr(hearing, "DROPOUT", 0.0)
    torch.manual_seed(0)
    reader = hearing.Reader(32, Spelling(TEXTS))
    for weight in reader.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    numbers, lengths, texts = torch.randn(2, 40, 32), (20, 40), TEXTS[:2]
    short = reader.loss(numbers[:1, :20], lengths[:1], texts[:1])
    long = reader.loss(numbers[1:], lengths[1:], texts[1:])
    torch.testing.assert_close(reader.loss(numbers, lengths, texts), (short + long) / 2)


def test_words_reach_the_encoder_and_not_the_decoder(codes: Path):
    made = new_hearing(codes)
    made.losses(batch(RECORDINGS))[1].backward()
    assert made.codec.backbone.norm.weight.grad.abs().max() > 0
    assert made.codec.quantizer.downsample[0][0].conv.weight.grad.abs().max() > 0
    decoding = [made.codec.head, made.codec.quantizer.upsample, made.groups[0].project_out]
    assert all(p.grad is None for module in decoding for p in module.parameters())
    assert all(p.grad is None for p in made.before.parameters())


def test_the_codes_aimed_at_are_not_of_rough_spectra(codes: Path):
    torch.manual_seed(0)
    made, heard = new_hearing(codes), [replace(one, wave=one.clean) for one in batch(RECORDINGS)]
    assert made.losses(heard)[0] == 0 < made.losses(heard, rough=True)[0]


def test_the_same_step_draws_the_same(small_models):
    speech = hearing.Speech(RECORDINGS, seed=4)
    in_order = [speech.batch(step) for step in range(14)]
    again = hearing.Speech(RECORDINGS, seed=4).batch(13)
    assert len(again) == hearing.BATCH_SIZE
    for one, other in zip(again, in_order[13], strict=True):
        assert one.text == other.text and np.array_equal(one.wave, other.wave)
    heard = [one for batch in in_order for one in batch]
    assert len({len(one.wave) for one in heard}) > len(TEXTS)  # some larger or smaller
    assert any(not np.array_equal(one.wave, one.clean) for one in heard)


def test_it_is_trained_and_its_mean_is_loaded(codes: Path, tmp_path: Path, monkeypatch):
    foreign, learned, speech = replace(RECORDINGS[0], onsets=()), [], hearing.Speech

    def speech_of(recordings: list[Recording], seed: int) -> hearing.Speech:
        learned.extend(recordings)
        return speech(recordings, seed)

    monkeypatch.setattr(hearing, "Speech", speech_of)
    hearing.train_hearing(codes, [*RECORDINGS, foreign], RECORDINGS[:2], tmp_path, 1e-6, "cpu")
    saved = torch.load(tmp_path / "hearing.pt", weights_only=True)
    assert {"valid_distance", "valid_spelling", "codes_moved"} <= set(saved["rows"][0])
    assert [id(recording) for recording in learned] == [id(recording) for recording in RECORDINGS]
    loaded = encoder.new_encoder(encoder.load_codes(tmp_path / "hearing.pt")).state_dict()
    mean = saved["modules"]["codec_mean"]
    assert loaded.keys() == mean.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, mean[name]), name
