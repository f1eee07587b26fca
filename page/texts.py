"""What the page says, in Chinese and English, and its few pieces of HTML."""

from __future__ import annotations

import json
import re
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
# What can be wrong with a user's input, as a pattern of the English message, in Chinese.
FAULTS = {
    r"there is no sound file": "找不到这个声音文件：请重新上传。",
    r"is empty \(0 bytes\)": "声音文件是空的（0 字节）：请重新录音或导出。",
    r"can't be read as sound": "读不出这个声音文件：请使用完整的 wav、flac、ogg 或 mp3 文件。",
    r"is cut off": "声音文件不完整：请重新复制或导出。",
    r"has no samples": "录音里没有声音数据：请重新录音或导出。",
    r"NaN or infinite": "声音文件里有无效的数值：请重新导出。",
    r"float samples up to ([^ ,]+)": "声音数据最大达到 {}，只允许 -1 到 1：请按满刻度缩小。",
    r"has (\d+) channels, allowed are up to (\d+)": (
        "声音有 {} 个声道，最多 {} 个：请使用单声道或立体声。"
    ),
    r"has (\d+) samples a second, allowed are (\d+) to (\d+)": (
        "采样率为每秒 {} 次，允许 {} 到 {}：请转换，例如转成 44100。"
    ),
    r"lasts ([\d.]+) s, allowed are up to ([\d.]+) s": "声音长 {} 秒，最长 {} 秒：请截短一些。",
    r"takes (\d+) positions, but at most (\d+)": (
        "输入太长（占 {} 个位置，最多 {} 个）：请缩短录音或文字。"
    ),
    r"nothing was heard": "没有听到声音：请至少说半秒钟。",
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


def fault(message: str) -> str:
    """What was wrong with a user's input, in both languages; an unknown fault is told in English.

    Args:
        message: the English one.
    """
    chinese = message
    for pattern, words in FAULTS.items():
        if found := re.search(pattern, message):
            chinese = words.format(*found.groups())
    return "".join(
        f'<span class="{name}" lang="{name}">{escape(words, quote=False)}</span>'
        for name, words in (("en", message), ("zh", chinese))
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
