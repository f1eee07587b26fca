"""What the page says of a model: in which language one writes to it, and what can be tried."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from fake_model import FakeModel

from models.mini_omni.speech_model import MiniOmniModel
from models.omni.speech_model import OmniModel
from models.westlake.speech_model import WestlakeModel
from page import words
from page.glosses import EXAMPLES
from page.talk import recordings_for
from strings import STRINGS

CHINESE, ENGLISH = list(EXAMPLES), list(EXAMPLES.values())


def speaking(*languages: str) -> FakeModel:
    model = FakeModel()
    model.languages = languages
    return model


def seen_by(visitor: str, html: str) -> list[tuple[str, str]]:
    """The examples that a visitor of a language sees: what is written, and what stands below."""
    found = []
    for only, data, content in re.findall(
        r'<button[^>]* class="(\w*)" data-example="([^"]*)">(.*?)</button>', html
    ):
        if only in ("", visitor) and "text" in (given := json.loads(unescape(data))):
            below = re.findall(f'<span class="{visitor} gloss"[^>]*>(.*?)</span>', content)
            found.append((given["text"], unescape("".join(below))))
    return found


@pytest.mark.parametrize(
    ("languages", "chinese_visitor", "english_visitor"),
    [
        (("zh",), [(text, "") for text in CHINESE], list(EXAMPLES.items())),
        (("en",), list(zip(ENGLISH, CHINESE)), [(text, "") for text in ENGLISH]),
        (("zh", "en"), [(text, "") for text in CHINESE], [(text, "") for text in ENGLISH]),
    ],
)
def test_examples_are_in_a_language_that_the_model_speaks(
    languages: tuple[str, ...], chinese_visitor: list, english_visitor: list
):
    model = speaking(*languages)
    html = words.chat(model, recordings_for(model))
    assert seen_by("zh", html) == chinese_visitor and seen_by("en", html) == english_visitor
    texts = words.example_texts(model)
    assert texts["zh"] == [text for text, _ in chinese_visitor]
    assert texts["en"] == [text for text, _ in english_visitor]


def test_recordings_are_offered_to_models_that_speak_chinese():
    assert len(recordings_for(speaking("zh"))) == len(recordings_for(speaking("zh", "en"))) == 9
    assert recordings_for(speaking("en")) == []
    assert "sounds" not in words.chat(speaking("en"), [])


def test_every_family_says_what_it_speaks():
    families = (WestlakeModel, OmniModel, MiniOmniModel)
    assert [model.languages for model in families] == [("zh",), ("zh", "en"), ("en",)]


def test_something_to_show_is_asked_for_where_it_can_be_seen():
    model, lead = FakeModel(), "show something"
    assert lead not in words.chat(model, [])
    model.styles = ()
    assert lead not in words.chat(model, [])
    model.accepts = frozenset({"audio", "text", "image"})
    assert "Say, write or show something" in words.chat(model, [])


@pytest.mark.parametrize("languages", [("zh",), ("en",), ("zh", "en")])
def test_the_text_field_says_what_to_write_in(languages: tuple[str, ...]):
    html = words.composer(speaking(*languages))
    hint = STRINGS["en"][re.search('data-placeholder="(\\w+)"', html)[1]]
    told = {"Chinese": "zh", "English": "en"}
    named = [language for word, language in told.items() if word in hint]
    assert named == (list(languages) if len(languages) == 1 else [])
