"""Sound files that are damaged, lie or are too large: refused in time, in memory and in words."""

import contextlib
import io
import os
import resource
import subprocess
import sys
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np
import pytest
import sounds
from sounds import (
    PHONE_FORMATS,
    RATE,
    bombed_m4a,
    phone_file,
    piped_flac,
    voice,
    written,
)

from models.audio import AudioClip, load_audio
from models.errors import UserError
from models.sound_file import open_sound
from models.sound_header import MAX_CHUNKS, promised_bytes, sound_kind
from strings import LANGUAGES, Text, say

ROOT = Path(__file__).parent.parent


def code_of(source, **options) -> str:
    """The code of the error that it is refused with."""
    with pytest.raises(UserError) as caught:
        load_audio(source, **options)
    return caught.value.code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "error_sound_unreadable"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "error_sound_unreadable"),
        (b"\xff\xfb\x90\x00" + bytes(50), "error_sound_unreadable"),
        (b"\xff\xf1" + bytes(50), "error_no_samples"),
        (b"\x1a\x45\xdf\xa3" + bytes(50), "error_sound_unreadable"),
        (b"\x1a\x45\xdf\xa3", "error_sound_unreadable"),
        (b"#!AMR\n", "error_no_samples"),
        (b"#!AMR\n" + b"\xff" * 50, "error_sound_unreadable"),
        (b"\x00\x00\x00\x10ftypM4A " + bytes(4), "error_sound_unreadable"),
        (b"ID3\x03\x00\x00\x7f\x7f\x7f\x7f" + bytes(50), "error_sound_unreadable"),
        (b"ID3", "error_sound_unreadable"),
        (b"OggS", "error_sound_cut_off"),
        (b"OggS" + bytes(50), "error_sound_unreadable"),
        (b"fLaC", "error_sound_unreadable"),
        (b"RIFF\x00\x00\x00\x00WAVE", "error_sound_unreadable"),
        (b"\xff", "error_sound_unreadable"),
    ],
)
def test_what_is_no_sound(content, code):
    assert code_of(io.BytesIO(content)) == code


@pytest.mark.parametrize("kind", [*PHONE_FORMATS, "mp3", "flac", "wav", "ogg"])
def test_damaged_files_are_heard_or_refused(kind):
    """Whatever bytes are wrong, there is a clip or a UserError."""
    if kind in PHONE_FORMATS:
        content = phone_file(kind, voice(1))
    else:
        content = written(voice(1), kind.upper())
    random = np.random.default_rng(0)
    for _ in range(3):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 20):
            damaged[place] = random.integers(256)
        with contextlib.suppress(UserError):
            assert isinstance(load_audio(io.BytesIO(damaged)), AudioClip)


class CountedReads(io.BytesIO):
    num_reads = 0

    def read(self, *size):
        self.num_reads += 1
        return super().read(*size)


@pytest.mark.parametrize(
    "content",
    [
        b"RIFF" + (10**6).to_bytes(4, "little") + b"WAVE" + (b"junk" + bytes(4)) * 50_000,
        (b"\0\0\0\x08free") * 50_000,
    ],
    ids=["wav", "mov"],
)
def test_a_file_of_empty_chunks_is_not_read_to_its_end(content):
    file = CountedReads(content)
    sound_kind(file)
    assert promised_bytes(file) == (0, 0)
    assert file.num_reads < 2 * MAX_CHUNKS + 20
    assert code_of(io.BytesIO(content)) == "error_sound_unreadable"


def test_a_raw_file_is_no_sound_and_a_wav_under_that_name_is(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert code_of(path) == "error_sound_unreadable"
    path.write_bytes(written(voice(1), "WAV"))
    assert load_audio(path).seconds == 1


@pytest.mark.parametrize(
    "name", ["\udcff.wav", "\ud800.wav", "a\0b.wav", "a" * 5000, "", "/", ".."]
)
def test_names_that_no_file_has(tmp_path, name):
    assert code_of(name) == "error_no_sound_file"
    with pytest.raises(UserError) as caught:
        load_audio(f"{tmp_path}/{name}")
    message = str(caught.value)
    assert str(tmp_path) not in message and message.isprintable() and len(message) < 200


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    assert code_of(tmp_path / "a.wav") == "error_no_sound_file"
    assert code_of("/dev/zero") == "error_no_sound_file"


def test_messages_name_the_file_without_its_folder(tmp_path):
    for content in (b"", b"text", written(voice(2), "WAV")[:-9], written(voice(2), "WAV")):
        path = tmp_path / "speech.wav"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"speech\.wav") as caught:
            load_audio(path, max_seconds=1)
        for language in LANGUAGES:
            said = say(caught.value.code, language, **caught.value.values)
            assert "speech.wav" in said and str(tmp_path) not in said


def test_a_file_of_too_many_bytes_is_not_opened(monkeypatch):
    monkeypatch.setattr("models.audio.open_sound", None)
    assert code_of(io.BytesIO(bytes(1001)), max_bytes=1000) == "error_sound_file_large"


@pytest.mark.parametrize("content", [piped_flac(voice(3)), phone_file("amr", voice(3))])
def test_the_limit_holds_for_files_that_do_not_know_their_length(content):
    assert load_audio(io.BytesIO(content), max_seconds=4).seconds == pytest.approx(3, abs=0.1)
    assert code_of(io.BytesIO(content), max_seconds=2) == "error_sound_longer"


def test_samples_of_all_channels_are_counted_before_they_are_decoded(monkeypatch):
    content = written(np.zeros((48000 * 4, 8)), "FLAC", 48000)
    monkeypatch.setattr("models.audio.MAX_VALUES", 1_000_000)
    monkeypatch.setattr("soundfile.SoundFile.read", None)
    assert code_of(io.BytesIO(content)) == "error_sound_values"


def test_samples_of_all_channels_are_counted_where_no_length_is_promised(monkeypatch):
    content = piped_flac(np.stack([voice(3)] * 4, axis=1))
    assert load_audio(io.BytesIO(content)).seconds == 3
    monkeypatch.setattr("models.audio.MAX_VALUES", 2 * len(voice(3)))
    assert code_of(io.BytesIO(content)) == "error_sound_values"


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "60", None])
def test_the_limit_itself_is_a_positive_number(value):
    assert code_of((RATE, voice(1)), max_seconds=value) == "error_max_seconds"


def test_a_clip_of_wrong_values_cannot_be_made():
    import torch

    for samples, rate, code in (
        (torch.tensor([0.0, float("nan")]), RATE, "error_sound_not_finite"),
        (torch.tensor([0.0, float("inf")]), RATE, "error_sound_not_finite"),
        (torch.zeros(1, 5), RATE, "error_array_shape"),
        (np.zeros(5), RATE, "error_array_shape"),
        (torch.zeros(5, dtype=torch.int16), RATE, "error_array_dtype"),
        (torch.zeros(5), 0, "error_sample_rate"),
        (torch.zeros(5), 44100.0, "error_rate_type"),
    ):
        with pytest.raises(UserError) as caught:
            AudioClip(samples, rate)
        assert caught.value.code == code


def peak_memory(content: bytes, path: Path) -> float:
    """Megabytes by which a process grows, its children's included, when it loads a file."""
    path.write_bytes(content)
    program = (
        "import resource, sys\n"
        "from models.audio import load_audio\n"
        "from models.errors import UserError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try:\n    load_audio(sys.argv[1])\nexcept UserError:\n    pass\n"
        "children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print((peak() - before + children) / 1024)\n"
    )
    command = [sys.executable, "-c", program, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_memory_is_for_the_mono_result_and_not_for_all_channels(tmp_path):
    samples = np.zeros((96000 * 60, 8), np.int16)  # 184 MB as float32, 23 MB of them mono
    assert peak_memory(written(samples, "FLAC", 96000), tmp_path / "a.flac") < 90


@pytest.mark.parametrize("duration", [1, 2])
def test_a_file_of_lying_tables_costs_little(tmp_path, duration):
    """libav alone fills 2 GB for it."""
    assert peak_memory(bombed_m4a(50_000_000, duration), tmp_path / "a.m4a") < 600


def test_nothing_is_left_when_a_file_is_refused_in_the_middle(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    assert code_of(io.BytesIO(phone_file("amr", voice(30))), max_seconds=1) == "error_sound_longer"
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0  # it has been waited for


def test_few_files_are_decoded_at_once_and_nobody_waits_for_ever(monkeypatch):
    content = phone_file("amr", voice(1))
    monkeypatch.setattr("models.sound_file._decoders", BoundedSemaphore(1))
    monkeypatch.setattr("models.sound_file.WAIT_SECONDS", 0.01)
    sound = Text("recording")
    with open_sound(io.BytesIO(content), sound):
        assert code_of(io.BytesIO(content)) == "error_sound_waits"
    assert load_audio(io.BytesIO(content)).seconds == pytest.approx(1, abs=0.1)


def test_an_error_is_said_in_the_language_of_the_page():
    with pytest.raises(UserError) as caught:
        load_audio((sounds.RATE, voice(2)), max_seconds=1)
    error = caught.value
    assert say(error.code, "zh", **error.values) == "录音长 2.0 秒，最长 1 秒：请截短一些。"
    assert str(error) == "the recording lasts 2.0 s, allowed are up to 1 s: give a shorter piece"
