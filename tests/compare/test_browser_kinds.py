"""Tests of difference (ABX) and of tones in a real browser, two raters each."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import soundfile
from browser import MARKS, playwright
from fake_model import FakeModel
from page_client import served
from rating import answer, begin, build, cells, opened, ratings_csv, score, shown_p

from listening.analysis import binomial_p, share_interval

pytestmark = MARKS
# What the page fetched, in the order in which it asked: the sounds of each question.
KEEP_SOUNDS = """
window.fetched = [];
const ask = window.fetch;
window.fetch = async (what, ...rest) => {
  if (!String(what.url ?? what).includes("/file=")) return ask(what, ...rest);
  const place = window.fetched.push(null) - 1;
  const response = await ask(what, ...rest);
  window.fetched[place] = new Uint8Array(await response.clone().arrayBuffer()).join();
  return response;
};
"""


def show_results(page: playwright.Page) -> None:
    page.click(".built .buttons button:last-child")
    page.wait_for_selector(".plot")


def test_a_difference_is_heard_or_guessed(context, tmp_path: Path):
    with served(FakeModel(num_frames=8)) as (_, url):
        maker = opened(context(), url)
        code, _ = build(maker, "abx", "one\ntwo\nthree")
        for name, is_right in (("Ann", True), ("Bob", False)):
            page = begin(context(), url, code, name, KEEP_SOUNDS)
            total = int(page.inner_text(".trial .count").split()[-1])
            for _ in range(total):
                a, b, x = page.evaluate("window.fetched.splice(0)")
                assert a != b and x in (a, b)
                answer(page, score(int((x == b) is is_right)))
            assert "Thank you" in page.inner_text(".trial .done")
        show_results(maker)
        p = binomial_p(total, 2 * total, 0.5, "greater")
        assert cells(maker, "Right answers") == [
            ["A / B", str(total), str(total), shown_p(p), shown_p(p)]
        ]
        interval = share_interval(total, 2 * total)
        assert cells(maker, "Share") == [
            [
                "A / B",
                str(2 * total),
                "50.0",
                f"{100 * interval.low:.1f} – {100 * interval.high:.1f}",
            ]
        ]
        for row in ratings_csv(maker, tmp_path):
            assert (row["answer"] == row["reference"]) is (row["rater"] == "Ann")


def test_tones_are_recognised(context, tmp_path: Path):
    for place, tone in enumerate(("calm", "happy")):
        (tmp_path / "sounds" / tone).mkdir(parents=True)
        for prompt in ("p", "q"):
            wave = 0.2 * np.sin(np.arange(16_000) * (0.1 + 0.1 * place))
            soundfile.write(tmp_path / "sounds" / tone / f"{prompt}.wav", wave, 16_000)
    archive = shutil.make_archive(str(tmp_path / "sounds"), "zip", tmp_path / "sounds")
    with served(FakeModel()) as (_, url):
        maker = opened(context(), url)
        maker.get_by_label("Kind").select_option("emotion")
        maker.get_by_label("Sounds", exact=True).select_option("folder")
        with maker.expect_file_chooser() as chooser:
            maker.click("text=Choose a zip file")
        chooser.value.set_files(archive)
        maker.wait_for_selector(".files li:has-text('sounds.zip')")
        maker.click("text=Build the test")
        maker.wait_for_selector(".built h2")
        code = maker.get_by_label("For raters").input_value().split("=")[-1]
        for name, words in (("Ann", ["calm"] * 4), ("Bob", ["happy", "happy", "happy", "calm"])):
            page = begin(context(), url, code, name)
            for word in words:
                answer(page, lambda page, word=word: page.check(f".trial input[value={word}]"))
            assert "Thank you" in page.inner_text(".trial .done")
        show_results(maker)
        rows = ratings_csv(maker, tmp_path)
        assert len(rows) == 8 and all(row["condition"] == row["word"] for row in rows)
        told = {tuple(row[:3]): row[3] for row in cells(maker, "Right answers")}
        for tone in ("calm", "happy"):
            right = [row["answer"] == tone for row in rows if row["word"] == tone]
            p = binomial_p(sum(right), 4, 1 / 2, "greater")
            assert told[tone, str(sum(right)), str(4 - sum(right))] == shown_p(p)
        for meant, chosen, count in cells(maker, "What was meant"):
            pairs = [(row["word"], row["answer"]) for row in rows]
            assert pairs.count((meant, chosen)) == int(count)
