"""Sounds as users bring them: every kind that is allowed, and a clear error for the others."""

import gc
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from models.audio import AudioClip, load_audio, resample, to_pcm16, write_wav
from models.audio_output import write_pcm16

RATE = 44100


def tone(seconds: float = 0.5, sample_rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    """A sine of amplitude 0.5, float32 [T]."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def write(path: Path, samples: np.ndarray, sample_rate: int = RATE, **options) -> Path:
    soundfile.write(path, samples, sample_rate, **options)
    return path


def refused(source, *parts: str, **options) -> None:
    """The error has all the parts, in order."""
    with pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, parts))):
        load_audio(source, **options)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "PCM_32", 1e-6),
        ("a.wav", "FLOAT", 0),
        ("a.flac", "PCM_16", 1e-4),
        ("a.ogg", "VORBIS", 0.05),
        ("a.mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_formats(tmp_path, name, subtype, tolerance):
    samples = tone()
    clip = load_audio(write(tmp_path / name, samples, subtype=subtype))
    assert clip.sample_rate == RATE
    assert clip.samples.dtype == torch.float32
    assert clip.samples.shape == (len(samples),)
    inner = slice(2000, -2000)  # lossy formats ring at the ends
    assert np.abs(clip.samples.numpy() - samples)[inner].max() <= tolerance


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 22050, 48000, 96000, 192000])
def test_sample_rates(tmp_path, sample_rate):
    clip = load_audio(write(tmp_path / "a.wav", tone(0.2, sample_rate), sample_rate))
    assert clip.sample_rate == sample_rate
    assert clip.seconds == pytest.approx(0.2)


def test_stereo_is_averaged(tmp_path):
    left, right = tone(), tone(frequency=300)
    both = np.stack([left, right], axis=1)
    expected = torch.from_numpy((left + right) / 2)
    from_file = load_audio(write(tmp_path / "a.wav", both, subtype="FLOAT"))
    torch.testing.assert_close(from_file.samples, expected)
    torch.testing.assert_close(load_audio((RATE, both)).samples, expected)


@pytest.mark.parametrize(
    ("dtype", "step"),
    [
        (np.int8, 2**-7),
        (np.int16, 2**-15),
        (np.int32, 2**-23),
        (np.float16, 2**-11),
        (np.float32, 0),
        (np.float64, 0),
    ],
)
def test_arrays_are_scaled_by_their_full_scale(dtype, step):
    full_scale = np.iinfo(dtype).max + 1 if np.issubdtype(dtype, np.integer) else 1
    clip = load_audio((RATE, (tone() * full_scale).astype(dtype)))
    assert clip.samples.dtype == torch.float32
    assert np.abs(clip.samples.numpy() - tone()).max() <= step


def test_the_lowest_integer_is_minus_one():
    assert load_audio((RATE, np.array([-32768, 0], np.int16))).samples.tolist() == [-1, 0]


def test_silence_and_a_short_sound_are_fine(tmp_path):
    assert not load_audio(write(tmp_path / "a.wav", np.zeros(RATE))).samples.any()
    assert load_audio(write(tmp_path / "b.wav", tone(0.1))).seconds == pytest.approx(0.1)
    assert len(load_audio((RATE, np.zeros(1, np.int16))).samples) == 1


def test_a_path_may_be_a_string(tmp_path):
    assert load_audio(str(write(tmp_path / "a.wav", tone()))).sample_rate == RATE


def test_loud_floats_are_clipped_and_another_scale_is_refused(tmp_path):
    clip = load_audio(write(tmp_path / "a.wav", tone() * 3, subtype="FLOAT"))
    assert clip.samples.abs().max() == 1
    refused((RATE, tone() * 32768), "the recording", "up to 16384", "-1 to 1", "divide")


def test_missing_file(tmp_path):
    refused(tmp_path / "a.wav", "no sound file", "a.wav", "check its name")
    refused(tmp_path, "no sound file")


def test_empty_file(tmp_path):
    path = tmp_path / "a.wav"
    path.touch()
    refused(path, "a.wav is empty", "record or export it again")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac"])
def test_text_under_a_sound_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("我并不喜欢现在的工作\n" * 50, encoding="utf-8")
    refused(path, name, "can't be read as sound", "wav, flac, ogg, mp3")


@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_cut_off_file(tmp_path, name, share):
    path = write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, name, "whole" if name == "a.flac" else "is cut off")


def test_cut_off_wav_names_both_lengths(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    path.write_bytes(path.read_bytes()[:10044])
    refused(path, "promises 44100 bytes", "holds 10000", "again")
    path.write_bytes(path.read_bytes()[:30])
    refused(path, "can't be read as sound")


def test_cut_off_wav_with_a_chunk_before_the_samples(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    content = path.read_bytes()
    extra = b"LIST" + (5).to_bytes(4, "little") + b"INFO!\0"  # odd, so one byte is padding
    path.write_bytes(content[:36] + extra + content[36:])
    assert len(load_audio(path).samples) == len(tone())
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "is cut off")


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_from_a_pipe_does_not_know_its_length(tmp_path, length):
    path = write(tmp_path / "a.wav", tone())
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = length.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(load_audio(path).samples) == len(tone())


def test_no_samples(tmp_path):
    refused(write(tmp_path / "a.wav", np.zeros(0)), "a.wav has no samples", "record")
    refused((RATE, np.zeros(0, np.int16)), "the recording has no samples")
    refused((RATE, np.zeros((0, 2), np.int16)), "the recording has no samples")
    refused((RATE, np.zeros((5, 0), np.int16)), "the recording has no samples")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    samples = tone()
    samples[100] = value
    refused(write(tmp_path / "a.wav", samples, subtype="FLOAT"), "a.wav", "NaN or infinite")
    refused((RATE, samples), "the recording", "NaN or infinite", "again")


def test_too_long(tmp_path):
    path = write(tmp_path / "a.wav", tone(1.5))
    refused(path, "a.wav lasts 1.5 s", "up to 1 s", "shorter", max_seconds=1)
    refused((RATE, tone(1.5)), "the recording lasts 1.5 s", max_seconds=1)
    assert load_audio(path, max_seconds=1.5).seconds == 1.5


def test_a_long_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", np.zeros(61 * 8000), 8000)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    refused(path, "lasts 61.0 s", "up to 60 s")


@pytest.mark.parametrize("sample_rate", [0, 7999, 192001])
def test_sample_rate_out_of_range(tmp_path, sample_rate):
    refused((sample_rate, tone()), str(sample_rate), "8000 to 192000", "convert")
    if sample_rate:
        path = write(tmp_path / "a.wav", tone(), sample_rate)
        refused(path, str(sample_rate), "8000 to 192000")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (None, ("NoneType", "a file's path")),
        (np.zeros(5), ("ndarray", "(sample rate, array")),
        ((RATE,), ("tuple", "(sample rate, array")),
        (("44100", np.zeros(5)), ("whole number in Hz", "'44100'")),
        ((RATE, [0.0, 0.1]), ("[T] or [T, channels]", "list")),
        ((RATE, np.float32(0)), ("[T] or [T, channels]", "float32")),
        ((RATE, np.zeros((2, 2, 2))), ("[T] or [T, channels]", "[2, 2, 2]")),
        ((RATE, np.zeros((2, 100))), ("100 channels", "up to 8", "[T, channels]")),
        ((RATE, np.zeros(5, np.uint8)), ("uint8", "int16")),
        ((RATE, np.zeros(5, bool)), ("bool", "int16")),
        ((RATE, np.zeros(5, complex)), ("complex128", "int16")),
        ((RATE, np.array(["a"])), ("<U1", "int16")),
    ],
)
def test_sources_of_another_kind(source, parts):
    refused(source, *parts)


@pytest.mark.parametrize("rates", [(44100, 22050), (16000, 44100), (48000, 44100), (11111, 22050)])
def test_resampling_keeps_the_tone(rates):
    before, after = rates
    wave = resample(AudioClip(torch.from_numpy(tone(0.5, before)), before), after)
    expected = torch.from_numpy(tone(0.5, after))
    assert wave.shape[:2] == (1, 1)
    assert wave.shape[-1] == pytest.approx(len(expected), abs=1)
    inner = slice(1000, -1000)
    torch.testing.assert_close(
        wave[0, 0, : len(expected)][inner], expected[inner], atol=0.02, rtol=0
    )


def test_resampling_to_the_same_rate_changes_nothing():
    samples = torch.from_numpy(tone())
    assert torch.equal(resample(AudioClip(samples, RATE), RATE), samples[None, None])


def test_pcm16_is_one_fixed_gain_rounded_and_clipped():
    pcm = to_pcm16(torch.tensor([0.0, 1.0, -1.0, 1.5, -2.0, 0.5, 1.4 / 32767, 1.6 / 32767]))
    assert pcm.dtype == np.int16
    assert pcm.tolist() == [0, 32767, -32767, 32767, -32767, 16384, 1, 2]


def test_pcm16_of_a_piece_is_the_piece_of_the_pcm16():
    wave = torch.from_numpy(tone())[None, None].requires_grad_()
    whole = to_pcm16(wave)
    assert whole.shape == (len(tone()),)
    assert np.array_equal(whole[100:200], to_pcm16(wave[..., 100:200]))
    assert len(to_pcm16(wave[..., :0])) == 0


def test_pcm16_refuses_more_than_one_channel():
    with pytest.raises(ValueError, match=r"mono.*\[2, 5\]"):
        to_pcm16(torch.zeros(2, 5))


def test_a_wav_file_that_can_not_be_opened_is_an_error_and_no_more(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(FileNotFoundError):
        write_pcm16(tmp_path / "none" / "a.wav", np.zeros(5, np.int16), 22050)
    gc.collect()
    assert not ignored


def test_written_wav_reads_back(tmp_path):
    path = tmp_path / "a.wav"
    samples = torch.from_numpy(tone(0.5, 22050))
    write_wav(path, samples[None, None], 22050)
    assert soundfile.info(path).subtype == "PCM_16"
    clip = load_audio(path)
    assert clip.sample_rate == 22050
    torch.testing.assert_close(clip.samples, samples, atol=1e-4, rtol=0)
