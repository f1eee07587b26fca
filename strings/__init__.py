"""Every word that a user reads, once per language: <language>.json, by key."""

from __future__ import annotations

import json
from pathlib import Path

LANGUAGES = ("zh", "en")
STRINGS: dict[str, dict[str, str]] = {
    language: json.loads((Path(__file__).parent / f"{language}.json").read_text(encoding="utf-8"))
    for language in LANGUAGES
}


def say(key: str, language: str, **values: object) -> str:
    """The text of a key in a language, with its {values} filled in.

    Raises:
        KeyError: no such key or language, or a value that the text needs is missing.
    """
    return STRINGS[language][key].format(**values)
