"""The page's words in the browser's language, and its few pieces of HTML."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

from gradio import I18n
from gradio.i18n import I18nData

from models.contract import SpeechModel
from models.errors import UserError
from strings import LANGUAGES, STRINGS, say

from .glosses import EXAMPLES

FOLDER = Path(__file__).parent
# Of a recording whose name ends so: what is said, in short.
RECORDINGS = {
    "bad-mood": ("心情不好，能聊聊吗？", "I feel low lately, can we talk?"),
    "job": ("我并不喜欢现在的工作", "I don't like my job"),
    "esports": ("我想成为一名电竞选手", "I want to be an esports player"),
    "family": ("家里人不同意我去当电竞选手", "My family is against esports"),
    "assistant": ("你好，你叫什么名字呀？", "Hello, what's your name?"),
    "customer-service": ("我的快递怎么还没到？", "Why isn't my parcel here yet?"),
    "education": ("明天要考试了，我好紧张", "Tomorrow is my exam, I'm nervous"),
    "health": ("我最近总是睡不着", "I can't sleep lately"),
    "entertainment": ("给我推荐一部好看的电影吧", "Recommend me a good film"),
}
PICTURES = "image/png,image/jpeg,image/webp,image/bmp,image/gif"
_numbers = count(time.time_ns() // 1000)  # larger than those before a restart
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


def head() -> str:
    """What goes into the page's head: its script, with the words that it needs."""
    texts = json.dumps({language: STRINGS[language] for language in LANGUAGES})
    texts = texts.replace("<", "\\u003c")
    scripts = "\n".join(map(asset, ("head.js", "microphone.js")))
    return f"<script>window.pageWords = {texts};\n{scripts}</script>"


def header(model: SpeechModel) -> str:
    return (
        f"<header><h1>{both(_of('title', model))}</h1>"
        f"<p>{both(_of('subtitle', model))}</p></header>"
        f'<p class="note" role="note">{both("insecure")}</p>'
    )


def _of(key: str, model: SpeechModel) -> str:
    """The key of what is said of a model that answers in tones, or of any other."""
    return key if model.styles else f"{key}_other"


def title(model: SpeechModel) -> dict[str, str]:
    """The page's title by language."""
    return each(_of("title", model))


def bar(model: SpeechModel) -> str:
    """What stands above the conversation: which model speaks, and what can be done with it all."""
    place = {"device": model.device.upper(), "dtype": model.dtype}
    size = f"{model.num_parameters / 1e6:,.0f}"
    key = "model_tiny" if model.name == "tiny" else "model_other"
    short = both(f"{key}_short", size=size)
    buttons = "".join(
        f'<button type="button" class="plain {name}" id="{name}">{both(name)}</button>'
        for name in ("new", "save", "load")
    )
    return (
        f'<div class="bar"><p class="model"><b>{escape(Path(model.name).name)}</b> '
        f'<span class="full">{both(key, size=size, **place)}</span> '
        f'<button type="button" class="about" aria-expanded="false">{short}</button></p>'
        f'<div class="tools">{buttons}'
        f'<input type="file" accept=".zip" hidden data-label="load"></div></div>'
    )


def disclosure(key: str) -> str:
    """The button that shows and hides what follows it."""
    return f'<button type="button" class="disclosure" aria-expanded="false">{both(key)}</button>'


def player() -> str:
    """What player.js moves."""
    bars = "<i></i>" * 5
    return (
        f'<div class="player"><span class="bars">{bars}</span>{both("speaking")}'
        '<span class="clock">0:00</span></div>'
    )


def chat(model: SpeechModel, recordings: Sequence[Path]) -> str:
    """What chat.js fills."""
    lead = both("empty_seeing" if "image" in model.accepts else _of("empty", model))
    return (
        '<div class="log" role="log" aria-live="polite" tabindex="0">'
        f'<div class="placeholder"><p class="lead">{lead}</p>{examples(model, recordings)}</div>'
        "</div>"
    )


def example_texts(model: SpeechModel) -> dict[str, list[str]]:
    """What can be written, by the visitor's language: in it where the model speaks it."""
    spoken = model.languages
    said = {language: language if language in spoken else spoken[0] for language in LANGUAGES}
    texts = {"zh": list(EXAMPLES), "en": list(EXAMPLES.values())}
    return {language: texts[said[language]] for language in LANGUAGES}


def examples(model: SpeechModel, recordings: Sequence[Path]) -> str:
    """What can be tried: things to write, and recordings."""
    texts = "".join(
        _written(language, {"zh": chinese, "en": english}, model.languages)
        for chinese, english in EXAMPLES.items()
        for language in model.languages
    )
    sounds = "".join(
        _example(
            {"path": str(path), "name": recording(path.stem)},
            "".join(
                f'<span class="{language}" lang="{language}">{escape(name)}</span>'
                for language, name in recording(path.stem).items()
            ),
        )
        for path in recordings
    )
    shown = f'<p class="try">{both("examples")}</p><div class="examples">{texts}</div>'
    if sounds:
        heard = both("example_recordings")
        shown += f'<p class="try">{heard}</p><div class="examples sounds">{sounds}</div>'
    return shown


def _written(language: str, texts: dict[str, str], spoken: Sequence[str]) -> str:
    """A text to write: for visitors of its language, or with what it means in the others'."""
    said = f'<span lang="{language}">{escape(texts[language])}</span>'
    said += "".join(
        f'<span class="{other} gloss" lang="{other}">{escape(text)}</span>'
        for other, text in texts.items()
        if other not in spoken
    )
    return _example({"text": texts[language]}, said, language if len(spoken) > 1 else "")


def _example(given: dict[str, Any], content: str, only: str = "") -> str:
    data = escape(json.dumps(given))
    return f'<button type="button" class="{only}" data-example="{data}">{content}</button>'


def recording(stem: str) -> dict[str, str]:
    """What an example recording, such as 3-esports, is called in each language."""
    topic = stem.partition("-")[2]
    return dict(zip(LANGUAGES, RECORDINGS.get(topic, (stem, stem))))


def composer(model: SpeechModel) -> str:
    """What composer.js and hands_free.js move; pictures and videos where the model sees them."""

    def button(name: str, label: str = "") -> str:
        label = label or name
        return f'<button type="button" class="tool {name}" data-label="{label}"><i></i></button>'

    def slot(kind: str, shown: str) -> str:
        return (
            f'<div class="attached" data-kind="{kind}" hidden>{shown}<span class="name"></span>'
            f"{button('remove')}</div>"
        )

    slots = slot("audio", '<audio controls data-label="recording_name"></audio>')
    kinds, upload = ["audio/*", "video/mp4", "video/webm", ".amr", ".3gp"], "upload"
    if "image" in model.accepts:
        slots += slot("image", '<img alt="">')
        kinds.append(PICTURES)
        upload = "upload_any"
    if "video" in model.accepts:
        slots += slot("video", '<video controls muted data-label="video_shown"></video>')
        kinds.append("video/*")
    return (
        f'<div class="composer">{slots}'
        '<textarea id="text" rows="1" data-label="text" '
        f'data-placeholder="{_text_hint(model)}"></textarea>'
        f'<div class="keys">{button("upload", upload)}{button("record")}'
        f'<input type="file" accept="{",".join(kinds)}" hidden data-label="{upload}">'
        '<button type="button" class="round" id="hands-free">'
        '<i></i><span class="word"></span></button><span class="space"></span>'
        f'<button type="button" class="stop" id="stop">{both("stop")}</button>'
        f'<button type="button" class="send" id="send">{both("send")}</button></div></div>'
    )


def _text_hint(model: SpeechModel) -> str:
    """The key of what the text field says."""
    return f"text_hint_{model.languages[0]}" if len(model.languages) == 1 else "text_hint"


def status_line() -> str:
    """What status.js fills."""
    return (
        '<div class="status"><span class="said" role="status"></span>'
        '<span class="fault" role="alert"></span><progress hidden aria-hidden="true"></progress>'
        '<span class="time" hidden></span></div>'
    )


def next_number() -> int:
    """The number of the next value that pages are told, larger than all before.

    A browser takes what each call is told by itself, so it may come to an older value of one call
    after a newer one of another. And as no two are the same, what is told twice is seen twice.
    """
    return next(_numbers)


def status(
    kind: str = "",
    key: str = "",
    *,
    progress: object = None,
    goes_on: object = False,
    **values: object,
) -> str:
    """What goes on, as status.js shows it.

    Args:
        kind: "busy", "listening", "hearing", "note", "fault", or nothing.
        key: of the text.
        progress: {"done", "max"} in seconds of a reply that is made.
        goes_on: of what was under way, beside which a fault that came meanwhile stays.
    """
    text = each(key, **values) if key else {}
    shown = {"kind": kind, "text": text, "progress": progress, "goes_on": goes_on}
    return json.dumps({**shown, "number": next_number()})


def fault_status(error: UserError) -> str:
    """What was wrong, as status.js shows it."""
    return status("fault", error.code, **error.values)
