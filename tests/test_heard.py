"""What a model wrote down of the user's speech: in the reply's chunks, and in the log."""

import dataclasses

import pytest
from replying import log_lines, reply_to
from small import small_model, speaking
from small_checkpoint import HEARD_TOKENS, new_model, save_small

from models.westlake.checkpoint import load_checkpoint
from models.westlake.speech_model import WestlakeModel


@pytest.fixture(scope="module")
def model(small_codec, tmp_path_factory):
    folder = save_small(tmp_path_factory.mktemp("saved"), new_model(), small_codec, HEARD_TOKENS)
    return WestlakeModel(load_checkpoint(folder, dtype="float32"))


def ids_of(model, *tokens):
    vocab = model.checkpoint.tokenizer.get_vocab()
    return [vocab[token] for token in tokens]


def opening(model):
    return ids_of(model, "<|user:sad|>", "<|style:calm|>", *HEARD_TOKENS, HEARD_TOKENS[0])


def test_syllables_that_are_heard_are_read_from_the_tokenizer(model):
    assert model.checkpoint.heard_ids == {"ni": 263, "hao": 264}
    assert {263, 264} < model.checkpoint.mark_ids


def test_what_was_heard_comes_with_the_first_sound(model):
    tokens = [*opening(model), *model.checkpoint.tokenizer.encode("ok")]
    chunks, text, wave = reply_to(speaking(model, tokens), text="?", first_chunk_frames=1)
    assert [chunk.heard for chunk in chunks] == ["ni hao ni"] * len(chunks)
    assert len(chunks) > 1 and chunks[0].emotion == "sad"
    assert text == "ok"
    assert len(wave) == 2 * model.checkpoint.codec.config.samples_per_frame


def test_what_is_written_later_is_added(model):
    sound, (heard, *_) = model.checkpoint.semantic_id, ids_of(model, *HEARD_TOKENS)
    tokens = [heard, sound, heard, sound]
    chunks, _, _ = reply_to(speaking(model, tokens), text="?", first_chunk_frames=1, chunk_frames=1)
    assert [chunk.heard for chunk in chunks if len(chunk.new_audio)] == ["ni", "ni ni"]


@pytest.mark.parametrize("marks", [["<|user:sad|>", "<|style:calm|>"], []])
def test_nothing_was_heard_where_nothing_was_written(model, marks):
    tokens = [*ids_of(model, *marks), model.checkpoint.semantic_id]
    chunks, _, _ = reply_to(speaking(model, tokens), text="?")
    assert {chunk.heard for chunk in chunks} == {None}


def test_a_checkpoint_without_such_tokens_hears_nothing(small_codec):
    plain = small_model(small_codec)
    plain = WestlakeModel(dataclasses.replace(plain.checkpoint, heard_ids={}))
    chunks, _, _ = reply_to(plain, text="?")
    assert {chunk.heard for chunk in chunks} == {None}


@pytest.mark.parametrize("log_content", [True, False])
def test_what_was_heard_is_logged_where_words_may_be(model, log_content):
    tokens = [*opening(model), model.checkpoint.semantic_id]
    with log_lines() as lines:
        reply_to(speaking(model, tokens), text="?", log_content=log_content)
    heard = [line for line in lines if "ni hao" in line]
    assert heard == (["Heard: ni hao ni"] if log_content else [])
