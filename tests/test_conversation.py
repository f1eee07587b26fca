"""A conversation goes on in its cache as if everything were read anew each time."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conversing import RATE, SEEDED, answer, assert_sound, clip, noise
from small import rigged, small_model

from generate import generate_long
from models.audio import AudioClip, resample
from models.westlake.dual_ar import turn_grid


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


def listening(model):
    """The model, and a list into which its model puts the grid and hidden of each pass."""
    passes = []

    def forward_hidden(grid, caches=None):
        hidden = model.checkpoint.model.forward_hidden(grid, caches)
        passes.append((grid[0], hidden))
        return hidden

    return rigged(model, forward_hidden=forward_hidden), passes


def test_a_new_conversation_is_empty(model):
    conversation = model.new_conversation()
    assert conversation.columns.shape == conversation.unread.shape == (9, 0)
    conversation.read()
    conversation.abandon_turn()
    assert conversation.cache.length == 0 and not conversation.turns


def test_each_turn_reads_only_its_own_columns_and_equals_one_uncached_pass(model):
    heard, passes = listening(model)
    conversation = heard.new_conversation()
    for seed, text in enumerate((None, "你好", "再见")):
        answer(conversation, audio=clip(0.3, seed), text=text)
        num_read = sum(grid.shape[1] for grid, _ in passes)
        assert num_read == conversation.cache.length == conversation.columns.shape[1] - 2
    read = torch.cat([grid for grid, _ in passes], dim=1)
    assert torch.equal(read, conversation.columns[:, :-2])
    hidden = torch.cat([hidden for _, hidden in passes], dim=1)
    logits = model.checkpoint.model.text_logits(hidden)
    uncached, _ = model.checkpoint.model(conversation.columns[None, :, :-2])
    torch.testing.assert_close(logits, uncached, atol=1e-4, rtol=1e-4)


def test_columns_are_those_of_the_layout(model):
    conversation = model.new_conversation()
    answer(conversation, text="你好")
    answer(conversation, audio=clip(0.5))
    wave = resample(clip(0.5), model.checkpoint.codec.config.sample_rate)
    with torch.no_grad():
        codes, _ = model.checkpoint.codec.encode(wave, torch.tensor([wave.shape[-1]]))
    ids = model.checkpoint.tokenizer.encode("你好")
    for turn, text, speech in zip(conversation.turns, (ids, []), (None, codes[0])):
        prompt = turn.columns[:, : turn.prompt_length]
        expected = turn_grid(model.prompt_tokens, text, speech, 8)
        assert prompt.shape == expected.shape
        assert (prompt == expected).float().mean() >= 0.999
        assert turn.columns.shape[1] == turn.prompt_length + 6 + 1


def test_the_second_turn_depends_on_the_first(model):
    conversations = [model.new_conversation() for _ in range(2)]
    for conversation, text in zip(conversations, ("你好", "再见")):
        answer(conversation, text=text)
    left, right = (answer(conversation, text="好") for conversation in conversations)
    assert not np.allclose(left, right, atol=1e-3)


def test_the_oldest_turns_make_room(model):
    conversation = model.new_conversation()
    limit = 192  # of 256
    for index in range(7):
        before = list(conversation.turns)
        reply = generate_long(
            model,
            audio=clip(0.6, index),
            conversation=conversation,
            max_new_tokens=16,
            sampling=SEEDED,
        )
        kept = conversation.turns[:-1]
        assert conversation.columns.shape[1] <= limit
        assert all(left is right for left, right in zip(reversed(kept), reversed(before)))
        if len(kept) < len(before):
            dropped = before[: len(before) - len(kept)]
            assert conversation.columns.shape[1] <= limit / 2
            assert conversation.columns.shape[1] + dropped[-1].columns.shape[1] > limit / 2
            break
        list(reply)
    else:
        pytest.fail("nothing was dropped")
    fresh = model.new_conversation()
    fresh.turns = list(kept)
    wave = np.concatenate([chunk.new_audio for chunk in reply])
    expected = answer(fresh, 16, audio=clip(0.6, index))
    np.testing.assert_allclose(wave, expected, atol=1e-4)
    assert torch.equal(conversation.columns, fresh.columns)


def test_what_a_long_conversation_reads_again_is_little(model):
    heard, passes = listening(model)
    conversation = heard.new_conversation()
    new, read = 0, []
    for _ in range(30):
        passes.clear()
        answer(conversation, text="你好")
        new += conversation.turns[-1].columns.shape[1]
        read.append(sum(grid.shape[1] for grid, _ in passes))
    usual = sorted(read)[len(read) // 2]
    assert conversation.columns.shape[1] > 2 * usual and sum(num > usual for num in read) >= 2
    assert sum(num > usual for num in read) <= 30 * usual / (192 / 2) + 1, "of 192 that are read"
    assert sum(read) <= 2 * new


def test_turns_dropped_for_one_that_is_too_long_come_back(model):
    conversation = model.new_conversation()
    for text in ("你好", "再见"):
        answer(conversation, text=text)
    columns = conversation.columns
    turn = conversation.begin_turn(None, RATE)
    with pytest.raises(ValueError, match="of speech, at most"):
        for piece in noise(12).split(RATE // 2):
            turn.push(piece)
    assert torch.equal(conversation.columns, columns)
    with pytest.raises(ValueError, match="over"):
        turn.push(noise(0.1))
    assert_sound(conversation)


def test_the_last_turn_may_fill_its_share_alone(model):
    conversation = model.new_conversation()
    answer(conversation, text="你好")
    answer(conversation, audio=AudioClip(noise(8.5), RATE))
    assert len(conversation.turns) == 1
    assert_sound(conversation)


def test_reset(model):
    conversation = model.new_conversation()
    answer(conversation, text="你好")
    conversation.reset()
    assert not conversation.turns and conversation.cache.length == 0
    left, right = (answer(c, text="再见") for c in (conversation, model.new_conversation()))
    np.testing.assert_array_equal(left, right)


def test_a_reset_while_a_reply_runs(model):
    conversation = model.new_conversation()
    options = {"sampling": SEEDED, "max_new_tokens": 20, "conversation": conversation}
    reply = generate_long(model, text="你好", **options)
    next(reply)
    conversation.reset()
    other = answer(conversation, text="再见")
    assert not any(len(chunk.new_audio) for chunk in reply), "a forgotten reply goes on"
    np.testing.assert_array_equal(other, answer(model.new_conversation(), text="再见"))
    assert len(conversation.turns) == 1
    assert_sound(conversation)


def test_pad_codes_are_kept_as_the_model_reads_them(model):
    def step_fast(x, cache):
        logits = model.checkpoint.model.step_fast(x, cache)
        logits[:, 0] += 1000 * (cache.length % 2)
        return logits

    conversation = rigged(model, step_fast=step_fast).new_conversation()
    answer(conversation, text="你好")
    conversation.model = model
    turn = conversation.turns[0]
    assert (turn.columns[1:, turn.prompt_length : -1] == 0).float().mean() == 0.5
    assert_sound(conversation)


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_does_not_grow_over_many_turns(model):
    conversation, measured = model.new_conversation(), []
    for index in range(200):
        answer(conversation, 1, audio=clip(0.1, index), text="你好")
        measured.append(resident_bytes())
    assert len(conversation.turns) < 200
    assert measured[-1] < 1.05 * measured[20]
