"""What known Chinese texts mean in English, for visitors who don't read Chinese."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent.parent / "training" / "data" / "english.json"
# What can be written to try the page.
EXAMPLES = {
    "最近心情不好，能聊聊吗？": "I have been feeling low lately. Can we talk?",
    "我并不喜欢现在的工作。": "I don't really like my present job.",
    "我想全职去打游戏，成为一名电竞选手，但是家里人不同意。": (
        "I want to play games full time and become an esports player, but my family is against it."
    ),
    "家里人不同意我去当电竞选手。": "My family doesn't want me to become an esports player.",
}


def gloss_of(text: str) -> str | None:
    """The English of an example or of a reply of the dialogues; None if it is another text."""
    return _glosses().get(_letters(text))


@cache
def _glosses() -> dict[str, str]:
    """By the texts' letters; those of the examples alone where the dialogues aren't."""
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    return {_letters(text): gloss for text, gloss in {**known, **EXAMPLES}.items()}


def _letters(text: str) -> str:
    """A text without spaces and punctuation, which a model may set in another way."""
    return "".join(filter(str.isalnum, text))
