"""What the page says, in Chinese and English, and its few pieces of HTML."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
STRINGS: dict[str, dict[str, str]] = json.loads(
    (FOLDER / "strings.json").read_text(encoding="utf-8")
)
# A browser's language is looked up as it is: a bare zh is not found under zh-CN.
CHINESE = ("zh", "zh-CN", "zh-Hans", "zh-SG", "zh-TW", "zh-HK")
PREFIX = "page_"  # Gradio has keys of its own, "audio" among them
LOCALES = {
    locale: {PREFIX + key: text for key, text in STRINGS[name].items()}
    for name, locales in (("en", ("en",)), ("zh", CHINESE))
    for locale in locales
}
HEAD = """
<script>
  document.documentElement.lang = /^zh\\b/i.test(navigator.language) ? "zh-CN" : "en";
  document.documentElement.classList.toggle("insecure", !window.isSecureContext);
</script>
"""


SILENCE = "() => window.dispatchEvent(new Event('silence'))"
SHOW_KIND = "kind => { document.querySelector('#composer').dataset.kind = kind }"


def asset(name: str) -> str:
    """A file of this folder, as text."""
    return (FOLDER / name).read_text(encoding="utf-8")


def both(key: str) -> str:
    """The text in both languages; page.css shows the one of `<html lang>`.

    A key that is no known word, such as another checkpoint's emotion, stands for itself.
    """
    return "".join(
        f'<span class="{name}" lang="{name}">{escape(words.get(key, key))}</span>'
        for name, words in STRINGS.items()
    )


def header(checkpoint_name: str, device: str) -> str:
    chip = escape(f"{checkpoint_name} · {device}")
    return (
        f"<header><div><h1>{both('title')}</h1><p>{both('subtitle')}</p></div>"
        f'<span class="chip">{chip}</span></header>'
        f'<p class="note" role="note">{both("insecure")}</p>'
    )


def badge(kind: str, word: str) -> str:
    """A small badge: kind is "perceived" or "tone", word an emotion or a style."""
    return (
        f'<span class="badge {kind}"><span class="what">{both(kind)}</span>'
        f'<span class="word">{both(word)}</span></span>'
    )


def player() -> str:
    """What player.js moves."""
    bars = "<i></i>" * 5
    return (
        f'<div class="player"><span class="bars">{bars}</span>{both("speaking")}'
        '<span class="clock">0:00</span></div>'
    )


def status(key: str) -> str:
    """The line beside the player: what goes on."""
    return f'<div class="status">{both(key)}</div>' if key else ""


def progress(num_frames: int, max_frames: int, frame_rate: float) -> str:
    """The same line while a reply is made: how far it is, and how long it may become."""
    seconds = f"{num_frames / frame_rate:.1f} / {max_frames / frame_rate:.0f} s"
    bar = f'<progress max="{max_frames}" value="{num_frames}"></progress>'
    return f'<div class="status">{both("making")}{bar}<span>{seconds}</span></div>'
