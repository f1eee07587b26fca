"""Listening tests in a real browser: whole ways, from building to the results."""

from __future__ import annotations

import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
from browser import MARKS
from fake_model import FakeModel, held
from page_client import Visitor, function, served
from rating import answer, begin, build, cells, opened, ratings_csv, score, shown_p

from listening.analysis import mean_interval, share_interval, signed_rank_p
from listening.plan import plan, rater_seed
from listening.store import Store

pytestmark = MARKS


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
        page.click("text=My listening test")
        page.wait_for_selector(".plot")
        rows = ratings_csv(page, tmp_path)
        test = Store(data).test(code)
        given = {"Ann": [5, 4, 3, 5, 4, 2], "Bob": [2, 1, 2, 3, 2, 1]}
        for rater, scores in given.items():
            mine = [row for row in rows if row["rater"] == rater]
            assert [int(row["score"]) for row in mine] == scores
            pairs = sorted((row["condition"], row["prompt"]) for row in mine)
            assert pairs == sorted(product("AB", test.prompts)) and len(pairs) == 6
            trials = plan(test, rater_seed(test, rater))
            asked = [test.stimuli[index] for trial in trials for index in trial.sounds]
            assert [(row["condition"], row["prompt"]) for row in mine] == [
                (stimulus.condition, stimulus.prompt) for stimulus in asked
            ]
        by = {(row["condition"], row["rater"], row["prompt"]): float(row["score"]) for row in rows}
        for name, count, mean, interval in cells(page, "Mean score"):
            found = mean_interval([value for key, value in by.items() if key[0] == name])
            assert (count, mean) == ("6", f"{found.value:.2f}")
            assert interval == f"{found.low:.2f} – {found.high:.2f}"
        ((pair, count, p, adjusted),) = cells(page, "Two conditions each")
        places = sorted({key[1:] for key in by})
        expected = signed_rank_p(*([by[(name, *place)] for place in places] for name in "AB"))
        assert (pair, count, p, adjusted) == ("A / B", "6", shown_p(expected), shown_p(expected))
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
        page.get_by_label("你的名字").fill("安")
        page.keyboard.press("Enter")
        page.wait_for_selector(".line.fault:has-text('没有听音测试 nothing')")


def test_a_test_is_stopped_while_it_waits_and_while_it_is_made(context):
    model = FakeModel(num_frames=8)
    with served(model) as (_, url):
        first, second = (opened(context(), url) for _ in range(2))
        with held(model):
            for page in (first, second):
                page.click("text=Build the test")
            first.wait_for_selector(".tests .line:has-text('0 of 6')")
            for page in (second, first):
                page.click("#compare .buttons >> text=Stop")
                page.wait_for_selector(".tests .line:has-text('Stopped')")
                assert page.is_enabled("text=Build the test")
                assert page.is_hidden("#compare .buttons >> text=Stop")
        build(second, "mos", "one")
        assert model.num_replies == 1 + 2  # that of the first was begun


def test_a_test_that_another_tab_stops_is_built_no_more(context):
    model = FakeModel(num_frames=8)
    with served(model) as (served_page, url):
        page = opened(context(), url)
        with held(model):
            page.click("text=Build the test")
            page.wait_for_selector(".tests .line:has-text('0 of 6')")
            other = Visitor(url, page.evaluate("sessionStorage.getItem('visitor')"))
            other.run(function(served_page, "_tests_stop"), ["{}"])
        page.wait_for_selector(".tests .line:has-text('Stopped')", timeout=20_000)
        assert page.is_enabled("text=Build the test")
        assert page.is_hidden("#compare .buttons >> text=Stop")
