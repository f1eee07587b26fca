"""A user's sound -> a checked mono wave; a wave -> PCM and wav files."""

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional as AF
from torch import Tensor

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8_000, 192_000
MAX_CHANNELS = 8
MAX_PEAK = 4.0  # loud float files pass 1 a little; far beyond it the scale is another
MAX_RESAMPLE_TERM = 1_000
UNKNOWN_LENGTH = 0x7FFFF000  # a wav written to a pipe gives such a length, or more, as its own
PCM16_GAIN = 32_767


@dataclass(frozen=True)
class AudioClip:
    """One mono sound: samples [T] float32 in -1..1, sample_rate in Hz."""

    samples: Tensor
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def load_audio(
    source: str | os.PathLike | tuple[int, np.ndarray], max_seconds: float = 60.0
) -> AudioClip:
    """Read a sound file, or take an array as Gradio gives it; channels are averaged.

    Args:
        source: path of a wav, flac, ogg or mp3 file; or (sample rate in Hz, samples [T] or
            [T, channels], signed integers of full scale or floats in -1..1).
        max_seconds: the longest sound allowed.

    Returns:
        The clip at its own rate. Float samples a little beyond -1..1 are clipped.

    Raises:
        ValueError: no such file, or one that is empty, damaged, cut off or no sound; an array of
            another type or shape; no samples, or some that are not finite or not in -1..1; too
            long; a sample rate outside 8 to 192 kHz.
    """
    if isinstance(source, (str, os.PathLike)):
        samples, sample_rate = _read_file(Path(source), max_seconds)
        name = f"the sound file {source}"
    elif isinstance(source, tuple) and len(source) == 2:
        samples, sample_rate = _read_array(*source, max_seconds)
        name = "the recording"
    else:
        raise ValueError(
            f"a sound came as {type(source).__name__}: "
            "give a file's path, or (sample rate, array of samples)"
        )
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} has samples that are NaN or infinite: export it again")
    peak = np.abs(samples).max()
    if peak > MAX_PEAK:
        raise ValueError(
            f"{name} has float samples up to {peak:.6g}, allowed are -1 to 1: "
            "divide them by their full scale"
        )
    mono = samples.mean(axis=1, dtype=np.float32).clip(-1, 1)
    return AudioClip(torch.from_numpy(mono), sample_rate)


def _read_file(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """Samples [T, channels] float32 and their rate; the header is checked before they are read."""
    if not path.is_file():
        raise ValueError(f"there is no sound file {path}: check its name")
    if path.stat().st_size == 0:
        raise ValueError(f"the sound file {path} is empty (0 bytes): record or export it again")
    try:
        info = soundfile.info(path)
        _check_wav_is_whole(path)
        name = f"the sound file {path}"
        _check_extent(name, info.frames, info.channels, info.samplerate, max_seconds)
        samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(
            f"{path} can't be read as sound ({str(error) or 'damaged'}): "
            "give a whole wav, flac, ogg or mp3 file"
        ) from error
    if len(samples) < info.frames:
        raise ValueError(_cut_off(path, f"{info.frames} samples", f"{len(samples)}"))
    return samples, sample_rate


def _check_wav_is_whole(path: Path) -> None:
    """Compare what a wav's data chunk promises with the file: soundfile reads what there is."""
    with path.open("rb") as file:
        header = file.read(12)
        if header[:4] != b"RIFF" or header[8:] != b"WAVE":
            return
        while len(header := file.read(8)) == 8:
            promised = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                present = path.stat().st_size - file.tell()
                if present < promised < UNKNOWN_LENGTH:
                    raise ValueError(_cut_off(path, f"{promised} bytes of samples", f"{present}"))
                return
            file.seek(promised + promised % 2, os.SEEK_CUR)


def _cut_off(path: Path, promised: str, present: str) -> str:
    return (
        f"the sound file {path} is cut off: its header promises {promised}, "
        f"it holds {present}. Copy or export it again"
    )


def _read_array(sample_rate: int, array: np.ndarray, max_seconds: float) -> tuple[np.ndarray, int]:
    """Samples [T, channels] float32 and their rate, from what Gradio gives."""
    if not isinstance(sample_rate, (int, np.integer)):
        raise ValueError(f"a sample rate must be a whole number in Hz, got {sample_rate!r}")
    if not isinstance(array, np.ndarray) or array.ndim not in (1, 2):
        shape = list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"samples must be an array [T] or [T, channels], got {shape}")
    if array.dtype.kind not in "if":
        raise ValueError(
            f"samples must be signed integers or floats, got {array.dtype}: "
            "convert them, for instance to int16"
        )
    samples = array.reshape(len(array), -1) if array.size else array.reshape(0, 1)
    _check_extent("the recording", *samples.shape, int(sample_rate), max_seconds)
    full_scale = np.iinfo(array.dtype).max + 1 if array.dtype.kind == "i" else 1
    return (samples / full_scale).astype(np.float32), int(sample_rate)


def _check_extent(
    name: str, num_samples: int, num_channels: int, sample_rate: int, max_seconds: float
) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"{name} has {sample_rate} samples a second, allowed are "
            f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}: convert it, for instance to 44100"
        )
    if num_samples == 0:
        raise ValueError(f"{name} has no samples: record or export it again")
    if num_channels > MAX_CHANNELS:
        raise ValueError(
            f"{name} has {num_channels} channels, allowed are up to {MAX_CHANNELS}: "
            "give mono or stereo (an array as [T, channels])"
        )
    if num_samples > max_seconds * sample_rate:
        raise ValueError(
            f"{name} lasts {num_samples / sample_rate:.1f} s, allowed are up to "
            f"{max_seconds:g} s: give a shorter piece"
        )


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
        ValueError: more than one channel or example.
    """
    samples = torch.as_tensor(samples)
    if samples.numel() != samples.shape[-1]:
        raise ValueError(f"a wave must be mono, [T] or [1, 1, T], got {list(samples.shape)}")
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
