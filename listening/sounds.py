"""Sounds as tests store them: mono FLAC of 16 bits, named by their digest."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import soundfile

from models.audio import AudioClip, load_audio, to_pcm16


def pack(samples: np.ndarray, sample_rate: int) -> bytes:
    """A mono sound [n] float in -1..1 as FLAC."""
    return _written(to_pcm16(samples), sample_rate, "FLAC")


def unpack(data: bytes, max_seconds: float) -> AudioClip:
    """A stored sound.

    Raises:
        UserError: it is none, or too long.
    """
    return load_audio(io.BytesIO(data), max_seconds)


def as_wav(data: bytes) -> bytes:
    """A stored sound as a wav file's content, with the very same samples."""
    samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="int16")
    return _written(samples, sample_rate, "WAV")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _written(pcm: np.ndarray, sample_rate: int, kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, pcm, sample_rate, subtype="PCM_16", format=kind)
    return file.getvalue()
