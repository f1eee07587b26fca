"""How loud speech is: silence told from speech, and quiet speech raised before the codec.

The rule looks at frames of 30 ms. There is speech where some frames are loud enough, and louder
than the steady noise around them. Its level is the mean power of the frames near the loudest. A
level below `TARGET_LEVEL` is raised to it by at most `MAX_GAIN`; louder speech is left as it is,
for how loudly one speaks tells of the mood. A sound shorter than half a second, or with no more
frames of speech than a click has, is refused: a word takes longer.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .audio import AudioClip
from .errors import UserError

FRAME_SECONDS = 0.03
TARGET_LEVEL = -38.0  # dBFS, a little below the quietest example recording
MAX_GAIN = 40.0  # dB
SILENCE_LEVEL = -80.0  # dBFS; a muted microphone gives the last bit of 16 at most, -90
STEADY_LEVEL = -35.0  # dBFS; louder sound counts as speech, however steady
STEADY_RANGE = 8.0  # dB from the quietest tenth of the frames to speech
LOUDEST = 4  # frames that don't count, in a second: a click is louder than speech, but shorter
SPEECH_RANGE = 15.0  # dB below it: frames that make the level
MIN_FRAMES = 16  # of a sound that is answered, half a second
MIN_STEADY_FRAMES = 17  # half a second; a shorter clip may be a single steady syllable
GAIN_SLOPE = 60.0  # dB a second, in a stream


def speech_level(samples: Tensor, sample_rate: int) -> float | None:
    """The level of the speech in a sound.

    Args:
        samples: [T] float in -1..1.
        sample_rate: in Hz.

    Returns:
        Its level in dBFS; None if there is only silence or steady noise.
    """
    return _speech_level(_levels_of(samples, sample_rate))


def level_speech(clip: AudioClip) -> AudioClip:
    """Raise quiet speech to `TARGET_LEVEL`; one gain for the whole clip, and none for loud speech.

    Raises:
        UserError: there is no speech in it, or too little.
    """
    gain = _gain(_checked_level(_levels_of(clip.samples, clip.sample_rate)))
    if gain == 0:
        return clip
    samples = (clip.samples * 10 ** (gain / 20)).clamp(-1, 1)
    return dataclasses.replace(clip, samples=samples)


class StreamLeveller:
    """`level_speech` while the speech still comes.

    The gain is the one that a clip of all that was heard so far would get, but goes there by
    `GAIN_SLOPE` from sample to sample, so nothing jumps. How the speech is cut into pieces doesn't
    matter. Up to one frame of it is held back.

    Args:
        sample_rate: in Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._size = round(FRAME_SECONDS * sample_rate)
        self._levels = torch.zeros(0)
        self._gain = 0.0  # dB, at the end of the last frame
        self._pending = torch.zeros(0)

    def check(self) -> None:
        """Refuse what was pushed, but for the frame that is held back, as `level_speech` does.

        Raises:
            UserError: there was no speech in it, or too little.
        """
        _checked_level(self._levels)

    def push(self, samples: Tensor) -> Tensor:
        """Take the next samples [n] float in -1..1; returns those [m] whose gain is known."""
        pending = torch.cat([self._pending, samples])
        whole = len(pending) // self._size * self._size
        self._pending = pending[whole:].clone()
        frames = pending[:whole].view(-1, self._size)
        levels = _frame_levels(pending[:whole], self._size)
        return torch.cat([torch.zeros(0), *map(self._raise, frames, levels)])

    def finish(self) -> Tensor:
        """The rest [m], once no more samples come."""
        rest, self._pending = self._pending, torch.zeros(0)
        return (rest * 10 ** (self._gain / 20)).clamp(-1, 1)

    def _raise(self, frame: Tensor, level: Tensor) -> Tensor:
        self._levels = torch.cat([self._levels, level[None]])
        heard = _speech_level(self._levels, min_steady_frames=1)
        change = (_gain(heard) if heard is not None else 0.0) - self._gain
        slope = GAIN_SLOPE * FRAME_SECONDS
        change = min(max(change, -slope), slope)
        gains = self._gain + change * torch.arange(1, self._size + 1) / self._size
        self._gain += change
        return (frame * 10 ** (gains / 20)).clamp(-1, 1)


def _gain(level: float) -> float:
    return min(max(TARGET_LEVEL - level, 0.0), MAX_GAIN)


def _frame_levels(samples: Tensor, size: int) -> Tensor:
    """dBFS of each frame without its mean, [frames], of whole frames."""
    frames = samples.float().view(-1, size)
    power = (frames - frames.mean(dim=1, keepdim=True)).square().mean(dim=1)
    return 10 * torch.log10(power.clamp(min=1e-12))


def _levels_of(samples: Tensor, sample_rate: int) -> Tensor:
    """Those of a whole sound's frames, at least one."""
    size = round(FRAME_SECONDS * sample_rate)
    if len(samples) < size:
        samples = torch.nn.functional.pad(samples, (0, size - len(samples)))
    return _frame_levels(samples[: len(samples) // size * size], size)


def _checked_level(levels: Tensor) -> float:
    """The level of enough speech.

    Raises:
        UserError: there is none, or too little.
    """
    speech = _speech(levels)
    if speech is None:
        raise UserError("error_silent")
    if len(levels) < MIN_FRAMES or len(speech) <= LOUDEST:
        raise UserError("error_nothing_heard")
    return _mean_level(speech)


def _speech_level(levels: Tensor, min_steady_frames: int = MIN_STEADY_FRAMES) -> float | None:
    speech = _speech(levels, min_steady_frames)
    return None if speech is None else _mean_level(speech)


def _mean_level(levels: Tensor) -> float:
    return float(10 * torch.log10((10 ** (levels / 10)).mean()))


def _speech(levels: Tensor, min_steady_frames: int = MIN_STEADY_FRAMES) -> Tensor | None:
    """The levels of the frames of speech, none above the loudest that counts; None without any."""
    if len(levels) == 0:
        return None
    ordered = levels.sort(descending=True).values
    loudest = float(ordered[min(LOUDEST, (len(levels) - 1) // 8)])
    quietest = float(ordered[int(0.9 * (len(levels) - 1))])
    steady = len(levels) >= min_steady_frames and loudest - quietest < STEADY_RANGE
    if loudest < SILENCE_LEVEL or (steady and loudest < STEADY_LEVEL):
        return None
    return levels[levels >= loudest - SPEECH_RANGE].clamp(max=loudest)
