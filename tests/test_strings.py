"""The strings files: the same texts in both languages, and none that nobody reads."""

import itertools
import json
import re
import string
from pathlib import Path

import pytest

from listening.definition import KINDS as TESTS
from listening.definition import MOS_SCORES
from listening.making import SOURCES as SOURCES_OF_SOUNDS
from models.omni.speech_model import OmniModel
from models.westlake.speech_model import WestlakeModel
from page import glosses
from page.glosses import EXAMPLES, FILE, gloss_of
from strings import STRINGS
from training.dialogues import EMOTIONS, STYLES, load_dialogues

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "listening", "page")
SOURCES = [ROOT / "app.py", ROOT / "generate.py"]
SOURCES += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.[pj][ys]")]
SETTINGS = ["seed"]
SETTINGS += [
    field.name for family in (WestlakeModel, OmniModel) for field in family.sampling_fields
]
# Keys that the code puts together, or that a checkpoint's tokenizer names.
COMPOSED = {
    *(f"hands_free_{state}" for state in ("idle", "listening", "thinking", "speaking", "error")),
    *(f"rate_{rating}" for rating in ("good", "bad")),
    *(f"{name}_info" for name in (*SETTINGS, "style", "voice")),
    *(f"{key}_other" for key in ("title", "subtitle", "empty")),
    *(f"model_{which}_short" for which in ("tiny", "other")),
    *(f"text_hint_{language}" for language in STRINGS),
    *(f"error_unknown_{kind}" for kind in ("style", "voice")),
    *(f"error_no_{kind}s" for kind in ("style", "voice")),
    *(f"test_{kind}{part}" for kind in TESTS for part in ("", "_about", "_question", "_compared")),
    *(f"test_source_{source}" for source in SOURCES_OF_SOUNDS),
    *(f"test_score_{score}" for score in MOS_SCORES),
    *(f"inspect_{word}{part}" for word in ("lively", "even", "subdued") for part in ("", "_as")),
    *EMOTIONS,
    *STYLES,
}


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_text_stands_in_both_languages_with_the_same_values():
    assert STRINGS["en"].keys() == STRINGS["zh"].keys()
    for key, text in STRINGS["en"].items():
        assert fields(text) == fields(STRINGS["zh"][key]), key


@pytest.fixture(scope="module")
def named() -> set[str]:
    """What stands in quotes in the sources, or is taken from `words` in the page's scripts."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    return {name for pair in re.findall(r"[\"'](\w+)[\"']|words\.(\w+)", source) for name in pair}


def test_every_key_is_used(named):
    assert len(SOURCES) > 50
    assert [key for key in STRINGS["en"] if key not in named | COMPOSED] == []


def test_every_word_that_a_script_of_the_page_takes_is_there():
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("page/*.js"))
    taken = set(re.findall(r"\bwords\.(\w+)(?!\w|\()", scripts))
    assert len(taken) > 150 and taken <= STRINGS["en"].keys()


def test_every_error_that_is_raised_has_a_text(named):
    codes = {name for name in named if re.match(r"error_\w", name)}
    assert len(codes) > 50 and codes <= STRINGS["en"].keys()


def test_every_reply_of_the_dialogues_has_an_english_gloss():
    replies = {
        reply
        for intent in load_dialogues().intents
        for reply in (*itertools.chain(*intent.replies.values()), *intent.then.values())
    }
    assert len(replies) > 1300
    assert sorted(reply for reply in replies if not gloss_of(reply)) == []
    known = json.loads(FILE.read_text(encoding="utf-8"))
    assert known.keys() - replies == set()  # none that no reply has any more
    assert not any(re.search("[\u4e00-\u9fff]", gloss) for gloss in known.values())


def test_a_gloss_is_found_by_the_words_alone():
    (text, gloss), *_ = EXAMPLES.items()
    assert gloss_of(text) == gloss_of(f" {text.replace('，', ',')} ") == gloss
    assert gloss_of("这句话谁也没写过。") is gloss_of("") is None


def test_without_the_dialogues_only_the_examples_have_glosses(monkeypatch, tmp_path):
    monkeypatch.setattr(glosses, "FILE", tmp_path / "none.json")
    glosses._glosses.cache_clear()
    assert glosses._glosses().keys() == {glosses._letters(text) for text in EXAMPLES}
    glosses._glosses.cache_clear()
