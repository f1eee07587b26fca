"""Lines put together of recorded syllables."""

import numpy as np
import torch
from recipe import make_spoken

from training.language.corpus import Spoken
from training.language.splicing import Splicer, spoken_syllables, stretch
from training.speech.pinyin import plain_syllables


def spoken(text: str, manner: str, fill: int, lead: int = 2, length: int = 3) -> Spoken:
    """A line of which every code of a character is its place, counted from `fill`."""
    number = len(plain_syllables(text))
    codes = [torch.full((8, lead), fill - 1)]
    codes += [torch.full((8, length), fill + place) for place in range(number)]
    onsets = tuple(lead + length * place for place in range(number))
    joined = torch.cat(codes, dim=1).short()
    return Spoken(intent="talk.hello", text=text, manner=manner, codes=joined, onsets=onsets)


def test_every_frame_knows_its_syllable():
    reply = make_spoken("talk.hello", "你好，爱。", "warm")
    names = spoken_syllables(reply, ["ni2", "hao3", "ai4"])
    assert len(names) == reply.codes.shape[1]
    assert names == [""] * 4 + ["ni2"] * 3 + ["hao3"] * 3 + ["ai4"] * 5


def test_syllables_are_told_apart_without_tones():
    assert plain_syllables("你好，爱。") == ["ni", "hao", "ai"]


def test_a_line_is_said_in_the_syllables_of_others():
    splicer = Splicer([spoken("你好。", "happy", 100), spoken("爱你。", "happy", 200)])
    said = splicer.say("talk.love", "好，爱。", np.random.default_rng(0))
    assert said is not None
    assert (said.intent, said.text, said.manner) == ("talk.love", "好，爱。", "happy")
    assert said.onsets == (2, 5)
    assert said.codes[0, 2:].tolist() == [101] * 3 + [200] * 3 and said.codes.shape == (8, 8)
    assert said.codes[0, :2].tolist() in ([99, 99], [199, 199])
    assert spoken_syllables(said, ["hao", "ai"]) == [""] * 2 + ["hao"] * 3 + ["ai"] * 3


def test_a_line_whose_syllables_nobody_said_so_is_not_said():
    splicer = Splicer([spoken("你好。", "happy", 100), spoken("爱。", "sad", 200)])
    rng = np.random.default_rng(0)
    assert all(splicer.say("talk.love", "你爱。", rng) is None for _ in range(10))
    assert {splicer.say("talk.love", "好。", rng).manner for _ in range(10)} == {"happy"}
    assert Splicer([]).say("talk.love", "你好。", rng) is None


def test_the_same_generator_says_the_same():
    splicer = Splicer([spoken("你好。", "happy", n) for n in (100, 200, 300)])
    one, other = (splicer.say("x", "你好。", np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one.codes, other.codes)


def test_a_line_is_stretched_with_its_onsets():
    codes = torch.arange(200).repeat(8, 1).short()
    spoken = Spoken(intent="a", text="你好吗", manner="sad", codes=codes, onsets=(20, 90, 150))
    lengths = set()
    for seed in range(40):
        found = stretch(spoken, np.random.default_rng(seed))
        lengths.add(found.codes.shape[1])
        steps = found.codes[0].diff()
        assert (steps >= 0).all() and found.codes.shape[0] == 8
        for before, after in zip(spoken.onsets, found.onsets):
            assert abs(int(found.codes[0, after]) - before) <= 3  # the same place in the line
    assert min(lengths) < 185 and max(lengths) > 215 and min(lengths) > 160 and max(lengths) < 240
