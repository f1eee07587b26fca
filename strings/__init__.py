"""Every word that a user reads, once per language: <language>.json, by key."""

from __future__ import annotations

import json
from pathlib import Path

LANGUAGES = ("zh", "en")
STRINGS: dict[str, dict[str, str]] = {
    language: json.loads((Path(__file__).parent / f"{language}.json").read_text(encoding="utf-8"))
    for language in LANGUAGES
}


class Text:
    """A text whose language is chosen later; `say` takes it as a value of another text.

    Args:
        key: of the strings files.
        values: as of `say`.
    """

    def __init__(self, key: str, **values: object) -> None:
        self.key, self.values = key, values


def say(key: str, language: str, **values: object) -> str:
    """The text of a key in a language, with its {values} filled in.

    Raises:
        KeyError: no such key or language, or a value that the text needs is missing.
    """
    said = {
        name: say(value.key, language, **value.values) if isinstance(value, Text) else value
        for name, value in values.items()
    }
    return STRINGS[language][key].format(**said)
