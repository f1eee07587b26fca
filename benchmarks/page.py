"""From the click to the first sound, in headless Chromium: python -m benchmarks.page

A recording is made with Chromium's fake microphone and sent; the clock runs from the click on Send
to the instant for which the page schedules the first sample.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import Page, sync_playwright

import app
from models.load import load_model

from .common import report

REPLY_SECONDS = 4
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
    page.click("#audio button.record-button")
    page.wait_for_timeout(1000 * seconds)
    page.click("#audio button.stop-button")
    page.wait_for_function(
        "!['', '0:00', undefined].includes(document.querySelector('#audio #duration')?.innerText)"
    )
    page.click("#send")
    page.wait_for_function("window.firstSound !== null")
    page.wait_for_function(
        f"document.querySelectorAll('#chat .bot-row .minimal-audio-player').length == {number}"
    )
    page.wait_for_timeout(500)
    return page.evaluate("window.firstSound") / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the recording")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("there is no Chromium on the path: apt-get install chromium")
    model = load_model("tiny")
    model.warm_up()
    demo = app.build_demo(model, reply_seconds=REPLY_SECONDS)
    url = demo.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)[1]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        microphone = Path(folder) / "speech.wav"
        samples = 3000 * np.sin(np.arange(10 * 48_000) * 0.02)
        soundfile.write(microphone, samples.astype(np.int16), 48_000, subtype="PCM_16")
        browser = driver.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        page = browser.new_context(permissions=["microphone"]).new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(CLOCK)
        page.goto(url)
        page.wait_for_selector("#send")
        times = [first_sound(page, options.seconds, run + 1) for run in range(options.runs + 1)]
        browser.close()
    demo.close()
    report(
        "page",
        {
            "recording_seconds": options.seconds,
            "first_sound_seconds": statistics.median(times[1:]),
            "first_sound_seconds_worst": max(times[1:]),
            "first_sound_seconds_first_turn": times[0],
        },
    )


if __name__ == "__main__":
    main()
