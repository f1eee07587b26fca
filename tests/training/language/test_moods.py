"""What mood the words of a line tell."""

import numpy as np
import pytest

from training.dialogues import EMOTIONS, Dialogues
from training.language.conversations import Conversations
from training.language.moods import MOOD_WORDS, told_emotion


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
    ],
)
def test_words_tell_a_mood_or_none(text: str, emotion: str | None):
    assert told_emotion(text) == emotion
    assert set(MOOD_WORDS) < set(EMOTIONS)


@pytest.mark.parametrize(("told", "place"), [(1, 1), (None, 0), ("none", 0)])
def test_what_is_written_has_the_mood_that_its_words_tell(
    conversations: Conversations,
    dialogues: Dialogues,
    monkeypatch: pytest.MonkeyPatch,
    told: int | str | None,
    place: int,
):
    """One of the intent's emotions, by its place."""
    intent = next(i for i in dialogues.intents if len(i.emotions) > 1)
    emotion = intent.emotions[told] if isinstance(told, int) else told
    monkeypatch.setattr("training.language.conversations.told_emotion", lambda text: emotion)
    rng = np.random.default_rng(0)
    shares = {"text": 0.5, "transcript": 0.5}
    drawn = [conversations._draw_user(intent, None, 0, rng, shares) for _ in range(60)]
    found = {i: {user.manner for user, k in drawn if k == i} for i in ("text", "transcript")}
    assert found == {"text": {intent.emotions[place]}, "transcript": {intent.emotions[0]}}
