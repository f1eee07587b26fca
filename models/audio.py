"""A user's sound -> a checked mono wave; a wave -> PCM and wav files."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio.functional as AF
from torch import Tensor

from strings import Text

from .errors import UserError, shown
from .sound_file import BLOCK_SAMPLES, open_sound

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8_000, 192_000
MAX_CHANNELS = 8
MAX_SECONDS = 60.0
MAX_FILE_BYTES = 100_000_000  # a minute of stereo at 192 kHz with 32 bits has 92 million
MAX_VALUES = 1 << 26  # samples of all channels together; ten minutes of stereo at 48 kHz
MAX_PEAK = 4.0  # loud float files pass 1 a little; far beyond it the scale is another
MAX_RESAMPLE_TERM = 1_000
PCM16_GAIN = 32_767


@dataclass(frozen=True)
class AudioClip:
    """One mono sound.

    Fields:
        samples: [T] float32 in -1..1.
        sample_rate: in Hz.
        source: what a log calls it.

    Raises:
        UserError: samples of another shape or dtype, or not finite; a rate out of range.
    """

    samples: Tensor
    sample_rate: int
    source: str = "recording"

    def __post_init__(self) -> None:
        recording = Text("recording")
        if not isinstance(self.samples, Tensor) or self.samples.ndim != 1:
            raise UserError("error_array_shape", shape=_shape(self.samples))
        if not self.samples.is_floating_point():
            raise UserError("error_array_dtype", dtype=shown(str(self.samples.dtype)))
        if not self.samples.isfinite().all():
            raise UserError("error_sound_not_finite", sound=recording)
        _check_rate(recording, self.sample_rate)

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def load_audio(
    source: str | os.PathLike | BinaryIO | tuple[int, np.ndarray],
    max_seconds: float = MAX_SECONDS,
    max_bytes: int = MAX_FILE_BYTES,
) -> AudioClip:
    """Read a sound file, or take an array as Gradio gives it; channels are averaged.

    What is too large is refused before it is decoded. Decoding goes block by block, so beside the
    mono result little memory is used.

    Args:
        source: path of a sound file (`sound_file.FORMATS`), or one that is open and seekable; or
            (sample rate in Hz, samples [T] or [T, channels], signed integers of full scale or
            floats in -1..1).
        max_seconds: the longest sound allowed.
        max_bytes: the largest file allowed.

    Returns:
        The clip at its own rate. Float samples a little beyond -1..1 are clipped.

    Raises:
        UserError: no such file, or one that is empty, too large, damaged, cut off or no sound; an
            array of another type or shape; no samples, or some that are not finite or not in -1..1;
            too long; a sample rate outside 8 to 192 kHz; `max_seconds` is no number above 0.
    """
    check_max_seconds(max_seconds)
    if isinstance(source, (str, os.PathLike)):
        sound = Text("sound_file", name=shown(Path(source).name or str(source)))
        with _open_file(source, sound) as file:
            return _load_file(file, sound, max_seconds, max_bytes)
    if isinstance(source, tuple) and len(source) == 2:
        return _load_array(*source, max_seconds)
    if hasattr(source, "seek"):
        return _load_file(source, Text("recording"), max_seconds, max_bytes)
    raise UserError("error_sound_kind", kind=type(source).__name__)


def check_max_seconds(value: object) -> None:
    """Raise a UserError unless the longest sound allowed is a finite number of seconds above 0."""
    if not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise UserError("error_max_seconds", value=shown(value))


def _open_file(path: str | os.PathLike, sound: Text) -> BinaryIO:
    try:
        # Unlike open, this doesn't wait for who writes to a pipe, and the file has no name whose
        # ending soundfile would believe.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError as error:
        raise UserError("error_sound_file_closed", sound=sound) from error
    except (OSError, ValueError) as error:  # ValueError: of characters that no name can have
        raise UserError("error_no_sound_file", name=sound.values["name"]) from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UserError("error_no_sound_file", name=sound.values["name"])
    return open(number, "rb")


def _load_file(file: BinaryIO, sound: Text, max_seconds: float, max_bytes: int) -> AudioClip:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise UserError("error_sound_file_empty", sound=sound)
    if size > max_bytes:
        raise UserError("error_sound_file_large", sound=sound, size=size, limit=max_bytes)
    with open_sound(file, sound) as stream:
        extent = (stream.num_samples, stream.num_channels, stream.sample_rate)
        _check_extent(sound, *extent, max_seconds)
        mono = _mix(sound, stream.blocks, stream.sample_rate, max_seconds)
    return AudioClip(mono, stream.sample_rate)


def _load_array(sample_rate: int, array: np.ndarray, max_seconds: float) -> AudioClip:
    if not isinstance(array, np.ndarray) or array.ndim not in (1, 2):
        raise UserError("error_array_shape", shape=_shape(array))
    if array.dtype.kind not in "if":
        raise UserError("error_array_dtype", dtype=shown(str(array.dtype)))
    sound = Text("recording")
    samples = array.reshape(len(array), -1) if array.size else array.reshape(0, 1)
    _check_extent(sound, *samples.shape, sample_rate, max_seconds)
    full_scale = np.iinfo(array.dtype).max + 1 if array.dtype.kind == "i" else 1
    blocks = (
        (samples[start : start + BLOCK_SAMPLES] / full_scale).astype(np.float32)
        for start in range(0, len(samples), BLOCK_SAMPLES)
    )
    return AudioClip(_mix(sound, blocks, int(sample_rate), max_seconds), int(sample_rate))


def _shape(samples: object) -> str:
    if isinstance(samples, (np.ndarray, Tensor)):
        return shown(str(list(samples.shape)))
    return type(samples).__name__


def _check_rate(sound: Text, sample_rate: int) -> None:
    if not isinstance(sample_rate, (int, np.integer)):
        raise UserError("error_rate_type", value=shown(repr(sample_rate)))
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise UserError(
            "error_sample_rate",
            sound=sound,
            sample_rate=shown(repr(int(sample_rate))),
            low=MIN_SAMPLE_RATE,
            high=MAX_SAMPLE_RATE,
        )


def _check_extent(
    sound: Text, num_samples: int | None, num_channels: int, sample_rate: int, max_seconds: float
) -> None:
    """What can be refused before any sample is looked at."""
    _check_rate(sound, sample_rate)
    if num_samples == 0:
        raise UserError("error_no_samples", sound=sound)
    if num_channels > MAX_CHANNELS:
        raise UserError(
            "error_num_channels", sound=sound, num_channels=num_channels, limit=MAX_CHANNELS
        )
    if num_samples is None:
        return
    if num_samples > max_seconds * sample_rate:
        seconds = num_samples / sample_rate
        raise UserError("error_sound_long", sound=sound, seconds=seconds, limit=max_seconds)
    _check_values(sound, num_samples * num_channels)


def _check_values(sound: Text, count: int) -> None:
    if count > MAX_VALUES:
        raise UserError("error_sound_values", sound=sound, count=count, limit=MAX_VALUES)


def _mix(sound: Text, blocks: Iterable[np.ndarray], sample_rate: int, max_seconds: float) -> Tensor:
    """Check blocks [n, channels] float32 and average their channels as they come: [T] float32."""
    mixed, num_samples, num_values = [], 0, 0
    for block in blocks:
        num_samples, num_values = num_samples + len(block), num_values + block.size
        if num_samples > max_seconds * sample_rate:  # more than it promised, or it promised nothing
            raise UserError("error_sound_longer", sound=sound, limit=max_seconds)
        _check_values(sound, num_values)
        if not np.isfinite(block).all():
            raise UserError("error_sound_not_finite", sound=sound)
        peak = np.abs(block).max(initial=0)
        if peak > MAX_PEAK:
            raise UserError("error_sound_peak", sound=sound, peak=float(peak))
        mixed.append(block.mean(axis=1, dtype=np.float32).clip(-1, 1))
    if num_samples == 0:
        raise UserError("error_no_samples", sound=sound)
    return torch.from_numpy(np.concatenate(mixed))


def resample(clip: AudioClip, sample_rate: int) -> Tensor:
    """Bring a clip to another rate.

    The two rates' ratio is rounded to terms of at most about 1,000, less than one part in 100,000
    off: the filter table of an odd rate (11,111 Hz, say) would fill gigabytes.

    Returns:
        wave [1, 1, T'] float32, T' = ceil(T * sample_rate / clip.sample_rate).
    """
    ratio = Fraction(sample_rate, clip.sample_rate).limit_denominator(MAX_RESAMPLE_TERM)
    return AF.resample(clip.samples, ratio.denominator, ratio.numerator)[None, None]


def to_pcm16(samples: Tensor | np.ndarray) -> np.ndarray:
    """Turn a mono wave [..., T], float in -1..1, into int16 [T]: one fixed gain, clipped, rounded.

    The gain never depends on the samples, so pieces of a stream join without a jump in loudness.

    Raises:
        UserError: more than one channel or example.
    """
    samples = torch.as_tensor(samples)
    if samples.numel() != samples.shape[-1]:
        raise UserError("error_wave_shape", shape=_shape(samples))
    pcm = samples.detach().float().flatten().clamp(-1, 1) * PCM16_GAIN
    return pcm.round().to("cpu", torch.int16).numpy()


def write_wav(path: str | os.PathLike, samples: Tensor, sample_rate: int) -> None:
    """Write a mono wave [..., T], float in -1..1, as a 16-bit wav file."""
    soundfile.write(path, to_pcm16(samples), sample_rate, subtype="PCM_16", format="WAV")


class StreamResampler:
    """`resample` in pieces: the pieces' results joined are the whole's, to rounding.

    Args:
        sample_rate: of the samples to come, in Hz.
        new_sample_rate: of the result, in Hz.
    """

    def __init__(self, sample_rate: int, new_sample_rate: int) -> None:
        ratio = Fraction(new_sample_rate, sample_rate).limit_denominator(MAX_RESAMPLE_TERM)
        self.step, self.new_step = ratio.denominator, ratio.numerator
        # The filter reaches `width` samples to both sides (torchaudio's default, 6 zero crossings);
        # whole steps of context keep its phase.
        width = 6 * self.step / min(self.step, self.new_step)
        self.context = self.step * (int(width / self.step) + 2)
        self._pending = torch.zeros(0)
        self._before = 0  # of the pending samples, how many are context already heard

    @property
    def pending(self) -> int:
        """Samples that came but have not been answered yet."""
        return len(self._pending) - self._before

    def push(self, samples: Tensor) -> Tensor:
        """Take the next samples [n] float32; returns those [m] that are certain now."""
        if self.step == self.new_step:
            return samples
        self._pending = torch.cat([self._pending, samples])
        num_steps = max(0, (self.pending - self.context) // self.step)
        return self._resample(num_steps)

    def needed(self, count: int) -> int:
        """How many samples must still come until `count` more of the result are certain."""
        if self.step == self.new_step:
            return count
        steps = -(-count // self.new_step)
        return steps * self.step + self.context - self.pending

    def finish(self) -> Tensor:
        """The rest [m], once no more samples come."""
        if not self.pending:
            return torch.zeros(0)
        result = AF.resample(self._pending, self.step, self.new_step)
        result = result[self._before // self.step * self.new_step :]
        self._pending, self._before = torch.zeros(0), 0
        return result

    def _resample(self, num_steps: int) -> Tensor:
        """Answer whole steps, and keep what later ones still see."""
        if num_steps == 0:
            return torch.zeros(0)
        result = AF.resample(self._pending, self.step, self.new_step)
        first = self._before // self.step * self.new_step
        result = result[first : first + num_steps * self.new_step]
        heard = self._before + num_steps * self.step
        dropped = max(0, heard - self.context)
        self._pending, self._before = self._pending[dropped:].clone(), heard - dropped
        return result
