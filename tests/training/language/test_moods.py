"""What mood the words of a line tell, in training."""

import numpy as np
import pytest

from training.dialogues import Dialogues
from training.language.conversations import Conversations


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
