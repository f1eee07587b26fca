"""Listening tests of two models in a browser: each is offered what it has itself."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest
from browser import MARKS, playwright
from fake_model import FakeModel, FakeSampling, OtherModel
from page_client import served
from rating import build, opened

from page.shelf import offer_of

pytestmark = MARKS


class Toneless(OtherModel):
    sampling = FakeSampling(temperature=1.25)


def fields(condition: playwright.Locator) -> list[str]:
    """The names of the settings that a condition offers."""
    return condition.locator(".grid >> nth=1").locator("label").all_inner_texts()


def test_a_condition_has_the_settings_of_its_model(
    context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    other = Toneless(num_frames=8)
    monkeypatch.setattr("page.shelf.load_model", lambda *_: other)
    with served(FakeModel(num_frames=8), data_folder=tmp_path, compare_with=["other:float32"]) as (
        ours,
        url,
    ):
        page = opened(context(), url)
        first, second = (page.locator(".condition").nth(place) for place in (0, 1))
        assert fields(second) == fields(first) == ["Tone of the reply", "Seed", "Temperature"]
        first.get_by_label("Tone of the reply").select_option("calm")
        first.get_by_label("Temperature").fill("0.9")
        second.get_by_label("Seed").fill("5")
        second.get_by_label("Model").select_option("other:float32")
        second.get_by_label("Voice").select_option("Ann")
        assert fields(second) == ["Voice", "Seed", "Temperature"]
        assert second.get_by_label("Temperature").input_value() == "1.25"
        code, _ = build(page, "ab", "one")
        made = {each.condition: each.settings for each in ours.store.test(code).stimuli}
        assert made["A"]["asked_style"] == "calm" and made["B"]["asked_style"] is None
        assert [made[name]["sampling"]["temperature"] for name in "AB"] == [0.9, 1.25]
        assert made["B"]["voice"] == "Ann" and made["B"]["sampling"]["seed"] == 5
        second.get_by_label("Model").select_option("fake:float32")
        assert fields(second) == fields(first)


def test_what_was_typed_outlasts_a_second_answer(context, monkeypatch: pytest.MonkeyPatch):
    """Two conditions ask for the same model before it is loaded."""
    gates = [Event(), Event()]
    waiting = iter(gates)

    def offer_late(model: FakeModel) -> dict:
        if model is other and (gate := next(waiting, None)):
            assert gate.wait(100)
        return offer_of(model)

    other = Toneless()
    monkeypatch.setattr("page.shelf.load_model", lambda *_: other)
    monkeypatch.setattr("page.compare.offer_of", offer_late)
    with served(FakeModel(), compare_with=["other:float32"]) as (_, url):
        page = opened(context(), url)
        page.evaluate("""() => {
          window.told = 0;
          const hear = window.testsHeard;
          window.testsHeard = (answer) => {
            hear(answer);
            window.told += answer.to === "settings";
          };
        }""")
        conditions = [page.locator(".condition").nth(place) for place in (0, 1)]
        for each in conditions:
            each.get_by_label("Model").select_option("other:float32")
        gates[0].set()
        for each, value in zip(conditions, ("0.9", "1.1")):
            each.get_by_label("Temperature").fill(value)
            each.get_by_label("Voice").select_option("Ann")
        gates[1].set()
        page.wait_for_function("window.told === 2")
        typed = [each.get_by_label("Temperature").input_value() for each in conditions]
        assert typed == ["0.9", "1.1"]
        assert [each.get_by_label("Voice").input_value() for each in conditions] == ["Ann"] * 2


def test_a_model_without_tones_is_offered_none(context):
    with served(Toneless()) as (_, url):
        page = opened(context(), url)
        assert [fields(each) for each in page.locator(".condition").all()] == [
            ["Voice", "Seed", "Temperature"]
        ] * 2


def test_a_model_that_cant_be_loaded_is_told(context, monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise ValueError("no such file")

    monkeypatch.setattr("page.shelf.load_model", fail)
    with served(FakeModel(), compare_with=["other:float32"]) as (_, url):
        page = opened(context(), url)
        page.get_by_label("Model").first.select_option("other:float32")
        page.wait_for_selector(".line.fault:has-text('other:float32')")
        assert fields(page.locator(".condition").first) == ["Seed"]
