"""The page's words in the browser's language, and its few pieces of HTML."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from gradio import I18n
from gradio.i18n import I18nData

from models.errors import UserError
from strings import LANGUAGES, STRINGS, say

FOLDER = Path(__file__).parent
EXAMPLES = (
    "最近心情不好，能聊聊吗？",
    "我并不喜欢现在的工作。",
    "我想全职去打游戏，成为一名电竞选手，但是家里人不同意。",
    "家里人不同意我去当电竞选手。",
)
# What is said in a recording whose name ends so; Chinese as it is in the recording itself.
RECORDINGS = {
    "bad-mood": "心情不好",
    "job": "不喜欢的工作",
    "esports": "想打电竞",
    "family": "家里人不同意",
    "assistant": "助手",
    "customer-service": "客服",
    "education": "学习",
    "health": "健康",
    "entertainment": "娱乐",
}
PREFIX = "page_"  # Gradio has keys of its own, "audio" among them
LOCALES = {
    locale: {PREFIX + key: text for key, text in STRINGS[name].items()}
    for locale, name in (("en", "en"), ("zh", "zh"), ("zh-CN", "zh"))
}
I18N = I18n(**LOCALES)


def asset(name: str) -> str:
    """A file of this folder, as text."""
    return (FOLDER / name).read_text(encoding="utf-8")


def label(key: str) -> I18nData | str:
    """The text in the browser's language; another checkpoint's words stand for themselves."""
    return I18N(PREFIX + key) if key in STRINGS["en"] else key


def each(key: str, **values: object) -> dict[str, str]:
    """The text by language; a key that is no known word stands for itself."""
    return {
        language: say(key, language, **values) if key in STRINGS[language] else key
        for language in LANGUAGES
    }


def both(key: str, **values: object) -> str:
    """The text in both languages, as HTML; page.css shows the one of `<html lang>`."""
    return "".join(
        f'<span class="{language}" lang="{language}">{escape(text)}</span>'
        for language, text in each(key, **values).items()
    )


def fault(error: UserError) -> str:
    """What was wrong with a user's input, in both languages, as HTML."""
    return both(error.code, **error.values)


def head() -> str:
    """What goes into the page's head: its script, with the words that it needs."""
    texts = json.dumps({language: STRINGS[language] for language in LANGUAGES})
    texts = texts.replace("<", "\\u003c")
    return f"<script>window.pageWords = {texts};\n{asset('head.js')}</script>"


def recording(stem: str) -> str:
    """What stands on the button of an example recording, such as 3-esports."""
    topic = stem.partition("-")[2]
    return RECORDINGS.get(topic, stem)


def header(checkpoint_name: str, device: str) -> str:
    chip = escape(f"{checkpoint_name} · {device}")
    return (
        f"<header><div><h1>{both('title')}</h1><p>{both('subtitle')}</p></div>"
        f'<span class="chip">{chip}</span></header>'
        f'<p class="note" role="note">{both("insecure")}</p>'
    )


def player() -> str:
    """What player.js moves."""
    bars = "<i></i>" * 5
    return (
        f'<div class="player"><span class="bars">{bars}</span>{both("speaking")}'
        '<span class="clock">0:00</span></div>'
    )


def chat() -> str:
    """What chat.js fills."""
    return (
        '<div class="log" role="log" aria-live="polite" tabindex="0">'
        f'<p class="placeholder">{both("empty")}</p></div>'
    )


def download() -> str:
    """The link to the last reply's sound, which chat.js sets."""
    return f'<a class="button" download aria-disabled="true">{both("download")}</a>'


def status(key: str, **values: object) -> str:
    """The line beside the player: what goes on."""
    return f'<div class="status" role="status">{both(key, **values)}</div>' if key else ""


def progress(seconds: float, max_seconds: float) -> str:
    """The same line while a reply is made: how far it is, and how long it may become."""
    bar = f'<progress max="{max_seconds:.1f}" value="{seconds:.1f}"></progress>'
    return (
        f'<div class="status">{both("making")}{bar}'
        f"<span>{seconds:.1f} / {max_seconds:.0f} s</span></div>"
    )
