"""Speech to answer, a conversation's next turn, and whether it is sound: what its tests share."""

import numpy as np
import torch

from generate import generate_long
from models.audio import AudioClip
from models.westlake.conversation import Conversation
from models.westlake.dual_ar import SamplingConfig

SEEDED = SamplingConfig(seed=1)
RATE = 16_000
LONG_TEXT = "今天天气怎么样？" * 4


def noise(seconds, rate=RATE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(int(seconds * rate), generator=generator) - 0.5


def clip(seconds, seed=0):
    return AudioClip(noise(seconds, seed=seed), RATE)


def answer(conversation, num_frames=6, sampling=SEEDED, **given):
    """The next turn of the conversation; returns the reply's wave."""
    options = {"max_new_tokens": num_frames, "sampling": sampling, "conversation": conversation}
    chunks = list(generate_long(conversation.model, **options, **given))
    return np.concatenate([chunk.new_audio for chunk in chunks])


def read_anew(conversation):
    """The same turns in a conversation that has read nothing yet."""
    return Conversation(conversation.model, conversation.turns)


def assert_sound(conversation):
    """Closed, and its next reply is the one it would be if everything were read anew."""
    assert conversation.open_turn is None
    assert conversation.cache.length <= conversation.columns.shape[1]
    for turn in conversation.turns:
        assert turn.columns[0, 0] == conversation.model.prompt_tokens.user[0]
        assert turn.columns[0, -1] == conversation.model.checkpoint.end_id
    fresh = read_anew(conversation)
    next_waves = [answer(c, 3, text="好") for c in (conversation, fresh)]
    np.testing.assert_allclose(*next_waves, atol=1e-4)
    assert torch.equal(conversation.columns, fresh.columns)
