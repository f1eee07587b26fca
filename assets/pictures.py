"""Take README's pictures of the page: python -m assets.pictures

With --all FOLDER every state is taken in both sizes, themes and languages, to be looked at.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import app
from models.load import load_model
from page.limits import Limits

FOLDER = Path(__file__).parent
SIZES = {"wide": (1280, 800), "phone": (390, 844)}
LOCALES = {"zh": "zh-CN", "en": "en-US"}
THEMES = ("light", "dark")
COLOURS = 96  # of a picture, which keeps it small
SEED = 7
RATINGS = ((5, 3, 4, 3), (4, 3, 5, 2))  # of two raters
TEXTS = ("我并不喜欢现在的工作。", "家里人不同意我去当电竞选手。")
SPEECH = FOLDER.parent / "examples" / "2-job.wav"
TIMEOUT_MS = 600_000  # a busy machine takes its time
# Before a picture: the conversation's end is seen, whatever the size was; how long the first sound
# took says more of the machine than of the page.
SHOW = """theme => {
  document.body.classList.toggle("dark", theme === "dark");
  const log = document.querySelector("#chat .log");
  log.scrollTop = log.scrollHeight;
  document.querySelectorAll("#chat .first").forEach((told) => told.remove());
}"""
States = Iterator[tuple[Page, str]]


@dataclass(frozen=True)
class View:
    """A picture: of a state of a tab, in one size, theme and language."""

    tab: str
    state: str
    size: str
    theme: str
    language: str


# README's.
CHOSEN = {
    "talk.png": View("talk", "compared", "wide", "light", "zh"),
    "talk-dark.png": View("talk", "replied", "wide", "dark", "en"),
    "phone.png": View("talk", "replied", "phone", "light", "zh"),
    "phone-dark.png": View("talk", "hands-free", "phone", "dark", "zh"),
    "tests.png": View("tests", "results", "wide", "light", "zh"),
    "inspect.png": View("inspect", "inspected", "wide", "dark", "en"),
}


def talk(page: Page) -> States:
    """The conversation: written, compared, hands-free, and what goes wrong."""
    yield page, "empty"
    page.evaluate(f"pageAsk.seed({{ seed: {SEED} }})")
    page.wait_for_timeout(500)
    for number, text in enumerate(TEXTS, 1):
        page.fill("#text", text)
        page.click("#send")
        _wait_for_replies(page, number)
    yield page, "replied"
    page.click(".bot-row .compare >> nth=-1")
    page.wait_for_selector(".panel .primary:not(:disabled)")
    page.select_option(".panel select >> nth=0", index=1)
    page.wait_for_selector(".panel .primary:not(:disabled)")
    yield page, "panel"
    page.click(".panel .primary")
    _wait_for_replies(page, 3)
    yield page, "compared"
    page.click("#advanced button")
    page.evaluate("pageAsk.answer({ text: '', audio: null })")
    page.wait_for_selector("#status .fault:not(:empty)")
    yield page, "fault"
    page.click("#advanced button")
    page.click("#composer .record")
    page.wait_for_selector("#status:has-text('2 ')")
    yield page, "recording"
    page.click("#composer .record")
    page.wait_for_selector("#composer .attached:not([hidden])")
    yield page, "attached"
    page.click("#composer .remove")
    page.click("#hands-free")
    page.wait_for_selector("#hands-free[data-state=listening]")
    yield page, "hands-free"
    page.keyboard.press("Escape")


def _wait_for_replies(page: Page, number: int) -> None:
    done = f"document.querySelectorAll('#chat .bot-row .actions').length === {number}"
    page.wait_for_function(f"{done} && !window.pagePlayer.isSpeaking()")


def tests(page: Page) -> States:
    """A listening test: built, rated by two, and its results."""
    page.click("#compare-tab-button")
    page.wait_for_selector("#compare .primary")
    yield page, "build"
    page.select_option("#compare section select >> nth=0", "mos")
    page.fill("#compare textarea >> nth=0", "\n".join(TEXTS))
    page.click("#compare .primary >> nth=0")
    page.wait_for_selector(".built h2")
    yield page, "built"
    link = page.input_value(".built input >> nth=0")
    for name, scores in zip(("Ann", "Bob"), RATINGS):
        rater = page.context.new_page()
        rater.goto(link)
        rater.fill("#compare input[autocomplete=nickname]", name)
        rater.click("#compare form .primary")
        for number, score in enumerate(scores):
            is_asked = f"document.querySelector('.trial progress')?.value === {number}"
            rater.wait_for_function(is_asked)
            for play in rater.query_selector_all(".trial .play"):
                play.click()
            rater.check(f".trial input[value='{score}']")
            if name == "Ann" and number == 0:
                yield rater, "trial"
            rater.click(".trial .primary")
        rater.wait_for_selector(".trial .done")
        rater.close()
    page.click(".built .buttons button:last-child")
    page.wait_for_selector(".plot")
    page.evaluate("document.querySelector('.plot').scrollIntoView({ block: 'center' })")
    yield page, "results"


def inspect(page: Page) -> States:
    """The look inside a recording and the turn that it makes."""
    page.click("#inspect-tab-button")
    page.wait_for_selector("#inspect .primary")
    yield page, "inspect"
    page.set_input_files("#inspect input[type=file]", SPEECH)
    page.wait_for_selector(f".inspect .hint:has-text('{SPEECH.name}')")
    page.click("#inspect .primary >> nth=-1")
    page.wait_for_function("document.querySelectorAll('.inspect .tokens').length === 3")
    page.evaluate("document.querySelector('.inspect h2').scrollIntoView()")
    yield page, "inspected"


WALKS: dict[str, Callable[[Page], States]] = {"talk": talk, "tests": tests, "inspect": inspect}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The page with the embedded checkpoint; its address."""
    limits = Limits(reply_seconds=6)
    compare_with = ["tiny:float32"]
    page = app.Page(load_model("tiny"), limits, data_folder=folder, compare_with=compare_with)
    try:
        yield page.launch(quiet=True)
    finally:
        page.close()


def walk(browser: Browser, url: str, tab: str, language: str, wanted: dict[Path, View]) -> None:
    """Walk through a tab in a language until all that is wanted of it is taken."""
    left = {
        path: view for path, view in wanted.items() if (view.tab, view.language) == (tab, language)
    }
    if not left:
        return
    context = browser.new_context(locale=LOCALES[language], permissions=["microphone"])
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#send")
    page.wait_for_function("Boolean(window.pageAsk?.answer && window.pagePlayer)")
    for seen, state in WALKS[tab](page):
        for path in [path for path, view in left.items() if view.state == state]:
            view = left.pop(path)
            width, height = SIZES[view.size]
            seen.set_viewport_size({"width": width, "height": height})
            seen.evaluate(SHOW, view.theme)
            seen.wait_for_timeout(500)
            path.write_bytes(small(seen.screenshot()))
            print(path.name, flush=True)
        if not left:
            break
    context.close()


def chromium_path() -> str:
    """Where Chromium lies; the program ends where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("there is no Chromium on the path: apt-get install chromium")
    return path


def small(png: bytes) -> bytes:
    """A picture with few colours."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


STATES = {
    "talk": (
        "empty", "replied", "panel", "compared", "fault", "recording", "attached", "hands-free",
    ),
    "tests": ("build", "built", "trial", "results"),
    "inspect": ("inspect", "inspected"),
}  # fmt: skip


def every(folder: Path) -> dict[Path, View]:
    """All views, each with its file in a folder."""
    states = [(tab, state) for tab, states in STATES.items() for state in states]
    views = [View(*where, *how) for where, *how in product(states, SIZES, THEMES, LOCALES)]
    return {folder / f"{'-'.join(vars(view).values())}.png": view for view in views}


def main() -> None:
    parser = argparse.ArgumentParser(description="Take README's pictures of the page.")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every state, into a folder")
    folder = parser.parse_args().all
    wanted = {FOLDER / name: view for name, view in CHOSEN.items()}
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = every(folder)
    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", *microphone]
    with (
        tempfile.TemporaryDirectory() as data,
        served(Path(data)) as url,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium_path(), args=flags)
        for tab, language in product(WALKS, LOCALES):
            walk(browser, url, tab, language, wanted)
        browser.close()


if __name__ == "__main__":
    main()
