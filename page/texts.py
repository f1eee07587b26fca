"""What the page says, in Chinese and English, and its few pieces of HTML."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
STRINGS: dict[str, dict[str, str]] = json.loads(
    (FOLDER / "strings.json").read_text(encoding="utf-8")
)
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
# Gradio answers a browser of bare zh, or of zh-SG, in English: it is told here, in the module
# that it offers its own language menu from.
HEAD = """
<script type="module">
  const chinese = /^zh\\b/i.test(navigator.language);
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  document.documentElement.classList.toggle("insecure", !window.isSecureContext);
  if (chinese && navigator.language !== "zh-CN") {
    const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    const core = loaded.find((name) => /\\/core-[^/]*\\.js$/.test(name));
    if (core) (await import(core)).changeLocale?.("zh-CN");
  }
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
