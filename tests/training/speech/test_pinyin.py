"""How texts are read."""

import pytest

from training.dialogues import Dialogues
from training.speech.pinyin import PUNCTUATION, syllables, words


def read(text: str) -> str:
    return " ".join(pinyin for _, pinyins in words(text) for pinyin in pinyins)


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("你好", "ni2 hao3"),  # a third tone before a third
        ("不要", "bu2 yao4"),  # 不 before a fourth
        ("不想", "bu4 xiang3"),
        ("一个", "yi2 ge4"),  # 一 before a fourth
        ("一起", "yi4 qi3"),  # and before others
        ("一天", "yi4 tian1"),
        ("一样", "yi2 yang4"),
        ("一下", "yi2 xia4"),
        ("我一看", "wo3 yi2 kan4"),  # across words
        ("我不去", "wo3 bu2 qu4"),
        ("看一看", "kan4 yi5 kan4"),  # neutral between a word and itself
        ("第一次", "di4 yi1 ci4"),  # a number
        ("幺二一零", "yao1 er4 yi1 ling2"),
        ("十一个", "shi2 yi1 ge4"),
        ("统一大学", "tong3 yi1 da4 xue2"),  # at the end of a word
        ("不，要", "bu4 yao4"),  # not across a pause
        ("一，样", "yi1 yang4"),
        ("睡觉", "shui4 jiao4"),
        ("觉得", "jue2 de5"),
        ("爱好", "ai4 hao4"),
        ("音乐", "yin1 yue4"),
        ("快乐", "kuai4 le4"),
        ("银行", "yin2 hang2"),
        ("长大", "zhang3 da4"),
    ],
)
def test_words_are_read_as_they_are_said(text: str, reading: str):
    assert read(text) == reading


def test_punctuation_is_a_word_without_pinyin():
    assert list(words("好，好。")) == [("好", ["hao3"]), ("，", []), ("好", ["hao3"]), ("。", [])]


def test_syllables_are_an_initial_and_a_final_with_its_tone():
    assert syllables("你好，我去。") == (("n", "i2"), ("h", "ao3"), ("w", "o3"), ("q", "u4"))
    assert syllables("爱") == (("ai4",),) and syllables("") == ()


@pytest.mark.parametrize("text", ["我OK", "三3", "好 的", "ok"])
def test_what_has_no_reading_is_refused(text: str):
    with pytest.raises(ValueError, match="can't be said: write Chinese characters"):
        syllables(text)


def test_every_character_of_the_dialogues_is_one_syllable(shipped: Dialogues):
    texts = [
        text
        for intent in shipped.intents
        for text in (*intent.users[::8], *intent.held[::4], *intent.then.values())
    ]
    texts += [reply for intent in shipped.intents for reply in sum(intent.replies.values(), ())]
    for text in texts:
        characters = [character for character in text if character not in PUNCTUATION]
        found = syllables(text)
        assert len(found) == len(characters)
        assert all(syllable[-1][-1] in "12345" for syllable in found), text
