"""A video file -> patches of what it shows, and its sound."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..audio import AudioClip, load_audio
from ..errors import UserError, shown
from ..sound_header import sound_kind
from .pictures import Patches, PatchSettings, check_file, fitted_size, patches_of, resized

DECODER = Path(__file__).with_name("video_frames.py")
KINDS = ("mov", "matroska")  # libav's names
FORMATS = "mp4, mov, 3gp, webm or mkv"
MAX_BYTES = 500_000_000
MAX_SECONDS = 60.0
FRAME_RATE = 2  # pictures a second, as the published processor assumes
MAX_TOKENS = 8192  # of a video, beside its sound's
STEP_TOKENS = (128, 768)  # of a step in time, at least and at most
MAX_SIDE = 8192  # pixels
WAIT_SECONDS = 60.0  # for another video

_decoders = BoundedSemaphore(2)


def load_video(source: Any, settings: PatchSettings) -> tuple[Patches, AudioClip | None]:
    """Read a video file, `FRAME_RATE` frames a second, and its sound if it has any.

    Raises:
        UserError: it is no video, damaged, or too long or large.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise UserError("error_video_kind", kind=type(source).__name__)
    path = Path(source)
    name = shown(path.name)
    check_file(path, name, MAX_BYTES)
    with path.open("rb") as file:
        kind = sound_kind(file)
        if kind not in KINDS:
            raise _unreadable(name)
        patches = _look(file, kind, name, settings)
    return patches, _sound(path)


def _sound(path: Path) -> AudioClip | None:
    """A video's sound; None where it has none."""
    try:
        return load_audio(path, MAX_SECONDS + 1, MAX_BYTES)
    except UserError as error:
        if error.code in ("error_no_sound_track", "error_no_samples"):
            return None
        raise


def _look(file: BinaryIO, kind: str, name: str, settings: PatchSettings) -> Patches:
    if not _decoders.acquire(timeout=WAIT_SECONDS):
        raise UserError("error_video_waits", name=name)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", DECODER, kind, str(MAX_SECONDS), str(FRAME_RATE)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # their threads reserve memory
        )
        with process:
            try:
                assert process.stdout is not None
                return _patches(process.stdout, name, settings)
            finally:
                process.kill()
    finally:
        _decoders.release()


def _patches(output: Any, name: str, settings: PatchSettings) -> Patches:
    """What `video_frames` says of a file."""
    line = output.readline()
    if not line.endswith(b"\n"):
        raise _unreadable(name)
    about = json.loads(line)
    if not about:
        raise UserError("error_no_pictures", name=name)
    if about["seconds"] > MAX_SECONDS:
        raise UserError("error_video_long", name=name, seconds=about["seconds"], limit=MAX_SECONDS)
    area, num = settings.token**2, about["num_frames"]
    low, high = (tokens * area for tokens in STEP_TOKENS)
    high = max(min(high, MAX_TOKENS * area * settings.frames // num), int(1.05 * low))
    frames, size = [], None
    for frame in _frames(output, name):
        height, width, _ = frame.shape
        size = size or fitted_size(height, width, settings.token, low, high)
        frames.append(resized(Image.fromarray(frame), size))
    if len(frames) != num:  # the process has ended before it was done
        raise _unreadable(name)
    return patches_of(frames, settings)


def _frames(output: Any, name: str) -> Iterator[np.ndarray]:
    """Frames [height, width, 3] uint8, each as it is decoded."""
    while len(head := output.read(8)) == 8:
        height, width = struct.unpack("<II", head)
        if not 0 < max(height, width) <= MAX_SIDE:
            raise _unreadable(name)
        pixels = output.read(3 * height * width)
        if len(pixels) < 3 * height * width:
            raise _unreadable(name)
        yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _unreadable(name: str) -> UserError:
    return UserError("error_video_unreadable", name=name, formats=FORMATS)
