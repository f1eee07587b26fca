"""Bytes and arrays that are no sound, or a damaged one: a clear error, or a sound."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cases import cases, check_told, damaged
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.audio import AudioClip, load_audio
from models.errors import UserError
from models.level import level_speech

pytestmark = pytest.mark.slow
MAX_SECONDS, MAX_BYTES = 2.0, 1 << 20
FORMATS = ("WAV", "FLAC", "OGG", "AIFF", "AU", "W64", "RF64", "CAF")
DAMAGE = (
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)


def content(kind: str) -> bytes:
    samples = np.random.default_rng(0).integers(-6000, 6000, (4000, 2)).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind)
    return file.getvalue()


WHOLE = {kind: content(kind) for kind in FORMATS}


def check_sound(source) -> None:
    try:
        clip = load_audio(source, MAX_SECONDS, MAX_BYTES)
    except UserError as error:
        check_told(error)
        return
    assert isinstance(clip, AudioClip)
    assert 0 < len(clip.samples) <= MAX_SECONDS * clip.sample_rate
    assert clip.samples.isfinite().all() and clip.samples.abs().max() <= 1
    try:
        assert level_speech(clip).samples.isfinite().all()
    except UserError as error:
        check_told(error)


@cases(200, st.binary(max_size=400))
def test_any_bytes(data: bytes):
    check_sound(io.BytesIO(data))


@cases(600, st.sampled_from(FORMATS), *DAMAGE)
def test_damaged_files(kind: str, changes: list, end: float):
    data = damaged(WHOLE[kind], changes, end)
    if data[:1] != b"\xff":  # libav's kinds have a test of their own, as each takes a process
        check_sound(io.BytesIO(data))


@cases(
    150,
    st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1),
    st.sampled_from((0, 1, 3, 6, 7, 0xFFFE)), st.integers(0, 2**16 - 1),
)  # fmt: skip
def test_wav_headers_that_lie(length: int, channels: int, rate: int, kind: int, bits: int):
    data = bytearray(WHOLE["WAV"])
    data[20:36] = b"".join(
        number.to_bytes(size, "little")
        for number, size in ((kind, 2), (channels, 2), (rate, 4), (0, 4), (4, 2), (bits, 2))
    )
    data[40:44] = length.to_bytes(4, "little")
    check_sound(io.BytesIO(bytes(data)))


NUMBERS = st.one_of(
    arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes(),
    arrays.complex_number_dtypes(), arrays.boolean_dtypes(),
)  # fmt: skip
ARRAYS = arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
RATES = st.one_of(st.integers(-5, 400_000), st.integers(), st.floats(), st.none(), st.booleans())


@cases(300, RATES, st.one_of(ARRAYS, st.none(), st.binary(max_size=9), st.lists(st.floats())))
def test_any_arrays(rate: object, samples: object):
    check_sound((rate, samples))


@cases(50, st.one_of(st.none(), st.integers(), st.text(max_size=40), st.tuples(st.integers())))
def test_what_is_no_sound_at_all(source: object):
    check_sound(source)


@cases(12, st.sampled_from(("mp3", "mp4", "webm", "amr")), *DAMAGE)
def test_damaged_files_of_phones(tmp_path_factory, kind: str, changes: list, end: float):
    starts = {
        "mp3": b"\xff\xfb\x90\x64", "mp4": b"\x00\x00\x00\x18ftypmp42",
        "webm": b"\x1a\x45\xdf\xa3", "amr": b"#!AMR\n",
    }  # fmt: skip
    body = damaged(WHOLE["WAV"][44:4000], changes, end)
    path = Path(tmp_path_factory.mktemp("phone")) / "speech"
    path.write_bytes(starts[kind] + body)
    check_sound(path)
