"""The ways in which users say or write a line: loosely, in digits, taking the last one back; and
in which it is cut for the tokenizer."""

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
LOOSE_SHARE = 0.5  # of written lines
CORRECTION_SHARE = 0.15  # of those that may take back what was said before
CUT_SHARE = 0.2  # of the places between a user's characters, where tokens are kept apart
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


def as_said(text: str, may_correct: bool, rng: np.random.Generator) -> str:
    """A line as somebody may say it, who `may_correct` what was said before; of none, none."""
    if text and rng.random() < LOOSE_SHARE:
        text = loosen(text, rng)
    if text and may_correct and rng.random() < CORRECTION_SHARE:
        text = str(rng.choice(CORRECTIONS)) + text
    return text


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


def pieces(text: str, rng: np.random.Generator | None) -> list[str]:
    """The line cut at random, to become tokens piece by piece; whole without a generator."""
    if rng is None:
        return [text]
    cuts = [0, *(i for i in range(1, len(text)) if rng.random() < CUT_SHARE), len(text)]
    return [text[start:end] for start, end in zip(cuts, cuts[1:])]


@functools.lru_cache(maxsize=1 << 14)
def traditional(text: str) -> str:
    """Simplified characters -> traditional ones."""
    return _converter().convert(text)


@functools.cache
def _converter():
    import opencc

    return opencc.OpenCC("s2t")
