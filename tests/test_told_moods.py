"""What mood the words of a line tell, and that who writes them is answered in it."""

import pytest
import torch
from replying import RATE, reply_to, speech

from models.contract import SpeechModel
from models.load import load_model
from models.westlake.reply import EMOTION_PLACE, _leanings
from models.westlake.told_moods import MOOD_WORDS, SAY, told_emotion, told_leaning
from training.dialogues import EMOTIONS


@pytest.fixture(scope="module")
def tiny() -> SpeechModel:
    return load_model("tiny")


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("今天上班好累啊。", "tired"),
        ("今天运动了一小时，好开心！", "happy"),
        ("编剧把结局写烂尾了，真气人。", "angry"),
        ("在深水区我紧张得手脚发僵。", "anxious"),
        ("我难过，快逗我笑笑。", "sad"),
        ("我特别开心。", "happy"),
        ("我最近总是高兴不起来。", None),
        ("我一点也不开心。", None),
        ("别担心，没事的。", None),
        ("不要生气。", None),
        ("你会孤独吗？", None),
        ("又累又难过，累得想哭。", None),  # of two moods
        ("空气炸锅怎么用？", None),
        ("这里安不安全？", None),
        ("心里总是不安。", "anxious"),
        ("这道题很困难。", None),
        ("这些年积累了经验。", None),
        ("祝你生日快乐。", None),
        ("这个周末真快乐。", "happy"),
        ("不用担心。", None),
        ("我不是很开心。", None),
        ("孩子不喜欢学习。", None),
        ("你好。", None),
        ("今天心情很好。", "happy"),
        ("心情特别好！", "happy"),
        ("最近心情不好。", None),
        ("心情不是很好。", None),
        ("你心情好吗？", None),
        ("怎么才能让心情好起来呢？", None),
    ],
)
def test_words_tell_a_mood_or_none(text: str, emotion: str | None):
    assert told_emotion(text) == emotion
    assert set(MOOD_WORDS) < set(EMOTIONS)


def test_words_lean_to_their_mood_where_the_model_has_it():
    ids = {"happy": 3, "sad": 5}
    assert torch.equal(told_leaning("我很开心", ids, 8), SAY * torch.eye(8)[3])
    for text in ("我很累", "你好", ""):
        assert told_leaning(text, ids, 8) is None
    assert told_leaning("我很开心", {}, 8) is None


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("我很开心", "happy"),
        ("今天心情很好", "happy"),
        ("我现在很快乐", "happy"),
        ("好累啊", "tired"),
        ("我很害怕", "anxious"),
        ("我很难过", "sad"),
    ],
)
def test_the_embedded_checkpoint_answers_in_the_mood_that_is_written(
    tiny: SpeechModel, text: str, emotion: str
):
    chunks, _, _ = reply_to(tiny, text=text)
    assert {chunk.emotion for chunk in chunks} == {emotion}


def test_a_voice_is_believed_more_than_the_words(tiny: SpeechModel):
    turn = tiny.new_conversation().begin_turn("我很开心", RATE)
    turn.push(speech(1.0).samples)
    turn.finish()
    told = told_leaning(
        "我很开心", tiny.checkpoint.emotion_ids, tiny.checkpoint.model.config.vocab_size
    )
    leaning = _leanings(tiny.checkpoint, turn).get(EMOTION_PLACE)
    assert leaning is None or not torch.equal(leaning, told)
