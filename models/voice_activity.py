"""When somebody speaks: begin and end of speech in an open microphone's sound, by Silero VAD."""

from __future__ import annotations

from collections import deque
from functools import cache
from threading import Lock

import torch
from torch import Tensor

from .audio import StreamResampler

SAMPLE_RATE = 16_000  # of the detector
WINDOW = 512  # samples that it judges at once
CONTEXT = 64  # samples before them that it sees as well
SILENCE_SECONDS = 0.6  # after which speech has ended
SPEECH, SILENCE = 0.5, 0.35  # probabilities from which, and below which, it is told
NUM_SPEECH = 3  # windows of speech among the last `NUM_JUDGED` that begin it
NUM_JUDGED = 4
LOUD_SPEECH = 0.8  # the same while a reply is heard, of which the microphone gets an echo
NUM_LOUD_SPEECH, NUM_LOUD_JUDGED = 10, 12
_loading = Lock()


@cache
def _load() -> torch.nn.Module:
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(threads)  # the package sets it to 1 for the whole process
    # The network below the package's own wrapper, which would hold one user's state.
    network = load_silero_vad()._model
    state = torch.zeros(2, 1, 128)
    with torch.no_grad():
        for _ in range(3):  # it is compiled meanwhile
            _, state = network(torch.zeros(1, CONTEXT + WINDOW), state)
    return network


def load_detector() -> torch.nn.Module:
    """The network of all detectors, loaded once; half a second the first time."""
    with _loading:
        return _load()


class SpeechDetector:
    """Begin and end of speech in a stream of samples.

    Args:
        sample_rate: of the samples to come, in Hz.
        silence_seconds: of silence after which speech has ended.
    """

    def __init__(self, sample_rate: int, silence_seconds: float = SILENCE_SECONDS) -> None:
        self.is_speech = False
        self._sample_rate = sample_rate
        self._network = load_detector()
        self._resampler = StreamResampler(sample_rate, SAMPLE_RATE)
        self._num_silent = round(silence_seconds * SAMPLE_RATE / WINDOW)
        self._pending = torch.zeros(CONTEXT)  # the context, then what is no whole window yet
        self._state = torch.zeros(2, 1, 128)
        self._judged: deque[float] = deque(maxlen=NUM_LOUD_JUDGED)
        self._silent = 0  # windows since the last one with speech

    @property
    def seconds_to_end(self) -> float | None:
        """Seconds of silence after which speech will have ended; None while nobody speaks."""
        if not self.is_speech:
            return None
        count = (self._num_silent - self._silent) * WINDOW - (len(self._pending) - CONTEXT)
        return self._resampler.needed(count) / self._sample_rate

    @torch.no_grad()
    def push(self, samples: Tensor, *, echo: bool = False) -> list[bool]:
        """Hear the next samples.

        Args:
            samples: [n] float32 in -1..1.
            echo: a reply is being heard; only what is surely speech, and lasts, begins speech.

        Returns:
            What changed in them, in order: True speech has begun, False it has ended.
        """
        self._pending = torch.cat([self._pending, self._resampler.push(samples)])
        changes = []
        while len(self._pending) >= CONTEXT + WINDOW:
            window = self._pending[: CONTEXT + WINDOW]
            self._pending = self._pending[WINDOW:].clone()
            probability, self._state = self._network(window[None], self._state)
            if self._judge(float(probability), echo):
                changes.append(self.is_speech)
        return changes

    def _judge(self, probability: float, echo: bool) -> bool:
        """Whether a further window changes what is said."""
        self._judged.append(probability)
        if self.is_speech:
            if probability >= SPEECH:
                self._silent = 0
            elif probability < SILENCE or self._silent:
                self._silent += 1
            if self._silent < self._num_silent:
                return False
            self.is_speech = False
            self._judged.clear()
            return True
        least, count, among = SPEECH, NUM_SPEECH, NUM_JUDGED
        if echo:
            least, count, among = LOUD_SPEECH, NUM_LOUD_SPEECH, NUM_LOUD_JUDGED
        self.is_speech = sum(p >= least for p in list(self._judged)[-among:]) >= count
        self._silent = 0
        return self.is_speech
