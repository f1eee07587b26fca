"""Listening tests and the look inside, in a real browser: whole ways, and what axe finds."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_model import FakeModel
from page_client import served

from listening.analysis import mean_interval, share_interval, signed_rank_p
from models.audio import load_audio
from models.load import load_model
from page.limits import Limits

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the path"),
]
OpenPage = Callable[..., "playwright.Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: playwright.Browser) -> Iterator[Callable[..., playwright.BrowserContext]]:
    """Makes browsers of different people; an error in any page fails the test."""
    contexts, errors = [], []

    def new(locale: str = "en-US", width: int = 1280, **options) -> playwright.BrowserContext:
        context = browser.new_context(
            locale=locale,
            viewport={"width": width, "height": 844},
            accept_downloads=True,
            **options,
        )
        context.set_default_timeout(60_000)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        contexts.append(context)
        return context

    yield new
    for context in contexts:
        context.close()
    assert errors == []


def opened(context: playwright.BrowserContext, url: str, tab: str = "compare") -> playwright.Page:
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#send")
    page.click(f"#{tab}-tab-button")
    page.wait_for_selector(f"#{tab} .plain, #{tab} .primary")
    return page


def violations(page: playwright.Page) -> list[str]:
    """What axe finds in the tabs; the page's header and footer are looked at with the talk."""
    context = {"exclude": [["header"], ["footer"]]}
    found = axe.Axe().run(page, context).response["violations"]
    return [f"{one['id']}: {[node['html'][:160] for node in one['nodes']]}" for one in found]


def build(page: playwright.Page, kind: str, texts: str) -> tuple[str, str]:
    """Build a test of two conditions; returns its code and its key."""
    page.get_by_label("Kind").select_option(kind)
    page.get_by_label("Written, one a line").fill(texts)
    page.click("text=Build the test")
    page.wait_for_selector(".built h2")
    link = page.get_by_label("For raters").input_value()
    return re.search(r"test=(\w+)", link)[1], page.locator(".built").get_by_label(
        "Key to the results"
    ).input_value()


def begin(context: playwright.BrowserContext, url: str, code: str, name: str) -> playwright.Page:
    """A rater follows the link that they were sent."""
    page = context.new_page()
    page.goto(f"{url}?test={code}")
    page.get_by_label("Your name").fill(name)
    page.click("text=Begin")
    page.wait_for_selector(".trial .play, .trial .done")
    return page


def answer(page: playwright.Page, choose: Callable[[playwright.Page], None]) -> None:
    """Hear all sounds of a question, answer it, and wait for the next one."""
    count = page.inner_text(".trial .count")
    assert page.is_disabled("text=Next")
    for play in page.query_selector_all(".trial .play"):
        play.click()
    choose(page)
    page.click("text=Next")
    page.wait_for_function(
        "old => document.querySelector('.trial .count').innerText !== old", arg=count
    )


def score(value: int) -> Callable[[playwright.Page], None]:
    return lambda page: page.check(f".trial input[value='{value}']")


def cells(page: playwright.Page, caption: str) -> list[list[str]]:
    rows = page.query_selector_all(f".scroll[aria-label^='{caption}'] tbody tr")
    return [[cell.inner_text() for cell in row.query_selector_all("th, td")] for row in rows]


def ratings_csv(page: playwright.Page, folder: Path) -> list[dict[str, str]]:
    with page.expect_download() as event:
        page.click("text=Ratings as CSV")
    event.value.save_as(folder / "ratings.csv")
    with (folder / "ratings.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_two_raters_a_restart_and_the_results(context, tmp_path: Path):
    model, data = FakeModel(num_frames=8), tmp_path / "data"
    ann, bob, maker = context(), context(), context()
    with served(model, data_folder=data) as (_, url):
        code, key = build(opened(maker, url), "mos", "one\ntwo\nthree")
        port = int(re.search(r":(\d+)/", url)[1])
        page = begin(ann, url, code, "Ann")
        assert page.inner_text(".trial .count") == "1 of 6"
        for value in (5, 4, 3, 5):
            answer(page, score(value))
        page.close()
        page = begin(bob, url, code, "Bob")
        answer(page, score(2))
        page.close()
    with served(model, data_folder=data, server_port=port) as (_, url):
        page = begin(bob, url, code, "Bob")
        assert page.inner_text(".trial .count") == "2 of 6"
        for value in (1, 2, 3, 2, 1):
            answer(page, score(value))
        assert "Thank you" in page.inner_text(".trial .done")
        page = begin(ann, url, code, "Ann")
        assert page.inner_text(".trial .count") == "5 of 6"
        for value in (4, 2):
            answer(page, score(value))
        stranger = context().new_page()
        stranger.goto(f"{url}?test={code}")
        stranger.get_by_label("Your name").fill("Ann")
        stranger.click("text=Begin")
        assert "Ann already" in stranger.wait_for_selector(".line.fault").inner_text()

        page = opened(maker, url)
        page.click("#compare [role=tab]:has-text('Results')")
        page.click("text=Which sounds better?")
        page.wait_for_selector(".plot")
        rows = ratings_csv(page, tmp_path)
        given = {"Ann": [5, 4, 3, 5, 4, 2], "Bob": [2, 1, 2, 3, 2, 1]}
        for rater, scores in given.items():
            mine = [row for row in rows if row["rater"] == rater]
            assert [int(row["score"]) for row in mine] == scores
            assert sorted(row["condition"] + row["prompt"][0] for row in mine) == [
                "A1", "A2", "A3", "B1", "B2", "B3",
            ]  # fmt: skip
        assert [row["prompt"] for row in rows[:6]] != [row["prompt"] for row in rows[6:]]
        by = {(row["condition"], row["rater"], row["prompt"]): float(row["score"]) for row in rows}
        for name, count, mean, interval in cells(page, "Mean score"):
            found = mean_interval([value for key, value in by.items() if key[0] == name])
            assert (count, mean) == ("6", f"{found.value:.2f}")
            assert interval == f"{found.low:.2f} – {found.high:.2f}"
        ((pair, count, p, adjusted),) = cells(page, "Two conditions each")
        places = sorted({key[1:] for key in by})
        expected = signed_rank_p(*([by[(name, *place)] for place in places] for name in "AB"))
        assert (pair, count, p, adjusted) == ("A / B", "6", f"{expected:.3f}", f"{expected:.3f}")
        assert key in page.evaluate("localStorage.listening")


def test_a_preference_test_and_its_export(context, tmp_path: Path):
    with served(FakeModel(num_frames=8)) as (page_of_ours, url):
        maker = context()
        page = opened(maker, url)
        code, key = build(page, "ab", "one\ntwo")
        rater = begin(context(), url, code, "Ann")
        answer(rater, score(0))
        answer(rater, score(-1))
        page.click(".built .buttons button:last-child")
        page.wait_for_selector(".plot")
        ((pair, first, second, ties, p, _),) = cells(page, "Preferences")
        assert (pair, int(first) + int(second), ties, p) == ("A / B", 1, "1", "1.000")
        rows = ratings_csv(page, tmp_path)
        preferred = next(row["condition"] for row in rows if row["answer"] == "1")
        assert (preferred == "A") == (first == "1")
        shares = cells(page, "Share")
        one = share_interval(1, 1)
        assert [row for row in shares if row[0] == preferred] == [
            [preferred, "1", "100.0", f"{100 * one.low:.1f} – {100 * one.high:.1f}"]
        ]
        with page.expect_download() as event:
            page.click("text=Export the test")
        event.value.save_as(tmp_path / "test.zip")
    with served(FakeModel()) as (_, url):
        page = opened(context(), url)
        with page.expect_file_chooser() as chooser:
            page.click("text=Import an exported test")
        chooser.value.set_files(tmp_path / "test.zip")
        page.wait_for_selector(".built h2")
        page.click(".built .buttons button:last-child")
        page.wait_for_selector(".plot")
        assert cells(page, "Preferences")[0][1:4] == [first, second, "1"]
        page.click("summary:has-text('All 4 sounds')")
        page.click(".heard .play")
        page.wait_for_selector(".heard .play.playing")
        page.click("text=Delete the test")
        page.click("text=Delete all sounds and ratings?")
        page.wait_for_selector(".line:has-text('The test is deleted.')")


def test_a_mushra_test_of_uploaded_sounds(context, tmp_path: Path):
    wave = 0.2 * np.sin(np.arange(16_000) * 0.1) + 0.05 * np.sin(np.arange(16_000) * 1.9)
    for condition in ("original", "coded"):
        (tmp_path / "sounds" / condition).mkdir(parents=True)
        for prompt in ("p", "q"):
            soundfile.write(tmp_path / "sounds" / condition / f"{prompt}.wav", wave, 16_000)
    archive = shutil.make_archive(str(tmp_path / "sounds"), "zip", tmp_path / "sounds")
    with served(FakeModel()) as (_, url):
        page = opened(context(), url)
        page.get_by_label("Kind").select_option("mushra")
        page.get_by_label("Sounds", exact=True).select_option("folder")
        with page.expect_file_chooser() as chooser:
            page.click("text=Choose a zip file")
        chooser.value.set_files(archive)
        page.wait_for_selector(".files li:has-text('sounds.zip')")
        page.get_by_role("textbox", name="Reference").fill("original")
        page.click("text=Build the test")
        page.wait_for_selector(".built h2")
        page.click(".built .primary")
        page.get_by_label("Your name").fill("Ann")
        page.click("text=Begin")
        page.wait_for_selector(".trial .slider")
        assert len(page.query_selector_all(".trial .slider")) == 3

        def slide(page):
            for place, slider in enumerate(page.query_selector_all(".trial .slider input")):
                slider.fill(str(90 + place))

        assert violations(page) == []
        answer(page, slide)
        answer(page, slide)
        page.click("#compare [role=tab]:has-text('Results')")
        page.click("#compare .files .link")
        page.wait_for_selector(".plot")
        names = [row[0] for row in cells(page, "Mean score")]
        assert sorted(names) == ["anchor", "coded", "original"]


def test_what_cant_be_is_said_in_the_readers_language(context, tmp_path: Path):
    with served(FakeModel()) as (_, url):
        page = opened(context("zh-CN"), url)
        page.get_by_label("类型").select_option("mushra")
        page.get_by_label("听到的是").first.select_option("copy")
        page.click("text=建立测试")
        assert "需要录音" in page.wait_for_selector(".line.fault").inner_text()
        (tmp_path / "bad.zip").write_bytes(b"PK nonsense")
        with page.expect_file_chooser() as chooser:
            page.click("text=导入测试")
        chooser.value.set_files(tmp_path / "bad.zip")
        page.wait_for_selector(".line.fault:has-text('不是可读取的 zip')")
        page.click("#compare [role=tab]:has-text('评分')")
        page.get_by_label("测试代码").fill("nothing")
        page.get_by_label("您的名字").fill("安")
        page.keyboard.press("Enter")
        page.wait_for_selector(".line.fault:has-text('没有听音测试 nothing')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_axe_finds_nothing(context, locale: str, scheme: str, tmp_path: Path):
    with served(FakeModel(num_frames=8), data_folder=tmp_path) as (_, url):
        page = opened(context(locale, 390, color_scheme=scheme), url)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(page) == []
        page.click(".tests .primary")
        page.wait_for_selector(".built h2")
        assert violations(page) == []
        page.click(".built .primary")
        page.fill(".tests input[autocomplete=nickname]", "Ann")
        page.click(".tests form .primary")
        page.wait_for_selector(".trial .play")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for play in page.query_selector_all(".trial .play"):
            play.click()
        page.check(".trial input[value='0']")
        page.click(".trial .primary")
        page.click("#compare [role=tab]:last-child")
        page.click("#compare .files .link")
        page.wait_for_selector(".plot")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    t = np.arange(24_000) / 16_000
    wave = 0.2 * np.sin(2 * np.pi * 200 * t) * (0.05 + np.sin(2 * np.pi * 2 * t) ** 2)
    soundfile.write(path, wave, 16_000)
    return path


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_inspect_shows_a_sound_its_copy_and_the_turn(context, tiny, speech: Path):
    with served(tiny, Limits(reply_seconds=1)) as (_, url):
        page = opened(context(color_scheme="dark"), url, "inspect")
        page.click("text=Look at the sound")
        assert "nothing to look at" in page.wait_for_selector(".line.fault").inner_text()
        with page.expect_file_chooser() as chooser:
            page.click("text=Upload a sound")
        chooser.value.set_files(speech)
        page.wait_for_selector(".inspect .hint:has-text('speech.wav')")
        page.click("text=Let the model answer")
        page.wait_for_function("document.querySelectorAll('.inspect .tokens').length === 3")
        titles = [head.inner_text() for head in page.query_selector_all(".inspect h2")]
        assert titles == [
            "The sound", "Its copy", "Its codes", "How the model reads the turn", "The reply",
            "The reply's sound", "Timings", "What the reply is made of",
        ]  # fmt: skip
        codes = tiny.encode(load_audio(speech).samples, 16_000)
        rows = page.query_selector_all(".inspect .tokens")[0].query_selector_all("tr")[1:]
        shown = [[int(cell.inner_text()) for cell in row.query_selector_all("td")] for row in rows]
        np.testing.assert_array_equal(shown, codes)
        facts = dict(
            [cell.inner_text() for cell in row.query_selector_all("th, td")]
            for row in page.query_selector_all(".inspect table:not(.tokens) tr")
        )
        assert facts["Frames"] == str(round(tiny.frame_rate))
        assert float(facts["First token"].split()[0]) <= float(facts["First sound"].split()[0])
        assert violations(page) == []
        sounds = page.query_selector_all(".inspect audio")
        assert len(sounds) == 3
        for sound in sounds:
            path = sound.get_attribute("src")
            assert page.request.get(url.rstrip("/") + path).body()[:4] == b"RIFF"


def test_inspect_does_without_a_codec(context, speech: Path):
    with served(FakeModel(num_frames=8)) as (_, url):
        page = opened(context("zh-CN", 390), url, "inspect")
        with page.expect_file_chooser() as chooser:
            page.click("text=上传声音")
        chooser.value.set_files(speech)
        page.wait_for_selector(".inspect .hint:has-text('speech.wav')")
        page.click("text=查看声音")
        page.wait_for_selector(".inspect .hint:has-text('没有可复制声音的编解码器')")
        page.click("text=让模型回答")
        page.wait_for_selector(".inspect .said-text:has-text('好好好好好好好好')")
        assert page.query_selector(".inspect .tokens") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(page) == []
