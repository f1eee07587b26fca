"""An open sound file -> its samples, block by block: libsndfile's formats, and those of phones.

A length that the file promises is compared with what it holds; one that it doesn't know (a pipe, a
recorder that was killed) means: to the end.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, BinaryIO

import numpy as np
import soundfile

from strings import Text

from .errors import UserError
from .sound_header import mp3_samples, promised_bytes, sound_kind

BLOCK_SAMPLES = 1 << 16
FORMATS = "wav, flac, ogg, mp3, m4a, mp4, webm, aac, 3gp or amr"
UNKNOWN_SAMPLES = 1 << 36  # flac's numbers end there; libsndfile gives 2**63
TOLERANCE = 0.25  # seconds that a container may promise beyond what its codec gives
DECODER = Path(__file__).with_name("libav_decoder.py")
MAX_DECODERS = 2  # processes at the same time
WAIT_SECONDS = 30.0  # for one of them to end

_decoders = BoundedSemaphore(MAX_DECODERS)


@dataclass(frozen=True)
class SoundStream:
    """What an open sound file tells of itself, and its samples.

    Fields:
        num_samples: in each channel, as promised; None if the file doesn't know.
        blocks: [n, channels] float32, full scale 1.
    """

    sample_rate: int
    num_channels: int
    num_samples: int | None
    blocks: Iterator[np.ndarray]


@contextmanager
def open_sound(file: BinaryIO, sound: Text) -> Iterator[SoundStream]:
    """Read what a sound file tells of itself; its samples are decoded as they are asked for.

    The kind of file is told by its first bytes, never by its name. What libsndfile can't read is
    decoded by libav, in a process of its own: see `libav_decoder`.

    Args:
        file: seekable.
        sound: how messages call it.

    Raises:
        UserError: it is damaged, cut off or no sound; here, or at the end of its blocks. Too many
            others are decoded.
    """
    kind = sound_kind(file)
    promised, present = promised_bytes(file)
    if present < promised:
        raise _cut_off(sound, "num_bytes", promised, present)
    num_samples = mp3_samples(file) if kind == "mp3" else None
    file.seek(0)
    if kind is not None:
        with _real_file(file) as real, _decoder(kind, real, sound) as process:
            yield _decoded(process, num_samples, sound)
        return
    try:
        with soundfile.SoundFile(file) as opened:
            yield _soundfile_stream(opened, sound)
    except soundfile.SoundFileError as error:
        raise _unreadable(sound) from error


def _soundfile_stream(opened: soundfile.SoundFile, sound: Text) -> SoundStream:
    def blocks() -> Iterator[np.ndarray]:
        total = 0
        while True:
            out = np.empty((BLOCK_SAMPLES, opened.channels), np.float32)
            block = opened.read(out=out)
            if len(block) == 0:
                break
            total += len(block)
            yield block
        if num_samples and total < num_samples:
            raise _cut_off(sound, "num_samples", num_samples, total)

    num_samples = opened.frames if opened.frames < UNKNOWN_SAMPLES else None
    return SoundStream(opened.samplerate, opened.channels, num_samples, blocks())


@contextmanager
def _real_file(file: BinaryIO) -> Iterator[BinaryIO]:
    """The file itself, or a copy of one that lies in memory, for another process."""
    try:
        file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            yield copy
    else:
        yield file


@contextmanager
def _decoder(kind: str, file: BinaryIO, sound: Text) -> Iterator[subprocess.Popen[bytes]]:
    if not _decoders.acquire(timeout=WAIT_SECONDS):
        raise UserError("error_sound_waits", sound=sound)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", DECODER, kind],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Each thread of OpenBLAS would reserve some of the memory that it may have.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        _decoders.release()


def _decoded(process: subprocess.Popen[bytes], num_samples: int | None, sound: Text) -> SoundStream:
    """What `libav_decoder` says of a file; `num_samples` are those its header promises, if any."""
    assert process.stdout is not None
    output = process.stdout
    line = output.readline()
    about: dict[str, Any] = {"fault": "error_sound_unreadable"}
    if line.endswith(b"\n"):
        about = json.loads(line)
    if "fault" in about:
        raise UserError(about["fault"], sound=sound, formats=FORMATS)
    sample_rate, seconds = about["sample_rate"], about["seconds"]
    if seconds is not None:
        num_samples = round(seconds * sample_rate)

    def blocks() -> Iterator[np.ndarray]:
        total = 0
        while True:
            head = output.read(8)
            if len(head) < 8:
                raise _unreadable(sound)
            shape = struct.unpack("<II", head)
            if shape[0] == 0:
                break
            samples = np.frombuffer(output.read(4 * shape[0] * shape[1]), np.float32)
            if len(samples) < shape[0] * shape[1]:
                raise _unreadable(sound)
            total += shape[0]
            yield samples.reshape(shape)
        if num_samples and total < num_samples - TOLERANCE * sample_rate:
            raise _cut_off(sound, "num_seconds", num_samples / sample_rate, total / sample_rate)

    return SoundStream(sample_rate, about["num_channels"], num_samples, blocks())


def _unreadable(sound: Text) -> UserError:
    return UserError("error_sound_unreadable", sound=sound, formats=FORMATS)


def _cut_off(sound: Text, unit: str, promised: float, present: float) -> UserError:
    return UserError(
        "error_sound_cut_off",
        sound=sound,
        promised=Text(unit, count=promised),
        present=round(present, 1),
    )
