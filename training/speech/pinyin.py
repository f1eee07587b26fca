"""How Chinese text is read: pinyin with tones, as the teacher says it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

PUNCTUATION = "，。？！"
# Neighbours that make 一 a number, which keeps its tone.
BEFORE_A_NUMBER = (*"零一二三四五六七八九十幺第初",)
AFTER_A_NUMBER = (*"零一二三四五六七八九月号",)


def words(text: str) -> Iterator[tuple[str, list[str]]]:
    """Words of a text with the pinyin of their characters, as "hao3", after tone sandhi; a
    punctuation mark is a word without pinyin.

    Raises:
        ValueError: a character that is neither Chinese nor one of ，。？！
    """
    import jieba

    jieba.setLogLevel(logging.WARNING)
    phrase: list[tuple[str, list[str]]] = []
    for word in jieba.lcut(text):
        if word in PUNCTUATION:
            yield from _say_not_and_one(phrase)
            yield word, []
            phrase = []
        elif pinyins := _look_up(word):
            phrase.append((word, list(pinyins)))
        else:
            raise ValueError(
                f"{word!r} in {text!r} can't be said: write Chinese characters and ，。？！"
            )
    yield from _say_not_and_one(phrase)


@functools.lru_cache(maxsize=1 << 16)
def _look_up(word: str) -> tuple[str, ...]:
    """The pinyin of a word's characters; none where it can't be said."""
    from pypinyin import Style, lazy_pinyin

    pinyins = lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True, tone_sandhi=True)
    can_be_said = len(pinyins) == len(word) and all("\u4e00" <= c <= "\u9fff" for c in word)
    return tuple(pinyins) if can_be_said else ()


def _say_not_and_one(phrase: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Give 不 and 一 the tones that they take before what follows, which may be another word."""
    chars = "".join(word for word, _ in phrase)
    tones = "".join(syllable[-1] for _, syllables in phrase for syllable in syllables)
    said, place = [], 0
    for word, syllables in phrase:
        syllables = list(syllables)
        for index, char in enumerate(word):
            before, after = chars[:place][-1:], chars[place + 1 :][:1]
            falling = after == "个" or tones[place + 1 :][:1] == "4"
            place += 1
            if char == "不" and syllables[index] != "bu5":
                syllables[index] = "bu2" if falling else "bu4"
            elif char == "一" and after and before == after:
                syllables[index] = "yi5"
            elif char == "一":
                is_number = before in BEFORE_A_NUMBER or after in AFTER_A_NUMBER
                ends_word = not after or (len(word) > 1 and index == len(word) - 1)
                syllables[index] = "yi1" if is_number or ends_word else "yi2" if falling else "yi4"
        said.append((word, syllables))
    return said


@functools.lru_cache(maxsize=1 << 16)
def syllables(text: str) -> tuple[tuple[str, ...], ...]:
    """Each character's initial, where it has one, and its final with the tone: 你 is (n, i3).

    Raises:
        ValueError: as `words`.
    """
    return tuple(_split(pinyin) for _, pinyins in words(text) for pinyin in pinyins)


def plain_syllables(text: str) -> list[str]:
    """The pinyin of a text's characters, without tones: what is told apart in what users say."""
    return ["".join(syllable)[:-1] for syllable in syllables(text)]


@functools.lru_cache(maxsize=1 << 12)
def _split(pinyin: str) -> tuple[str, ...]:
    from pypinyin.contrib.tone_convert import to_finals, to_initials

    initial = to_initials(pinyin, strict=False)
    final = to_finals(pinyin, strict=False, v_to_u=False) + pinyin[-1]
    return (initial, final) if initial else (final,)
