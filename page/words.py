"""The page's words in the browser's language, and its few pieces of HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from gradio import I18n
from gradio.i18n import I18nData

from models.contract import SpeechModel
from models.errors import UserError
from strings import LANGUAGES, STRINGS, say

FOLDER = Path(__file__).parent
# What can be written, and what it means, for who does not read Chinese.
EXAMPLES = {
    "最近心情不好，能聊聊吗？": "I have been feeling low lately. Can we talk?",
    "我并不喜欢现在的工作。": "I don't really like my present job.",
    "我想全职去打游戏，成为一名电竞选手，但是家里人不同意。": (
        "I want to play games full time and become an esports player, but my family is against it."
    ),
    "家里人不同意我去当电竞选手。": "My family doesn't want me to become an esports player.",
}
# What is said in a recording whose name ends so, in the voice of its speaker and in English.
RECORDINGS = {
    "bad-mood": ("心情不好", "In a bad mood"),
    "job": ("不喜欢的工作", "A job not liked"),
    "esports": ("想打电竞", "Esports as a living"),
    "family": ("家里人不同意", "The family is against it"),
    "assistant": ("助手", "An assistant's help"),
    "customer-service": ("客服", "Customer service"),
    "education": ("学习", "Learning"),
    "health": ("健康", "Health"),
    "entertainment": ("娱乐", "Entertainment"),
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
    scripts = "\n".join(map(asset, ("head.js", "microphone.js")))
    return f"<script>window.pageWords = {texts};\n{scripts}</script>"


def header() -> str:
    return (
        f"<header><h1>{both('title')}</h1><p>{both('subtitle')}</p></header>"
        f'<p class="note" role="note">{both("insecure")}</p>'
    )


def bar(model: SpeechModel) -> str:
    """What stands above the conversation: which model speaks, and what can be done with it all."""
    place = {"device": model.device.upper(), "dtype": model.dtype}
    size = f"{model.num_parameters / 1e6:,.0f}"
    key = "model_tiny" if model.name == "tiny" else "model_other"
    buttons = "".join(
        f'<button type="button" class="plain {name}" id="{name}">{both(name)}</button>'
        for name in ("new", "save", "load")
    )
    return (
        f'<div class="bar"><p class="model"><b>{escape(Path(model.name).name)}</b> '
        f"{both(key, size=size, **place)}</p><div class='tools'>{buttons}"
        f'<input type="file" accept=".zip" hidden data-label="load"></div></div>'
    )


def player() -> str:
    """What player.js moves."""
    bars = "<i></i>" * 5
    return (
        f'<div class="player"><span class="bars">{bars}</span>{both("speaking")}'
        '<span class="clock">0:00</span></div>'
    )


def chat(recordings: Sequence[Path]) -> str:
    """What chat.js fills."""
    return (
        '<div class="log" role="log" aria-live="polite" tabindex="0">'
        f'<div class="placeholder"><p class="lead">{both("empty")}</p>{examples(recordings)}</div>'
        "</div>"
    )


def examples(recordings: Sequence[Path]) -> str:
    """What can be tried: things to write, and recordings."""
    texts = "".join(
        _example({"text": text}, f'<span lang="zh">{escape(text)}</span>', gloss)
        for text, gloss in EXAMPLES.items()
    )
    sounds = "".join(
        _example(
            {"path": str(path), "name": path.name},
            "".join(
                f'<span class="{language}" lang="{language}">{escape(name)}</span>'
                for language, name in zip(LANGUAGES, _recording(path.stem))
            ),
        )
        for path in recordings
    )
    shown = f'<p class="try">{both("examples")}</p><div class="examples">{texts}</div>'
    if sounds:
        heard = both("example_recordings")
        shown += f'<p class="try">{heard}</p><div class="examples sounds">{sounds}</div>'
    return shown


def _example(given: dict[str, str], content: str, gloss: str = "") -> str:
    said = f'<span class="en gloss">{escape(gloss)}</span>' if gloss else ""
    data = escape(json.dumps(given))
    return f'<button type="button" data-example="{data}">{content}{said}</button>'


def recording(stem: str) -> str:
    """What an example recording, such as 3-esports, is called in its speaker's language."""
    return _recording(stem)[0]


def _recording(stem: str) -> tuple[str, str]:
    """The same in each language."""
    topic = stem.partition("-")[2]
    return RECORDINGS.get(topic, (stem, stem))


def composer() -> str:
    """What composer.js and hands_free.js move."""

    def button(name: str) -> str:
        return f'<button type="button" class="tool {name}" data-label="{name}"><i></i></button>'

    kinds = "audio/*,video/mp4,video/webm,.amr,.3gp"
    return (
        '<div class="composer">'
        '<div class="attached" hidden><span class="name"></span>'
        f'<audio controls data-label="recording_name"></audio>{button("remove")}</div>'
        '<textarea id="text" rows="1" data-label="text" data-placeholder="text_hint"></textarea>'
        f'<div class="keys">{button("upload")}{button("record")}'
        f'<input type="file" accept="{kinds}" hidden data-label="upload">'
        '<button type="button" class="round" id="hands-free">'
        '<i></i><span class="word"></span></button><span class="space"></span>'
        f'<button type="button" class="stop" id="stop">{both("stop")}</button>'
        f'<button type="button" class="send" id="send">{both("send")}</button></div></div>'
    )


def status_line() -> str:
    """What status.js fills."""
    return (
        '<div class="status"><span class="said" role="status"></span>'
        '<span class="fault" role="alert"></span><progress hidden aria-hidden="true"></progress>'
        '<span class="time" hidden></span></div>'
    )


def status(kind: str = "", key: str = "", *, progress: object = None, **values: object) -> str:
    """What goes on, as status.js shows it.

    Args:
        kind: "busy", "listening", "hearing", "note", "fault", or nothing.
        key: of the text.
        progress: {"done", "max"} in seconds of a reply that is made.
    """
    text = each(key, **values) if key else {}
    return json.dumps({"kind": kind, "text": text, "progress": progress})


def fault_status(error: UserError) -> str:
    """What was wrong, as status.js shows it."""
    return status("fault", error.code, **error.values)
