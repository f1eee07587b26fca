"""The ways in which a user's line may be written: traditional characters, digits, corrections."""

from __future__ import annotations

import functools
import re

import numpy as np

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
