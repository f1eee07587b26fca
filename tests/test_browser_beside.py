"""The same turn answered once more beside its reply, in a browser: by a model, with settings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from browser import MARKS, Pages, bubbles, playwright, wait_for_reply, write
from fake_model import FakeModel, OtherModel
from page_client import served

import app

pytestmark = MARKS


@pytest.fixture(scope="module")
def ours() -> Iterator[tuple[app.Page, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("page.shelf.load_model", lambda *_: OtherModel(num_frames=9))
        with served(FakeModel(num_frames=25), compare_with=["other:float32"]) as page:
            yield page


def heard(page: playwright.Page) -> tuple[set[int], np.ndarray]:
    played = page.evaluate("window.played.splice(0)")
    samples = np.concatenate([piece["samples"] for piece in played])
    return {piece["rate"] for piece in played}, samples


def test_another_model_answers_the_same_beside(open_page: Pages, ours: tuple[app.Page, str]):
    page = open_page("en-US")
    write(page, "第一句")
    wait_for_reply(page)
    assert heard(page)[0] == {16_000}
    assert [page.inner_text(f".bot-row .{name}") for name in ("again", "compare")] == [
        "Again", "Compare",
    ]  # fmt: skip
    page.click(".bot-row .compare")
    page.select_option(".panel select >> nth=0", "other:float32")
    page.wait_for_selector(".panel label:has-text('Voice') select")
    assert page.query_selector(".panel label:has-text('Tone')") is None  # it has none
    page.select_option(".panel label:has-text('Voice') select", "Ann")
    page.click(".panel .primary")
    wait_for_reply(page, 2)
    (pair,) = page.query_selector_all("#chat .pair")
    first, second = pair.query_selector_all(".bot-row")
    assert "fake:float32" in first.inner_text() and "other:float32" in second.inner_text()
    boxes = [row.bounding_box() for row in (first, second)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]
    (session,) = ours[0].sessions._sessions.values()
    rates, samples = heard(page)
    assert rates == {24_000}
    np.testing.assert_array_equal(
        samples, soundfile.read(session.turns[1].reply_audio, dtype="int16")[0]
    )
    assert session.turns[1].settings["voice"] == "Ann"
    write(page, "第二句")
    wait_for_reply(page, 3)
    assert [text for text, _ in session.conversation.heard] == ["第一句", "第二句"]
    page.reload()
    page.wait_for_function("document.querySelectorAll('.pair .bot-row').length === 2")
    assert len(bubbles(page, "user")) == 2
    session.close()
    ours[0].sessions._sessions.clear()


def test_other_settings_and_the_same_seed(open_page: Pages, ours: tuple[app.Page, str]):
    page = open_page("en-US", 390, 844)
    write(page, "第一句")
    wait_for_reply(page)
    seed = page.inner_text(".bot-row .seed").split()[-1]
    for settings in ({"Seed": seed}, {"Seed": seed, "Temperature": "1.2", "Tone": "calm"}):
        page.click(".bot-row >> nth=0 >> .compare")
        page.wait_for_selector(".panel .primary:not(:disabled)")
        for label, value in settings.items():
            control = page.locator(f".panel label:has-text('{label}')").locator("input, select")
            if label == "Tone":
                control.select_option(value)
            else:
                control.fill(value)
        page.keyboard.press("Enter")
        wait_for_reply(page, len(page.query_selector_all("#chat .bot-row .actions")) + 1)
    (session,) = ours[0].sessions._sessions.values()
    first, same, other = session.turns
    np.testing.assert_array_equal(
        *(soundfile.read(turn.reply_audio, dtype="int16")[0] for turn in (first, same))
    )
    assert (other.settings["temperature"], other.settings["style"]) == (1.2, "calm")
    notes = page.query_selector_all(".pair .made-by")
    assert "Temperature 1.2" in notes[2].inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    session.close()
    ours[0].sessions._sessions.clear()


@pytest.mark.parametrize(
    ("locale", "told"),
    [
        ("en-US", "the setting Seed is -5, allowed are -1 to 9007199254740991"),
        ("zh-CN", "设置“随机种子”是 -5，允许 -1 到 9007199254740991。"),
    ],
)
def test_what_was_filled_in_stays_until_the_reply_begins(open_page: Pages, locale: str, told: str):
    page = open_page(locale)
    write(page, "第一句")
    wait_for_reply(page)
    page.click(".bot-row .compare")
    page.wait_for_selector(".panel .primary:not(:disabled)")
    page.select_option(".panel select >> nth=1", "calm")
    page.fill(".panel input >> nth=0", "-5")
    page.route("**/queue/join*", lambda call: call.abort())
    page.click(".panel .primary")
    page.wait_for_selector(".toast-message-text")
    page.unroute("**/queue/join*")
    page.click(".panel .primary")
    page.wait_for_selector("#status .fault:not(:empty)")
    assert page.inner_text("#status .fault").casefold() == told.casefold()
    assert page.input_value(".panel input >> nth=0") == "-5"
    assert page.input_value(".panel select >> nth=1") == "calm"
    page.fill(".panel input >> nth=0", "5")
    page.click(".panel .primary")
    wait_for_reply(page, 2)
    assert page.query_selector(".panel") is None
    assert "5" in page.inner_text(".pair .bot-row >> nth=1 >> .seed")


def test_a_model_that_is_not_offered_is_told(open_page: Pages):
    page = open_page("en-US")
    write(page, "第一句")
    wait_for_reply(page)
    turn = page.evaluate("document.querySelector('.bot-row .compare') && 'x'")
    page.evaluate("(turn) => pageAsk.compare({ turn, model: 'nowhere' })", turn)
    page.wait_for_selector("#status .fault:has-text('nowhere is not offered')")
