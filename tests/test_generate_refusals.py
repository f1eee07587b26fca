"""What generate_long refuses, at once and with the conversation as it was."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from replying import NUM_FRAMES, RATE, SEEDED, log_lines, reply_to, speech, talk_of
from small import rigged, small_model

from generate import generate_long
from models.errors import UserError
from models.westlake.conversation import Conversation
from models.westlake.speech_model import WestlakeModel


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


def read_anew(conversation):
    """The same turns in a conversation that has read nothing yet."""
    return Conversation(conversation.model, conversation.turns)


BAD = {
    "nothing": ({}, "neither speech nor text"),
    "blank text": ({"text": " \n"}, "neither speech nor text"),
    "no samples": ({"audio": (RATE, np.zeros(0, np.int16))}, "no samples"),
    "no file": ({"audio": "missing.wav"}, "missing.wav"),
    "NaN": ({"audio": (RATE, np.full(100, np.nan))}, "NaN"),
    "odd rate": ({"audio": (1, np.zeros(100, np.int16))}, "8000 to 192000"),
    "silence": ({"audio": (RATE, np.zeros(RATE, np.int16))}, "no speech was heard"),
    "a tenth of a second": (
        {"audio": (RATE, speech(0.1).samples.numpy())},
        "at least half a second",
    ),
    "too long speech": ({"audio": (RATE, np.zeros(2 * RATE, np.int16)), "max_seconds": 1}, "2.0 s"),
    "too long for the context": (
        {"audio": speech(12)},
        r"\b1[23]\.\d s of speech, at most \d{1,2}\.\d s",
    ),
    "too long text": ({"text": "你好。" * 300}, "s of speech, at most"),
    "unknown style": ({"text": "你好", "style": "shouting"}, "'shouting'.*warm, cheerful"),
    "no frames": ({"text": "你好", "max_new_tokens": 0}, "max_new_tokens is 0"),
    "first chunk": ({"text": "你好", "first_chunk_frames": 0}, "first_chunk_frames is 0"),
    "chunk": ({"text": "你好", "chunk_frames": -1}, "chunk_frames is -1"),
}


@pytest.fixture(scope="module")
def talk(model):
    return talk_of(model, "你好", "再见")


@pytest.mark.parametrize("given, message", BAD.values(), ids=BAD)
def test_bad_input_is_refused_at_once_and_changes_nothing(model, talk, given, message):
    conversation = read_anew(talk)
    conversation.read()
    before = conversation.columns, conversation.cache.length
    with log_lines() as lines, pytest.raises(ValueError, match=message):
        generate_long(model, conversation=conversation, **given)
    assert len(conversation.turns) == 2 and not conversation.open_turn
    assert torch.equal(conversation.columns, before[0])
    assert conversation.cache.length in (0, before[1]), "all of it, or nothing and it is read again"
    assert not any(line.startswith(">> Input") for line in lines)
    after, expected = (
        reply_to(model, text="好", conversation=c, max_new_tokens=2)[2]
        for c in (conversation, read_anew(talk))
    )
    np.testing.assert_allclose(after, expected, atol=1e-4)


def test_a_style_that_the_checkpoint_lacks(model):
    plain = WestlakeModel(dataclasses.replace(model.checkpoint, style_ids={}))
    with pytest.raises(ValueError, match="'warm'.*no styles"):
        generate_long(plain, text="你好", style="warm")


def test_a_turn_that_was_listened_to_has_its_own_text(model):
    turn = model.new_conversation().begin_turn(None, RATE)
    turn.push(speech(0.3).samples)
    for given in ({"text": "你好"}, {"conversation": model.new_conversation()}):
        with pytest.raises(ValueError, match="its own text"):
            generate_long(model, audio=turn, **given)
    chunks, _, _ = reply_to(model, audio=turn, conversation=turn.conversation)
    assert chunks[-1].total_frames == NUM_FRAMES
    with pytest.raises(ValueError, match="over"):
        generate_long(model, audio=turn)


def test_a_turn_that_is_being_answered_goes_on_when_it_is_asked_for_again(model):
    turn = model.new_conversation().begin_turn("你好", RATE)
    reply = generate_long(model, audio=turn, sampling=SEEDED, max_new_tokens=NUM_FRAMES)
    next(reply)
    with pytest.raises(ValueError, match="over"):
        generate_long(model, audio=turn)
    assert list(reply)[-1].total_frames == NUM_FRAMES
    assert len(turn.conversation.turns) == 1


@pytest.mark.parametrize("fails_at", [1, 6])
def test_an_error_in_the_reply_leaves_a_sound_conversation(model, fails_at):
    steps = itertools.count(1)

    def breaking(hidden):
        if next(steps) == fails_at:
            raise RuntimeError("the device is gone")
        return model.checkpoint.model.text_logits(hidden)

    conversation = talk_of(model, "你好")
    before = conversation.columns
    conversation.model = rigged(model, text_logits=breaking)
    with pytest.raises(RuntimeError, match="gone"):
        reply_to(conversation.model, text="再见", conversation=conversation)
    conversation.model = model
    if fails_at == 1:
        assert torch.equal(conversation.columns, before)
    else:  # two frames had been heard
        turn = conversation.turns[1]
        assert turn.columns.shape[1] == turn.prompt_length + 2 + 1
    assert conversation.cache.length <= conversation.columns.shape[1]
    left, right = (
        reply_to(model, text="好", conversation=c)[2]
        for c in (conversation, read_anew(conversation))
    )
    np.testing.assert_allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("value", [4.5, "4", True, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["max_new_tokens", "first_chunk_frames", "chunk_frames"])
def test_a_count_that_is_no_whole_number(model, name, value):
    with pytest.raises(UserError, match=f"{name} is .*whole number"):
        generate_long(model, text="你好", **{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1, "60", None])
def test_max_seconds_is_a_finite_number(model, value):
    samples = np.zeros(2 * RATE, np.int16)
    with pytest.raises(UserError) as caught:  # of silence, too, but by another code
        generate_long(model, audio=(RATE, samples), max_seconds=value)
    assert caught.value.code == "error_max_seconds"


@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_the_model_does_not_accept(model, kind):
    with pytest.raises(UserError, match=f"does not take {kind}: allowed are audio, text"):
        generate_long(model, text="你好", **{kind: "cat.png"})


def test_a_voice_that_the_model_lacks(model):
    with pytest.raises(UserError, match="voice 'bell': this model has one voice"):
        generate_long(model, text="你好", voice="bell")


@pytest.mark.parametrize("text", ["\udcff", "好\ud800"])
def test_text_that_is_no_unicode(model, text):
    with pytest.raises(UserError, match="no UTF-8"):
        generate_long(model, text=text)


def test_text_of_another_type(model):
    with pytest.raises(UserError, match="text came as list"):
        generate_long(model, text=["你好"])


def test_long_text_is_refused_before_it_is_tokenized(model, monkeypatch):
    monkeypatch.setattr(
        type(model.checkpoint.tokenizer), "encode", lambda *given: pytest.fail("was tokenized")
    )
    with pytest.raises(UserError, match="the text has 40000000 characters, allowed are up to"):
        generate_long(model, text=20_000_000 * "你好")


def test_text_that_fits_is_not_too_long_by_its_characters(model):
    """The longest text of tokens that fit has no more characters than are allowed."""
    longest = max(model.checkpoint.tokenizer.get_vocab(), key=len)
    assert model.max_input_characters >= model.max_input_columns * len(longest)
