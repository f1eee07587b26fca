"""From the click to the first sound, in headless Chromium: python -m benchmarks.page

A recording is made with Chromium's fake microphone and sent; the clock runs from the click on Send
to the instant for which the page schedules the first sample. With --hands-free, so many turns are
spoken to the open microphone, and it runs from the end of speech: see hands_free.py. Without a
browser, by hand:

with --turns, one visitor writes so many turns: the clock runs from each request to its reply's end;
beside each turn, the same is asked of the model alone, so that what the page adds is seen. Then, or
with --users alone, so many visitors write at the same time, for each number that is given: the
clock runs from the request to the first samples.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from uuid import uuid4

import numpy as np
from loguru import logger
from playwright.sync_api import Page

import app
from generate import generate_long
from models.contract import SpeechModel
from models.load import load_model
from models.voice_activity import SILENCE_SECONDS

from .browser import MICROPHONE_RATE, opened
from .common import report
from .hands_free import in_hands_free
from .visitor import API, Clock, TimeIsUpError, Visitor, told_bars

REPLY_SECONDS = 4
SHOWN_TURNS = (5, 100, 200)
MANY_USERS = (4, 16)
SPARE_SECONDS = 3.0  # between a user's turns
MOST_OVER = 1.2  # times that a late turn may take as long as an early one
MOST_CLICK, MOST_FIRST_CLICK = 0.3, 0.45  # seconds from the click to the first sound
MOST_HANDS_FREE = 0.4  # seconds from the end of speech to it, beyond the detector's silence
PAUSE_SECONDS = REPLY_SECONDS + 4.0  # of who talks hands-free, in which a reply is heard
TEXTS = ("最近心情不好，能聊聊吗？", "我并不喜欢现在的工作。", "家里人不同意我去当电竞选手。")
CLOCK = """
window.firstSound = null; window.clicked = null;
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  const wait = 1000 * (when - this.context.currentTime);
  window.firstSound ??= performance.now() + wait - window.clicked;
  return start.call(this, when);
};
window.addEventListener("click", (event) => {
  if (!event.target.closest("#send")) return;
  window.clicked = performance.now();
  window.firstSound = null;
}, true);
"""


def first_sound(page: Page, seconds: float, number: int) -> float:
    """Record, send, wait for the whole reply; returns the seconds to its first sound."""
    page.click("#composer .record")
    page.wait_for_timeout(1000 * seconds)
    page.click("#composer .record")
    page.wait_for_selector("#composer .attached:not([hidden])")
    page.click("#send")
    page.wait_for_function("window.firstSound !== null")
    page.wait_for_function(f"document.querySelectorAll('#chat .bot-row .sound').length == {number}")
    page.wait_for_timeout(500)
    return page.evaluate("window.firstSound") / 1000


def in_browser(url: str, seconds: float, num_runs: int) -> list[float]:
    """The seconds from click to first sound, of the first turn and of `num_runs` more."""
    samples = 3000 * np.sin(np.arange(10 * MICROPHONE_RATE) * 0.02)
    samples[np.arange(len(samples)) % 12_000 > 8000] = 0  # bursts, as of speech
    with opened(url, samples.astype(np.int16), CLOCK) as page:
        return [first_sound(page, seconds, run + 1) for run in range(num_runs + 1)]


class Writer(Visitor):
    """A visitor who writes, without a browser: what the page's script sends, by hand.

    Args:
        url: of the page.
        clock: that ends all waits.
        answer: the number of the page's event that answers what is written.
    """

    def __init__(self, url: str, clock: Clock, answer: int) -> None:
        super().__init__(url, clock)
        self.answer, self.session = answer, uuid4().hex

    def turn(self, text: str) -> tuple[float, float]:
        """Returns the seconds to the first samples and to the reply's end.

        Raises:
            ValueError: the page has refused it, or the reply is lost.
        """
        started, first = time.perf_counter(), 0.0
        settings = ["", REPLY_SECONDS, 0.7, 0.7, 1.2, -1]
        body = {
            "data": [{"text": text, "audio": None}, *settings],
            "fn_index": self.answer,
            "session_hash": self.session,
        }
        self.get("POST", f"{API}/queue/join", body).read()
        events = self.get("GET", f"{API}/queue/data?session_hash={self.session}")
        for line in self.lines(events):
            if not line.startswith("data:"):
                continue
            message = json.loads(line[5:])
            if message["msg"] == "process_generating" and not first and _has_speech(message):
                first = time.perf_counter() - started
            if message["msg"] == "process_completed":
                if not message["success"] or not first:
                    raise ValueError(f"a turn failed: {message['output']}")
                return first, time.perf_counter() - started
        raise ValueError("a reply is lost: its stream has ended before it")


def _has_speech(message: dict) -> bool:
    """Whether samples for the player are among what an event has yielded: its second output."""
    value = json.dumps(message["output"]["data"][1])
    return len(value) > 200


def with_users(url: str, clock: Clock, answer: int, num_users: int, num_turns: int) -> list[float]:
    """The seconds to first sound of all turns of users who write at the same time."""
    clock.begin(f"{num_users} who write at the same time", num_users * num_turns)

    def write(number: int) -> list[float]:
        writer, times = Writer(url, clock, answer), []
        time.sleep(SPARE_SECONDS * number / num_users)
        for turn in range(num_turns):
            times.append(writer.turn(TEXTS[turn % len(TEXTS)])[0])
            clock.count()
            time.sleep(SPARE_SECONDS)
        return times

    with ThreadPoolExecutor(num_users) as pool:
        return list(chain.from_iterable(pool.map(write, range(num_users))))


@dataclasses.dataclass
class Turns:
    """Of each turn of one long conversation: seconds to its end, and bytes that the page sent."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    seconds_alone: list[float] = dataclasses.field(default_factory=list)
    num_bytes: list[int] = dataclasses.field(default_factory=list)


def over_turns(model: SpeechModel, url: str, clock: Clock, answer: int, num_turns: int) -> Turns:
    """One conversation on the page, and beside it the same one with the model alone."""
    clock.begin("a long conversation", num_turns)
    writer, conversation, turns = Writer(url, clock, answer), model.new_conversation(), Turns()
    frames = round(REPLY_SECONDS * model.frame_rate)
    for turn in range(num_turns):
        before, text = writer.num_bytes, TEXTS[turn % len(TEXTS)]
        turns.seconds.append(writer.turn(text)[1])
        turns.num_bytes.append(writer.num_bytes - before)
        started = time.perf_counter()
        for _ in generate_long(
            model, text=text, conversation=conversation, max_new_tokens=frames, log_content=False
        ):
            pass
        turns.seconds_alone.append(time.perf_counter() - started)
        clock.count()
    return turns


def turn_figures(turns: Turns) -> dict[str, object]:
    """Of the turns `SHOWN_TURNS`, and of the last one, each the median of five around it."""
    num_turns = len(turns.seconds)
    figures: dict[str, object] = {"turns": num_turns}
    for name, values in vars(turns).items():
        numbers = sorted({*(n for n in SHOWN_TURNS if n <= num_turns), num_turns})
        figures |= {f"turn_{n}_{name}": around(values, n) for n in numbers}
        if name != "num_bytes":
            over = around(values, num_turns) / around(values, 5)
            figures[f"turn_{num_turns}_over_turn_5_{name}"] = over
            figures[f"worst_turn_{name}"] = max(values[5:], default=0.0)
    return figures


def around(values: Sequence[float], number: int) -> float:
    """The median of five turns around a turn, counted from 1."""
    first = max(0, min(number - 3, len(values) - 5))
    return statistics.median(values[first : first + 5])


def measure(
    options: argparse.Namespace, model: SpeechModel, url: str, clock: Clock, answer: int
) -> dict[str, object]:
    if options.turns or options.users:
        figures: dict[str, object] = {}
        if options.turns:
            figures |= turn_figures(over_turns(model, url, clock, answer, options.turns))
        for num_users in options.users or MANY_USERS:
            times = with_users(url, clock, answer, num_users, options.runs)
            figures[f"first_sound_seconds_p50_of_{num_users}"] = statistics.median(times)
            figures[f"first_sound_seconds_p95_of_{num_users}"] = float(np.percentile(times, 95))
        return figures
    if options.hands_free:
        times = in_hands_free(url, clock, options.hands_free, PAUSE_SECONDS)
        over = [seconds - SILENCE_SECONDS for seconds in times]
        return {
            "hands_free_turns": len(times),
            "detector_silence_seconds": SILENCE_SECONDS,
            "end_of_speech_to_first_sound_seconds": statistics.median(times),
            "over_silence_seconds": statistics.median(over),
            "over_silence_seconds_worst": max(over),
        }
    times = in_browser(url, options.seconds, options.runs)
    return {
        "recording_seconds": options.seconds,
        "first_sound_seconds": statistics.median(times[1:]),
        "first_sound_seconds_worst": max(times[1:]),
        "first_sound_seconds_first_turn": times[0],
    }


def bars(figures: dict[str, object]) -> dict[str, tuple[float, float]]:
    """Of what was measured, what is to be reached: see `told_bars`."""
    most = {
        "first_sound_seconds": MOST_CLICK,
        "first_sound_seconds_first_turn": MOST_FIRST_CLICK,
        "over_silence_seconds": MOST_HANDS_FREE,
        f"turn_{figures.get('turns')}_over_turn_5_seconds": MOST_OVER,
    }
    return {name: (float(str(figures[name])), most[name]) for name in most if name in figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the recording")
    parser.add_argument("--runs", type=int, default=5, help="turns of each user")
    parser.add_argument(
        "--hands-free", type=int, default=0, metavar="TURNS", help="spoken to the open microphone"
    )
    parser.add_argument("--turns", type=int, default=0, help="of one long conversation")
    parser.add_argument(
        "--users", type=int, nargs="*", default=[], help="who write at the same time; 4 16"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="after which it gives up")
    options = parser.parse_args()
    clock = Clock(options.minutes)
    logger.disable("generate")
    clock.begin("the page starts", 1)
    model = load_model("tiny")
    model.warm_up()
    limits = app.Limits(reply_seconds=REPLY_SECONDS, user_requests=100_000)
    page = app.Page(model, dataclasses.replace(limits, address_requests=1_000_000))
    events = page.demo.fns.items()
    answer = next(number for number, event in events if event.name == "answer")
    try:
        figures = measure(options, model, page.launch(quiet=True), clock, answer)
    except (TimeIsUpError, ValueError, OSError) as error:
        sys.exit(f"a reply is lost, or time is up: {error}")
    finally:
        page.close()
    is_reached = told_bars(bars(figures))
    report("page", figures)
    if not is_reached:
        sys.exit("a bar is missed")


if __name__ == "__main__":
    main()
