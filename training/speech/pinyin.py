"""How Chinese text is read: pinyin with tones, as the teacher says it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

PUNCTUATION = "，。？！"


def words(text: str) -> Iterator[tuple[str, list[str]]]:
    """Words of a text with the pinyin of their characters, as "hao3", after tone sandhi; a
    punctuation mark is a word without pinyin.

    Raises:
        ValueError: a character that is neither Chinese nor one of ，。？！
    """
    import jieba
    from pypinyin import Style, lazy_pinyin

    jieba.setLogLevel(logging.WARNING)
    for word in jieba.lcut(text):
        if word in PUNCTUATION:
            yield word, []
            continue
        syllables = lazy_pinyin(
            word, style=Style.TONE3, neutral_tone_with_five=True, tone_sandhi=True
        )
        if len(syllables) != len(word) or not all("\u4e00" <= c <= "\u9fff" for c in word):
            raise ValueError(
                f"{word!r} in {text!r} can't be said: write Chinese characters and ，。？！"
            )
        yield word, syllables


@functools.lru_cache(maxsize=1 << 16)
def syllables(text: str) -> tuple[tuple[str, ...], ...]:
    """Each character's initial, where it has one, and its final with the tone: 你 is (n, i3).

    Raises:
        ValueError: as `words`.
    """
    return tuple(_split(pinyin) for _, pinyins in words(text) for pinyin in pinyins)


def _split(pinyin: str) -> tuple[str, ...]:
    from pypinyin.contrib.tone_convert import to_finals, to_initials

    initial = to_initials(pinyin, strict=False)
    final = to_finals(pinyin, strict=False, v_to_u=False) + pinyin[-1]
    return (initial, final) if initial else (final,)
