"""Where speech goes: a wav file, which may grow, or PCM on stdout."""

from __future__ import annotations

import os
import stat
import sys
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from .audio import to_pcm16
from .errors import UserError, shown


def write_pcm16(path: str | os.PathLike, pcm: np.ndarray, sample_rate: int) -> None:
    """Write a mono wav file, and don't wait until it is on the disk, as libsndfile does.

    Args:
        path: of the file.
        pcm: [n] int16.
        sample_rate: in Hz.

    Raises:
        OSError: it can't be written.
    """
    with open(path, "wb") as raw, wave.open(raw, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.astype("<i2").tobytes())


def check_output(path: str, inputs: Sequence[str]) -> None:
    """Refuse a place for the reply in which it would be lost, or would overwrite the user's speech.

    Raises:
        UserError: a file that is an input too, of another kind than wav, or no file but a pipe.
    """
    if path == "-":
        return
    if Path(path).suffix.lower() not in ("", ".wav"):
        raise UserError("error_output_kind", name=shown(Path(path).name))
    is_pipe = is_input = False
    with suppress(OSError, ValueError):  # there is no such file yet, or it can't be one
        is_pipe = stat.S_ISFIFO(os.stat(path).st_mode)
        is_input = any(given != "-" and os.path.samefile(path, given) for given in inputs)
    if is_pipe:
        raise UserError("error_output_pipe", name=shown(Path(path).name))
    if is_input:
        raise UserError("error_output_is_input", name=shown(Path(path).name))


@contextmanager
def open_output(path: str, sample_rate: int, stream: bool) -> Iterator[Callable]:
    """Where speech goes: int16 PCM on stdout for -, else a wav file.

    Args:
        path: - or the wav file's.
        sample_rate: in Hz.
        stream: the wav file is a whole one after every write, not only at the end.

    Raises:
        UserError: it can't be written.
    """
    try:
        if path == "-":
            yield _pipe
        else:
            with open(path, "wb") as raw, wave.open(raw, "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(sample_rate)

                def write(audio: np.ndarray) -> None:
                    samples = to_pcm16(audio).tobytes()
                    if stream:
                        file.writeframes(samples)  # and their number into the header
                        raw.flush()
                    else:
                        file.writeframesraw(samples)

                yield write
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "stdout" if path == "-" else shown(path)
        reason = error.strerror or str(error)
        raise UserError("error_output_failed", name=name, reason=reason) from error


def _pipe(audio: np.ndarray) -> None:
    sys.stdout.buffer.write(to_pcm16(audio).tobytes())
    sys.stdout.buffer.flush()
