"""A reply that is left, stopped or never begun leaves a sound conversation."""

from threading import Event

import numpy as np
import pytest
import torch
from conversing import SEEDED, answer, assert_sound
from small import rigged, small_model, speaking

from generate import generate_long
from models.westlake.conversation import Conversation


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


def stopped_by_event(reply, stop):
    chunks = [next(reply), next(reply)]
    stop.set()
    return [*chunks, *reply]


def closed(reply, stop):
    chunks = [next(reply), next(reply)]
    reply.close()
    return chunks


def dropped(reply, stop):
    chunks = [next(reply), next(reply)]
    del reply
    return chunks


def interrupted(reply, stop):
    chunks = [next(reply), next(reply)]
    with pytest.raises(KeyboardInterrupt):
        reply.throw(KeyboardInterrupt)
    return chunks


@pytest.mark.parametrize("leave", [stopped_by_event, closed, dropped, interrupted])
def test_a_reply_left_early_is_kept_as_far_as_it_was_said(model, tmp_path, leave):
    conversation, stop = model.new_conversation(), Event()
    answer(conversation, text="好")
    options = {"sampling": SEEDED, "max_new_tokens": 40, "chunk_frames": 3, "stop": stop}
    chunks = leave(generate_long(model, text="你好", conversation=conversation, **options), stop)
    said = np.concatenate([chunk.new_audio for chunk in chunks])
    turn = conversation.turns[-1]
    reply = turn.columns[:, turn.prompt_length : -1]
    assert reply.shape[1] == chunks[-1].total_frames
    with torch.no_grad():
        codes = reply[None, 1:] - 1
        wave, _ = model.checkpoint.codec.decode(codes, torch.tensor([codes.shape[2]]))
    np.testing.assert_allclose(said, wave[0, 0].numpy(), atol=1e-4)
    conversation.save(tmp_path / "talk")
    restored = model.load_conversation(tmp_path / "talk")
    left, right = (answer(c, text="再见") for c in (conversation, restored))
    np.testing.assert_allclose(left, right, atol=1e-4)
    assert torch.equal(conversation.columns, restored.columns)
    assert_sound(conversation)


@pytest.mark.parametrize("begin_anew", [Conversation.reset, Conversation.open])
def test_a_reply_that_is_in_a_step_when_the_conversation_goes_on(model, begin_anew):
    def forward_hidden(grid, caches):
        if grid.shape[2] == 1:  # as from another thread
            begin_anew(conversation)
        return model.checkpoint.model.forward_hidden(grid, caches)

    conversation = rigged(model, forward_hidden=forward_hidden).new_conversation()
    answer(conversation, text="你好")
    conversation.model = model
    assert conversation.columns.shape[1] == conversation.cache.length == 0
    wave = answer(conversation, text="再见")
    np.testing.assert_allclose(wave, answer(model.new_conversation(), text="再见"), atol=1e-4)
    assert_sound(conversation)


@pytest.mark.parametrize("begin_anew", [Conversation.reset, Conversation.open])
def test_a_conversation_that_goes_on_amid_the_layers_of_a_step(model, begin_anew):
    conversation = model.new_conversation()
    options = {"sampling": SEEDED, "max_new_tokens": 6, "conversation": conversation}
    reply = generate_long(model, text="你好", **options)
    next(reply)
    old, length = conversation.cache, conversation.cache.length

    def go_on(*_):  # as from another thread
        hook.remove()
        begin_anew(conversation)
        assert conversation.cache is not old and old.length == length

    hook = model.checkpoint.model.layers[1].register_forward_pre_hook(go_on)
    list(reply)
    assert old.length == length + 1 and conversation.cache.length == 0
    answer(conversation, text="再见")
    assert_sound(conversation)


def test_a_reply_that_was_never_begun_leaves_nothing(model):
    conversation = model.new_conversation()
    answer(conversation, text="你好")
    unused = generate_long(model, text="再见", conversation=conversation)
    wave = answer(conversation, text="好")
    assert len(conversation.turns) == 2
    with pytest.raises(ValueError, match="this turn is over"):
        next(unused)
    expected = model.new_conversation()
    answer(expected, text="你好")
    np.testing.assert_allclose(wave, answer(expected, text="好"), atol=1e-4)
    assert torch.equal(conversation.columns, expected.columns)
    assert_sound(conversation)


def test_a_reply_left_open_does_not_disturb_the_next_turn(model):
    conversation = model.new_conversation()
    options = {"sampling": SEEDED, "max_new_tokens": 20, "conversation": conversation}
    old = generate_long(model, text="你好", **options)
    next(old)
    new = generate_long(model, text="再见", **options)
    first = next(new)
    assert not any(len(chunk.new_audio) for chunk in old), "a forgotten reply goes on"
    wave = np.concatenate([first.new_audio, *(chunk.new_audio for chunk in new)])
    np.testing.assert_allclose(wave, answer(model.new_conversation(), 20, text="再见"), atol=1e-4)
    assert_sound(conversation)


def test_an_empty_reply_then_another_turn(model):
    conversation = speaking(model, []).new_conversation()
    assert len(answer(conversation, text="你好")) == 0
    conversation.model = model
    turn = conversation.turns[0]
    assert turn.columns.shape[1] == turn.prompt_length + 1
    assert len(answer(conversation, text="再见")) > 0
    assert_sound(conversation)


def test_a_reply_that_ended_then_another_turn(model):
    semantic = model.checkpoint.semantic_id
    conversation = speaking(model, [semantic] * 3).new_conversation()
    answer(conversation, text="你好")
    conversation.model = model
    turn = conversation.turns[0]
    said = [semantic] * 3 + [model.checkpoint.end_id]
    assert turn.columns[0, turn.prompt_length :].tolist() == said
    assert conversation.unread.shape[1] == 1
    assert_sound(conversation)
