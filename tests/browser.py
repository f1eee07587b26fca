"""A browser for tests of the page, whose microphone hears somebody speak, pause, and so on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import torch

from models.audio import load_audio, resample, to_pcm16

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = "chromium-headless-shell", "chromium", "chromium-browser"  # the first is twice as fast
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the path"),
]
EXAMPLE = Path(__file__).parent.parent / "examples" / "4-family.wav"
ATTACHED = "#composer .attached[data-kind={}]:not([hidden])"
PAUSE_SECONDS = 4.0
PERMISSIONS = ["microphone", "clipboard-read", "clipboard-write"]
NUM_KEPT = 6  # browsers of people who have left
NOWHERE = "http://127.0.0.1/nothing"

# What the page's player gives to Web Audio: where each piece starts, its samples, and its end; and
# every track of a microphone.
LISTEN_IN = """{
window.played = []; window.sounding = new Set(); window.tracks = []; window.states = [];
const {start, stop} = AudioBufferSourceNode.prototype;
AudioBufferSourceNode.prototype.start = function (when) {
  const {sampleRate} = this.buffer;
  const samples = Array.from(this.buffer.getChannelData(0), (x) => Math.round(x * 32768));
  window.played.push({rate: sampleRate, first: Math.round(when * sampleRate), samples});
  window.sounding.add(this);
  this.addEventListener("ended", () => window.sounding.delete(this));
  return start.call(this, when);
};
AudioBufferSourceNode.prototype.stop = function () {
  window.sounding.delete(this);
  return stop.call(this);
};
const devices = navigator.mediaDevices; // about:blank has none
const open = devices?.getUserMedia.bind(devices);
if (devices) devices.getUserMedia = async (wanted) => {
  const stream = await open(wanted);
  window.tracks.push(...stream.getTracks());
  return stream;
};
window.liveTracks = () => window.tracks.filter((track) => track.readyState === "live").length;
new MutationObserver(() => {
  const state = document.querySelector("#hands-free")?.dataset.state;
  if (state && state !== window.states.at(-1)) window.states.push(state);
}).observe(document, {subtree: true, childList: true, attributes: true});
}"""

OPEN_IS_SEEN = """() => {
  const { state } = document.querySelector("#hands-free")?.dataset ?? {};
  const isSeen = ["listening", "thinking", "speaking"].includes(state);
  const isRecorded = document.querySelector("#composer .record.on");
  return isSeen || Boolean(isRecorded) || window.liveTracks() === 0;
}"""

WHAT_IS_SHOWN = """() => {
  const texts = (selector) => [...document.querySelectorAll(selector)].map((one) => one.innerText);
  return {
    kind: document.querySelector("#status .status").dataset.kind,
    said: texts("#status .said, #status .fault, .toast-message-text"),
    attached: texts("#composer .attached:not([hidden]) .name"),
    replies: texts("#chat .bot-row"),
    ended: texts("#chat .bot-row .actions").length,
  };
}"""


@contextmanager
def chromium(folder: Path) -> Iterator[playwright.Browser]:
    """Chromium, whose microphone hears a recording, a pause, and so on."""
    path = folder / "speech.wav"
    clip = load_audio(EXAMPLE)
    speech = resample(clip, 48_000).flatten()
    pause = torch.zeros(int(PAUSE_SECONDS * 48_000))
    wave = torch.cat([pause[:12_000], speech, pause])
    soundfile.write(path, to_pcm16(wave), 48_000, subtype="PCM_16")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={path}",
                "--process-per-site",  # a further window of a person's is ready in half the time
            ],
        )
        yield browser
        browser.close()


def watch(context: playwright.BrowserContext, faults: list[str], origins: set[str]) -> None:
    """Note every error of a browser's pages, whom they ask, and what of another machine."""

    def complained(message: playwright.ConsoleMessage) -> None:
        # That an answer is missing the network alone says, as tests cut it and refuse.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def asked(request: playwright.Request) -> None:
        url = urlsplit(request.url)
        origins.add(f"{url.scheme}://{url.netloc}")
        if url.hostname not in (None, "127.0.0.1"):
            faults.append(f"{request.url} was asked for")

    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("console", complained)
    context.on("request", asked)


@dataclass
class Traces:
    """A browser's language, what went wrong in it, and whose pages it may keep something of."""

    locale: str
    faults: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)


class People:
    """Browsers of people, whose pages note their errors.

    A new one takes three times as long to show the page as one that showed it before, so they are
    used again, once all that they kept is deleted.
    """

    def __init__(self, browser: playwright.Browser) -> None:
        self.browser = browser
        self._traces: dict[playwright.BrowserContext, Traces] = {}
        self._free: list[playwright.BrowserContext] = []  # who left last at the end

    def come(self, locale: str) -> playwright.BrowserContext:
        """The browser of somebody who was never here, for windows by `new_window`."""
        for context in reversed(self._free):
            if self._traces[context].locale == locale:
                self._free.remove(context)
                return context
        context = self.browser.new_context(locale=locale, permissions=PERMISSIONS)
        traces = self._traces[context] = Traces(locale)
        watch(context, traces.faults, traces.origins)
        return context

    def leave(self, context: playwright.BrowserContext) -> list[str]:
        """Somebody goes, and all that their browser kept; what went wrong in it."""
        context.set_offline(False)
        traces, pages = self._traces[context], pages_of(context)
        if len(pages) == len(context.pages):  # its process goes on with a page that does nothing
            empty = context.new_page()
            empty.route(NOWHERE, lambda route: route.fulfill(body=""))
            empty.goto(NOWHERE)
        for page in pages:
            page.close()
        (empty,) = context.pages
        storage = context.new_cdp_session(empty)
        for origin in traces.origins:
            storage.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
        storage.detach()
        context.clear_cookies()
        self._free.append(context)
        if len(self._free) > NUM_KEPT:
            del self._traces[self._free[0]]
            self._free.pop(0).close()
        faults = traces.faults.copy()
        traces.faults.clear()
        traces.origins.clear()
        return faults


def new_window(
    context: playwright.BrowserContext, width: int = 1280, height: int = 800, theme: str = "light"
) -> playwright.Page:
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=theme)
    return page


def pages_of(context: playwright.BrowserContext) -> list[playwright.Page]:
    return [page for page in context.pages if page.url != NOWHERE]


class Pages:
    """Opens the page at a URL in fresh windows.

    `close` fails if one of them had an error, asked another machine for something, or shows no
    sign that its microphone is open.
    """

    def __init__(self, people: People, url: str) -> None:
        self.people, self.url = people, url
        self.contexts: list[playwright.BrowserContext] = []

    def __call__(
        self,
        locale: str = "zh-CN",
        width: int = 1280,
        height: int = 800,
        address: str | None = None,
        script: str = "",
        theme: str = "light",
    ) -> playwright.Page:
        context = self.people.come(locale)
        self.contexts.append(context)
        page = new_window(context, width, height, theme)
        page.add_init_script(LISTEN_IN)
        if script:
            page.add_init_script(script)
        page.set_default_timeout(120_000)
        page.goto(address or self.url)
        wait_until_ready(page)
        return page

    def close(self) -> None:
        errors = []
        for context in self.contexts:
            for page in pages_of(context):
                if not page.evaluate(OPEN_IS_SEEN):
                    errors.append("a microphone is open, and nobody sees it")
            errors += self.people.leave(context)
        assert errors == [], errors


def wait_until_ready(page: playwright.Page) -> None:
    """Wait until all that can be clicked and written has its script."""
    page.wait_for_selector("#send")
    page.wait_for_selector("#hands-free[data-state]")  # the composer's script has come to its end
    page.wait_for_function("Boolean(window.pageAsk?.answer && window.pagePlayer)")


def wait_for_value(page: playwright.Page, selector: str, value: str) -> None:
    """Wait until a field holds this."""
    page.wait_for_function(
        "([selector, value]) => document.querySelector(selector)?.value === value",
        arg=[selector, value],
    )


def write(page: playwright.Page, text: str) -> None:
    page.fill("#text", text)
    page.click("#send")


def delay(page: playwright.Page, milliseconds: int) -> None:
    """Let all that the page asks take so much longer."""
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    conditions = {"latency": milliseconds, "downloadThroughput": -1, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", {"offline": False, **conditions})


def bubbles(page: playwright.Page, who: str) -> list[str]:
    return [row.inner_text() for row in page.query_selector_all(f"#chat .{who}-row")]


def text_of(page: playwright.Page, number: int = 1) -> str:
    """The text of a reply, as far as it is shown."""
    return page.inner_text(f".bot-row >> nth={number - 1} >> .text")


def path_of(page: playwright.Page, link: str) -> str:
    """The file on this machine that a link leads to."""
    return page.get_attribute(link, "href").partition("file=")[2]


def wait_for_reply(page: playwright.Page, number: int = 1) -> None:
    """Wait until so many replies have ended, and all that came with the last one is shown."""
    try:
        page.wait_for_function(
            f"document.querySelectorAll('#chat .bot-row .actions').length == {number}"
            " && document.querySelector('#status .status').dataset.kind !== 'busy'"
        )
    except playwright.TimeoutError as error:
        shown = page.evaluate(WHAT_IS_SHOWN)
        raise AssertionError(f"reply {number} did not come, the page shows {shown}") from error


def record(page: playwright.Page, seconds: int = 2) -> None:
    """Begin to record, and wait until there is so much of it."""
    page.click("#composer .record")
    wait_until_recorded(page, seconds)


def wait_until_recorded(page: playwright.Page, seconds: int) -> None:
    page.wait_for_function(
        """seconds => {
          const recorded = document.querySelector("#status [data-kind=recording] .said");
          return Number(recorded?.textContent.match(/\\d+/)?.[0]) >= seconds;
        }""",
        arg=seconds,
    )


def attach_recording(page: playwright.Page) -> None:
    """Record something, and wait until it is attached."""
    record(page)
    page.click("#composer .record")
    page.wait_for_selector("#composer .attached[data-kind=audio]:not([hidden])")


def wait_until_silent(page: playwright.Page) -> None:
    page.wait_for_function("window.sounding.size === 0 && !window.pagePlayer.isSpeaking()")


def said(page: playwright.Page) -> str:
    """What the status says, a fault or anything else."""
    return page.inner_text("#status .fault") or page.inner_text("#status .said")


def download(page: playwright.Page, folder: Path) -> np.ndarray:
    """The int16 samples of the last reply, from the file that its link gives."""
    with page.expect_download() as event:
        page.click("#chat .bot-row:last-child .download")
    path = folder / event.value.suggested_filename
    event.value.save_as(path)
    return soundfile.read(path, dtype="int16")[0]
