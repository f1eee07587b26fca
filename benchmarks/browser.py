"""Chromium with a microphone that hears what it is given."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import Page, sync_playwright

MICROPHONE_RATE = 48_000
TIMEOUT_MS = 60_000


@contextmanager
def opened(url: str, heard: np.ndarray, script: str) -> Iterator[Page]:
    """A page in headless Chromium.

    Args:
        url: of the page.
        heard: [n] int16 at `MICROPHONE_RATE`; the microphone begins with it when it is opened, and
            again at its end.
        script: that runs before the page's own.
    """
    names = "chromium", "chromium-browser", "chromium-headless-shell"
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        sys.exit("there is no Chromium on the path: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        microphone = Path(folder) / "speech.wav"
        soundfile.write(microphone, heard, MICROPHONE_RATE, subtype="PCM_16")
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
        page.set_default_timeout(TIMEOUT_MS)
        page.add_init_script(script)
        page.goto(url)
        page.wait_for_selector("#send")
        yield page
        browser.close()
