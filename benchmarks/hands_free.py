"""From the end of speech to the first sound in hands-free talk, in headless Chromium.

The microphone hears the example recordings one after another, each cut where its speech ends and
followed by a pause in which the reply is heard. Where in the microphone's sound a recording lies
is found by correlation, and when that sound came from the arrivals of its pieces; the clock runs
from the last sample of speech to the instant for which the page schedules the reply's first one.
"""

import base64
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Page
from scipy.signal import correlate
from torch import Tensor

from models.audio import AudioClip, load_audio, resample, to_pcm16
from models.voice_activity import SpeechDetector

from .browser import MICROPHONE_RATE, opened
from .visitor import Clock

EXAMPLES = Path(__file__).parent.parent / "examples"
END_LEVEL = 10 ** (-35 / 20)  # of the loudest frame: what is quieter is no speech any more
FRAME_SECONDS = 0.01
LEAD_SECONDS = 3.0  # before the first recording: the microphone's gain comes to rest
ARRIVAL_SECONDS = 2.0  # of pieces from whose arrivals it is told when a sample came
CLOCK = """
window.starts = []; window.arrivals = []; window.heardPieces = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  window.starts.push(performance.now() + 1000 * (when - this.context.currentTime));
  return start.call(this, when);
};
"""
LISTEN_IN = """() => {
  const { open } = window.pageMicrophone;
  window.pageMicrophone.open = (onPiece, onLost) => open((samples, rate) => {
    window.arrivals.push(performance.now());
    window.heardPieces.push(samples);
    window.heardRate = rate;
    onPiece(samples, rate);
  }, onLost);
}"""
TOLD = """() => ({
  starts: window.starts, arrivals: window.arrivals, rate: window.heardRate,
  pcm: window.pageMicrophone.base64(window.heardPieces),
})"""


@dataclass(frozen=True)
class Heard:
    """What the page heard and played.

    Fields:
        samples: [n] float32, of the microphone.
        rate: of these, in Hz.
        arrivals: of the microphone's pieces, in seconds of the page's clock.
        starts: for which the page scheduled pieces of replies, in seconds of the same clock.
    """

    samples: np.ndarray
    rate: int
    arrivals: np.ndarray
    starts: np.ndarray

    def time_of(self, sample: int) -> float:
        """When the microphone had a sample: pieces come late at times, but never early."""
        size = len(self.samples) // len(self.arrivals)
        last = min(sample // size + 1, len(self.arrivals))
        first = max(0, last - round(ARRIVAL_SECONDS * self.rate / size))
        ends = np.arange(first + 1, last + 1) * size / self.rate
        return float((self.arrivals[first:last] - ends).min()) + sample / self.rate


def recordings() -> list[Tensor]:
    """The example recordings without a pause that ends a turn, up to the end of their speech.

    Returns:
        waves [n] float32 at `MICROPHONE_RATE`.
    """
    return [wave for wave in map(_speech, sorted(EXAMPLES.glob("*.wav"))) if _is_one_turn(wave)]


def _speech(path: Path) -> Tensor:
    wave = resample(load_audio(path), MICROPHONE_RATE).flatten()
    size = round(FRAME_SECONDS * MICROPHONE_RATE)
    levels = wave[: len(wave) // size * size].view(-1, size).square().mean(dim=1).sqrt()
    return wave[: size * (1 + int((levels > END_LEVEL * levels.max()).nonzero()[-1]))]


def _is_one_turn(wave: Tensor) -> bool:
    heard = torch.cat([_silence(1.0), wave, _silence(1.0)])
    return SpeechDetector(MICROPHONE_RATE).push(heard) == [True, False]


def _silence(seconds: float) -> Tensor:
    return torch.zeros(round(seconds * MICROPHONE_RATE))


def in_hands_free(url: str, clock: Clock, num_turns: int, pause_seconds: float) -> list[float]:
    """The seconds from the end of speech to the first sound, of each turn.

    Args:
        pause_seconds: after each recording; a reply must have been heard within it.

    Raises:
        ValueError: a reply is lost, or has begun before the speech ended.
    """
    clock.begin("hands-free talk", num_turns)
    spoken = list(islice(cycle(recordings()), num_turns))
    parts = [part for each in spoken for part in (each, _silence(pause_seconds))]
    wave = torch.cat([_silence(LEAD_SECONDS), *parts])
    with opened(url, to_pcm16(wave), CLOCK) as page:
        heard = _talk(page, clock, num_turns)
    times, place = [], 0
    slack = round((LEAD_SECONDS + pause_seconds) * heard.rate)
    for each in spoken:
        template = resample(AudioClip(each, MICROPHONE_RATE), heard.rate).flatten().numpy()
        within = heard.samples[place : place + len(template) + slack]
        place += int(np.abs(correlate(within, template, "valid", "fft")).argmax())
        begin, end = heard.time_of(place), heard.time_of(place + len(template))
        place += len(template)
        times.append(_first_sound(heard.starts, begin, end, pause_seconds))
    return times


def _talk(page: Page, clock: Clock, num_turns: int) -> Heard:
    page.wait_for_selector("#hands-free[data-state]")
    page.evaluate(LISTEN_IN)
    page.click("#hands-free")
    for turn in range(num_turns):
        replies = "document.querySelectorAll('#chat .bot-row .sound').length"
        page.wait_for_function(f"{replies} > {turn}")
        clock.count()
        clock.check()
    page.wait_for_timeout(500)
    told = page.evaluate(TOLD)
    samples = np.frombuffer(base64.b64decode(told["pcm"]), "<i2").astype(np.float32)
    arrivals, starts = (np.array(told[name]) / 1000 for name in ("arrivals", "starts"))
    return Heard(samples, told["rate"], arrivals, starts)


def _first_sound(starts: np.ndarray, begin: float, end: float, pause_seconds: float) -> float:
    after = starts[starts > begin]
    if not len(after) or after[0] > end + pause_seconds:
        raise ValueError("a reply is lost: there was none in the pause after the speech")
    if after[0] < end:
        raise ValueError("a reply has begun before the speech ended")
    return float(after[0] - end)
