"""What a model writes down of the user's speech: in the prompt, the reply's chunks, and the log."""

import dataclasses
from itertools import groupby
from types import SimpleNamespace

import pytest
import torch
from replying import NUM_FRAMES, log_lines, reply_to, speech
from small import rigged, small_model
from small_checkpoint import HEARD_TOKENS, SEMANTIC_ID, new_model, save_small

from models.contract import ReplyOptions
from models.westlake.checkpoint import load_checkpoint
from models.westlake.dictation import Dictation
from models.westlake.speech_model import WestlakeModel

IDS = {"ni": 263, "hao": 264}


@pytest.fixture(scope="module")
def model(small_codec, tmp_path_factory):
    folder = save_small(tmp_path_factory.mktemp("saved"), new_model(), small_codec, HEARD_TOKENS)
    plain = WestlakeModel(load_checkpoint(folder, dtype="float32"))
    # Of its random logits each of the three is about as often the highest.
    hidden = plain.checkpoint.model.forward_hidden(heard_columns(plain, speech(3.0))[None])[0]
    ids = [SEMANTIC_ID, *IDS.values()]
    usual = torch.zeros(plain.checkpoint.model.config.vocab_size)
    usual[ids] = plain.checkpoint.model.text_logits(hidden)[:, ids].mean(0)
    text_logits, text_head = plain.checkpoint.model.text_logits, plain.checkpoint.model.text_head

    def rigged_head(tokens):
        head = text_head(tokens)
        return lambda hidden: head(hidden) - usual[tokens]

    return rigged(
        plain, text_logits=lambda hidden: text_logits(hidden) - usual, text_head=rigged_head
    )


def turn_of(model, audio, size=None, text=None):
    """A finished turn, into which the speech came in pieces."""
    turn = model.new_conversation().begin_turn(text, audio.sample_rate)
    for piece in audio.samples.split(size or len(audio.samples)):
        turn.push(piece)
    turn.finish()
    return turn


def heard_columns(model, audio):
    return turn_of(model, audio).turn.columns


def expected(model, columns):
    """What is to be written down of a turn, column by column."""
    row = columns[0].tolist()
    first = row.index(SEMANTIC_ID)
    number = row.count(SEMANTIC_ID)
    hidden = model.checkpoint.model.forward_hidden(columns[None, :, : first + number])[0, first:]
    logits = model.checkpoint.model.text_logits(hidden)
    told = [max([SEMANTIC_ID, *IDS.values()], key=lambda id: float(line[id])) for line in logits]
    return [id for id, _ in groupby(told) if id != SEMANTIC_ID], first + number


def test_syllables_that_are_heard_are_read_from_the_tokenizer(model):
    assert model.checkpoint.heard_ids == IDS
    assert set(IDS.values()) < model.checkpoint.mark_ids


def test_what_is_told_in_neighbouring_columns_was_said_once():
    rows = torch.eye(3)  # of logits; 0 is `<|semantic|>`
    hearing = SimpleNamespace(semantic_id=0, device="cpu", text_head=lambda tokens: torch.clone)
    told = [0, 1, 1, 0, 1, 2, 0, 0, 2, 2]
    for size in (1, 3, 10):
        dictation = Dictation(hearing, {"ni": 1, "hao": 2})
        for piece in torch.tensor(told).split(size):
            dictation.hear(rows[piece])
        assert dictation.tokens == [1, 1, 2, 2] and dictation.text == "ni ni hao hao"


@pytest.mark.parametrize("size", [None, 500, 7_001])
def test_speech_is_followed_by_what_was_heard_in_it(model, size):
    turn = turn_of(model, speech(3.0), size)
    columns = turn.turn.columns
    tokens, end = expected(model, columns)
    assert len(tokens) > 8 and set(tokens) == set(IDS.values())
    closing = model.prompt_tokens.closing()
    assert columns[0, end:].tolist() == [*tokens, *closing]
    assert (columns[1:, end:] == 0).all()
    names = {id: name for name, id in IDS.items()}
    assert turn.heard == " ".join(names[token] for token in tokens)


def test_a_later_turn_hears_its_own_speech(model):
    conversation = model.new_conversation()
    said = speech(1.5, seed=1), speech(2.5, seed=2)
    for audio in said:
        chunks, _, _ = reply_to(model, audio=audio, conversation=conversation)
    alone = model.new_conversation()
    reply_to(model, audio=said[0], conversation=alone)
    turn = alone.begin_turn(None, said[1].sample_rate)
    turn.push(said[1].samples)
    turn.finish()
    assert chunks[-1].heard == turn.heard is not None
    assert turn.turn.columns[0].tolist().count(SEMANTIC_ID) == 54


def test_every_chunk_tells_what_was_heard(model):
    chunks, _, _ = reply_to(model, audio=speech(2.0), first_chunk_frames=1)
    assert len(chunks) > 1
    assert {chunk.heard for chunk in chunks} == {turn_of(model, speech(2.0)).heard}


@pytest.mark.parametrize("given", [{"text": "ok"}, {"text": "ok", "audio": speech(2.0)}])
def test_where_text_is_given_nothing_is_written_down(model, given):
    chunks, _, _ = reply_to(model, **given)
    assert {chunk.heard for chunk in chunks} == {None}
    turn = turn_of(model, speech(2.0), text="ok")
    assert not {*IDS.values()} & {*turn.turn.columns[0].tolist()}


@pytest.mark.parametrize("fits", [True, False])
def test_what_was_heard_is_written_whole_or_not_at_all(model, fits):
    config = model.checkpoint.codec.config
    layout = [*model.prompt_tokens.opening(False), *model.prompt_tokens.closing()]
    room = model.max_input_columns - len(layout)
    seconds = room // (3 if fits else 1) / config.frame_rate
    samples = speech(seconds, rate=config.sample_rate).samples
    turn = model.new_conversation().begin_turn(None, config.sample_rate)
    turn.push(samples)
    heard = turn.heard
    assert heard
    turn.finish()
    written = [id for id in turn.turn.columns[0].tolist() if id in IDS.values()]
    assert len(written) == (len(turn.heard.split()) if fits else 0)
    assert turn.heard.startswith(heard) if fits else turn.heard is None
    sampling = dataclasses.replace(model.sampling, seed=7)
    options = ReplyOptions(sampling=sampling, max_frames=NUM_FRAMES)
    chunks = list(turn.conversation.reply(turn, options))
    assert chunks[-1].total_frames == NUM_FRAMES and chunks[-1].heard == turn.heard


def test_a_turn_for_which_others_are_dropped_is_heard_whole(model, monkeypatch):
    heard, plain = [], Dictation.hear
    monkeypatch.setattr(
        Dictation, "hear", lambda self, hidden: heard.append(len(hidden)) or plain(self, hidden)
    )
    config = model.checkpoint.codec.config
    seconds = 0.4 * model.max_input_columns / config.frame_rate
    audio = speech(seconds, rate=config.sample_rate)
    conversation = model.new_conversation()
    for _ in range(3):
        heard.clear()
        turn = conversation.begin_turn(None, audio.sample_rate)
        for piece in audio.samples.split(3_000):
            turn.push(piece)
        turn.finish()
        assert sum(heard) == turn.turn.columns[0].tolist().count(SEMANTIC_ID)
        list(conversation.reply(turn, ReplyOptions(max_frames=2)))
    assert len(conversation.turns) < 3


@pytest.mark.parametrize("text, heard_ids", [(None, IDS), ("ok", IDS), (None, {})])
def test_who_writes_nothing_down_reads_no_more_often(model, monkeypatch, text, heard_ids):
    listening = WestlakeModel(dataclasses.replace(model.checkpoint, heard_ids=heard_ids))
    engine, reads = listening.checkpoint.engine, []
    plain = engine.read
    monkeypatch.setattr(engine, "read", lambda *given: reads.append(given) or plain(*given))
    turn = listening.new_conversation().begin_turn(text, 16_000)
    turn.push(speech(2.0).samples)
    reads.clear()
    turn.finish()
    assert len(reads) == (text is None and bool(heard_ids))


def test_a_checkpoint_without_such_tokens_hears_nothing(small_codec):
    plain = small_model(small_codec)
    plain = WestlakeModel(dataclasses.replace(plain.checkpoint, heard_ids={}))
    chunks, _, _ = reply_to(plain, audio=speech(1.0))
    assert {chunk.heard for chunk in chunks} == {None}


@pytest.mark.parametrize("log_content", [True, False])
def test_what_was_heard_is_logged_where_words_may_be(model, log_content):
    with log_lines() as lines:
        reply_to(model, audio=speech(2.0), log_content=log_content)
    heard = turn_of(model, speech(2.0)).heard
    assert (f"Heard: {heard}" in lines) == log_content
    assert log_content or not any(heard in line for line in lines)
