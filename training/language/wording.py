"""The ways in which users say or write a line: loosely, in digits, taking the last one back."""

from __future__ import annotations

import functools
import re

import numpy as np

from ..speech.pinyin import PUNCTUATION

OPENED_SHARE, CLOSED_SHARE, TURNED_SHARE, HESITATION_SHARE, LOST_SHARE = 0.15, 0.1, 0.2, 0.03, 0.04
OPENINGS = (
    "那个，", "呃，", "哎，", "唉，", "我跟你说，", "说真的，",
    "你知道吗，", "其实，", "就是，", "对了，", "我想说，", "请问，",
)  # fmt: skip
CLOSINGS = (
    "，你说呢？", "，怎么办呀？", "，真的。", "，你懂吗？",
    "，唉。", "啊。", "，是吧？", "，哈哈。",
)  # fmt: skip
HESITATIONS = ("啊", "呃", "那个", "就是", "这个")
TRADITIONAL_SHARE, DIGITS_SHARE, UNPUNCTUATED_SHARE = 0.08, 0.3, 0.15
DIGITS = dict(zip("零一二三四五六七八九", "0123456789"))
NUMBER = re.compile("[一二三四五六七八九](?=[个天年月点号次岁斤块])")
# What opens a turn that takes back the one before.
CORRECTIONS = (
    "不是，我是说",
    "不对，我想说的是",
    "你听错了，我说的是",
    "等等，我的意思是",
    "我不是问这个，",
    "算了，换个话题，",
    "先不说这个，",
    "你理解错了，",
)


def loosen(text: str, rng: np.random.Generator) -> str:
    """The line as somebody says it who thinks while speaking: its clauses may change places, words
    come before and after it, and some of its characters, but never all, are lost or waited for."""
    clauses = [clause for clause in re.split("[，。？！]", text) if clause]
    if len(clauses) > 1 and rng.random() < TURNED_SHARE:
        clauses = clauses[1:] + clauses[:1]
        text = "，".join(clauses) + "。"
    kept = [char for char in text if rng.random() >= LOST_SHARE]
    if all(char in PUNCTUATION for char in kept):
        kept = list(text)
    said = []
    for char in kept:
        if rng.random() < HESITATION_SHARE:
            said.append(str(rng.choice(HESITATIONS)))
        said.append(char)
    text = "".join(said)
    if rng.random() < OPENED_SHARE:
        text = str(rng.choice(OPENINGS)) + text
    if rng.random() < CLOSED_SHARE:
        text = text.rstrip("，。？！") + str(rng.choice(CLOSINGS))
    return text


def reword(text: str, rng: np.random.Generator) -> str:
    """The line as somebody else may write it."""
    if rng.random() < DIGITS_SHARE:
        text = NUMBER.sub(lambda match: DIGITS[match[0]], text)
    if rng.random() < TRADITIONAL_SHARE:
        text = traditional(text)
    if rng.random() < UNPUNCTUATED_SHARE:
        text = text.rstrip("，。？！")
    return text


@functools.lru_cache(maxsize=1 << 14)
def traditional(text: str) -> str:
    """Simplified characters -> traditional ones."""
    return _converter().convert(text)


@functools.cache
def _converter():
    import opencc

    return opencc.OpenCC("s2t")
