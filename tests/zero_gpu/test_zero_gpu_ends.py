"""How calls of ZeroGPU end: all that they give is taken, and none waits for ever to be told."""

import multiprocessing
import os
import signal
from contextlib import closing

import pytest
from conversing import LONG_TEXT, SEEDED, answer

from generate import generate_long
from models import zero_gpu
from models.elsewhere import conversation_of, state_of
from models.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def replying(conversation, **given):
    options = {"sampling": SEEDED, "max_new_tokens": 60, "chunk_frames": 3}
    return generate_long(conversation.model, conversation=conversation, **options, **given)


def test_all_that_a_call_gives_is_taken(lent, spaces, tmp_path):
    (tmp_path / "talk").write_bytes(b"nothing")
    with pytest.raises(UserError, match="talk is no saved conversation"):
        lent.load_conversation(tmp_path / "talk")
    conversation = lent.new_conversation()
    with pytest.raises(UserError):
        answer(conversation, text=LONG_TEXT * 20)
    with closing(replying(conversation, text="你好")) as reply:
        next(reply)
    assert len(spaces.asked) == 3 and spaces.num_left == 0


def test_a_reply_that_is_asked_for_no_more_ends(model, lent, monkeypatch):
    """As when the page ends in the middle of one, and each would wait for the other."""
    monkeypatch.setattr(zero_gpu, "PATIENCE_SECONDS", 0.1)
    others = set(multiprocessing.active_children())
    conversation = lent.new_conversation()
    reply = replying(conversation, text="你好")
    first = next(reply)
    (process,) = set(multiprocessing.active_children()) - others
    process.join(60)
    assert process.exitcode == 0
    assert list(reply) == []
    (turn,) = conversation_of(model, state_of(conversation)).turns
    assert turn.columns.shape[1] - turn.prompt_length == first.total_frames + 1
    assert len(answer(conversation, 3, text="再见"))


def test_a_process_that_dies_breaks_its_reply_off(lent):
    others = set(multiprocessing.active_children())
    conversation = lent.new_conversation()
    before = conversation.state
    reply = replying(conversation, text="你好")
    next(reply)
    (process,) = set(multiprocessing.active_children()) - others
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UserError) as error:
        list(reply)
    assert error.value.code == "error_zero_gpu" and "aborted" in str(error.value)
    assert conversation.state == before
    assert len(answer(conversation, 3, text="再见"))
