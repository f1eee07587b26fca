"""How calls of ZeroGPU end: all that they give is taken, and none waits for ever to be told."""

import multiprocessing
import os
import signal
import threading
from contextlib import closing
from contextvars import copy_context
from multiprocessing.connection import wait
from threading import Event, Timer

import numpy as np
import pytest
from conversing import LONG_TEXT, SEEDED, answer
from fake_spaces import ASKER

from generate import generate_long
from models import zero_gpu
from models.elsewhere import conversation_of, state_of
from models.errors import UserError
from page.transcript import CLOSE_SECONDS

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


def test_a_call_is_that_of_who_asks(lent, spaces):
    context = copy_context()
    context.run(ASKER.set, "ann")
    context.run(answer, lent.new_conversation(), 3, text="你好")
    assert spaces.asked_by == ["ann"]


def test_a_wait_for_a_gpu_ends_with_a_stop(lent, spaces):
    assert zero_gpu.LEAVE_SECONDS < CLOSE_SECONDS  # so long the page waits for it
    conversation, stop = lent.new_conversation(), Event()
    answer(conversation, 3, text="你好")
    before, others = conversation.state, set(threading.enumerate())
    spaces.free.clear()
    reply = replying(conversation, text="再见", stop=stop)
    Timer(0.2, stop.set).start()
    assert list(reply) == [] and not spaces.free.is_set()
    assert conversation.state == before
    (call,) = set(threading.enumerate()) - others
    spaces.free.set()  # the call that was left takes it, and gives it back
    call.join(60)
    assert not call.is_alive() and conversation.state == before and spaces.num_left == 0
    expected = lent.new_conversation()
    expected.state = before
    waves = [answer(each, 3, text="好") for each in (conversation, expected)]
    np.testing.assert_array_equal(*waves)


def test_a_reply_that_is_asked_for_no_more_ends(model, lent, monkeypatch):
    """As when the page ends in the middle of one, and each would wait for the other."""
    monkeypatch.setattr(zero_gpu, "PATIENCE_SECONDS", 1.0)
    others = set(multiprocessing.active_children())
    conversation = lent.new_conversation()
    reply = replying(conversation, text="你好")
    first = next(reply)
    (process,) = set(multiprocessing.active_children()) - others
    assert wait([process.sentinel], 60)  # not by its exit code, which only one thread can ask for
    assert list(reply) == []
    assert process.exitcode == 0
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
