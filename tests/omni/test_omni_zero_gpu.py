"""On ZeroGPU: what is shown goes to the forked process too, and so does a system prompt."""

import numpy as np
import pytest
from fake_spaces import FakeSpaces
from omni_talk import RATE, picture, speech

from models.contract import ReplyOptions, SystemPrompts
from models.elsewhere import conversation_of, state_of
from models.errors import UserError
from models.omni.sampling import OmniSampling
from models.zero_gpu import ZeroGpuModel

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def answer(conversation, seconds, **given):
    """The next turn's chunks."""
    turn = conversation.begin_turn("hello", RATE, **given)
    turn.push(speech(seconds))
    turn.finish()
    options = ReplyOptions(sampling=OmniSampling(seed=3), max_frames=40)
    return list(conversation.reply(turn, options))


def test_two_turns_with_a_picture_and_a_system_prompt(omni):
    lent = ZeroGpuModel(omni, FakeSpaces().GPU)
    assert isinstance(lent, SystemPrompts) and "image" in lent.accepts
    there, here = (each.new_conversation_with("Be kind.") for each in (lent, omni))
    for given in ({"image": picture()}, {}):
        here = conversation_of(omni, state_of(here))
        replies = [answer(conversation, 0.7, **given) for conversation in (there, here)]
        texts = ["".join(chunk.new_text for chunk in reply) for reply in replies]
        waves = [np.concatenate([chunk.new_audio for chunk in reply]) for reply in replies]
        assert texts[0] == texts[1] and len(waves[0])
        np.testing.assert_array_equal(*waves)


def test_who_begins_anew_keeps_the_system_prompt(omni, tmp_path):
    lent = ZeroGpuModel(omni, FakeSpaces().GPU)
    conversation = lent.new_conversation_with("Be kind.")
    answer(conversation, 0.3)
    conversation.save(tmp_path / "talk")
    for each in (conversation, lent.load_conversation(tmp_path / "talk")):
        assert len(conversation_of(omni, state_of(each)).turns) == 1
        each.reset()
        begun = conversation_of(omni, state_of(each))
        assert not begun.turns and begun.system == "Be kind."


def test_a_system_prompt_that_is_none_is_refused_at_once(omni):
    with pytest.raises(UserError) as error:
        ZeroGpuModel(omni, FakeSpaces().GPU).new_conversation_with("kind" * 10**6)
    assert error.value.code == "error_text_too_long"
