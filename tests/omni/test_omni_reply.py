"""Replies of Qwen2.5-Omni, streamed: equal to what generate() says when all is over."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from omni_talk import (
    EXACT,
    LONG,
    RATE,
    SHORT,
    ask,
    assert_same,
    features,
    published_answer,
    speech,
)

from generate import generate_long
from models.contract import ReplyOptions
from models.omni.generation import CodeSteps, TextSteps
from models.omni.reply import CODES_WITHOUT_TEXT
from models.omni.sampling import FlowConfig, OmniSampling
from models.omni.token2wav import Token2Wav, _Piece


@pytest.mark.parametrize(
    "text, frames, voice", [(LONG, 150, "Chelsie"), (SHORT, 150, "Ethan"), (LONG, 17, "Ethan")]
)
def test_a_text_is_answered_as_published(omni, published, text, frames, voice):
    answer = ask(omni, text=text, frames=frames, voice=voice)
    expected = published_answer(published, answer, frames, speaker=voice)
    assert_same(answer, expected)
    assert answer.chunks[-1].ended == (text == SHORT)
    assert (len(answer.codes) < frames) == (text == SHORT)


@pytest.mark.parametrize("seconds", [0.5, 4.7])
def test_speech_is_answered_as_published(omni, published, seconds):
    sound = speech(seconds)
    answer = ask(omni, text=LONG, sound=sound, pieces=(len(sound),), frames=40)
    assert_same(answer, published_answer(published, answer, 40, **features(sound)))


def test_sound_with_the_defaults_is_near(omni, published):
    answer = ask(omni, text=LONG, flow=FlowConfig(), frames=40)
    expected = published_answer(published, answer, 40, num_steps=10)
    assert_same(answer, expected, tolerance=1e-3)


@pytest.mark.parametrize("given, num_evaluations", [({}, 36), ({"euler_evaluations": 4}, 4)])
def test_a_piece_of_sound_is_solved_by_so_many_evaluations(
    omni, monkeypatch, given, num_evaluations
):
    evaluate, evaluated = _Piece.velocity, []
    monkeypatch.setattr(
        _Piece, "velocity", lambda *arguments: evaluated.append(1) or evaluate(*arguments)
    )
    sampling = OmniSampling(seed=3, **given)
    chunks = list(generate_long(omni, text=LONG, sampling=sampling, max_new_tokens=12))
    assert sum(len(chunk.new_audio) for chunk in chunks) == 12 * 480
    assert len(evaluated) == num_evaluations


def test_voices_and_seeds_differ(omni):
    first = ask(omni, text=LONG, frames=30)
    assert ask(omni, text=LONG, frames=30, voice="Chelsie").codes == first.codes
    assert ask(omni, text=LONG, frames=30, voice="Ethan").codes != first.codes
    assert ask(omni, text=LONG, frames=30, seed=4).codes != first.codes


def new_state(omni, speech):
    voice = omni.voice(None)
    return speech.new_state(voice["cond"], voice["ref_mel"], 5)


@pytest.mark.parametrize("num_codes", [7, 36, 101])
@pytest.mark.parametrize("flow", [EXACT, FlowConfig(num_steps=3, solver="euler", guidance=0)])
def test_sound_does_not_depend_on_when_codes_arrive(omni, num_codes, flow):
    generator = random.Random(0)
    codes = [generator.randrange(64) for _ in range(num_codes)]
    speech = Token2Wav(omni.checkpoint.token2wav, flow)
    whole = speech.push(new_state(omni, speech), codes, last=True)
    assert len(whole) == 480 * num_codes
    for most in (1, 5, 40):
        state, pieces, place = new_state(omni, speech), [], 0
        while place < num_codes:
            size = generator.randint(0, most)
            pieces.append(speech.push(state, codes[place : place + size]))
            place += size
        pieces.append(speech.push(state, [], last=True))
        assert torch.equal(torch.cat(pieces), whole)


def test_pieces_grow_and_the_first_sound_needs_36_codes(omni):
    speech = Token2Wav(omni.checkpoint.token2wav, FlowConfig(num_steps=2))
    state, heard = new_state(omni, speech), []
    for count in range(1, 200):
        if len(speech.push(state, [1])):
            heard.append(count)
    assert heard[0] == 36
    assert [later - earlier for earlier, later in pairwise(heard)] == [24, 48, 48]


def test_text_and_sound_leave_while_the_thinker_writes(omni, monkeypatch):
    counts = {"token": 0, "code": 0}

    def counted(name, step):
        def stepped(steps):
            counts[name] += 1
            return step(steps)

        return stepped

    monkeypatch.setattr("models.omni.reply.TEXT_SECONDS", 0.0)
    monkeypatch.setattr(TextSteps, "step", counted("token", TextSteps.step))
    monkeypatch.setattr(CodeSteps, "step", counted("code", CodeSteps.step))
    endless = replace(omni.prompt.tokens, ends=frozenset())
    monkeypatch.setattr(omni.prompt, "tokens", endless)
    turn = omni.new_conversation().begin_turn(LONG)
    turn.finish()
    sampling = OmniSampling(seed=3, flow=FlowConfig(num_steps=2))
    reply = turn.conversation.reply(turn, ReplyOptions(sampling=sampling, max_frames=60))
    with_text = with_sound = None
    for chunk in reply:
        with_text = with_text or (chunk.new_text and dict(counts))
        with_sound = with_sound or (len(chunk.new_audio) and dict(counts))
    assert with_text["token"] < 5 < 36 < counts["token"]
    assert with_sound == {"token": 36, "code": 36}


def test_a_reply_in_text_alone_loads_nothing_that_speaks(folder, omni):
    from models.omni.speech_model import load_omni

    model = load_omni(folder, "cpu", "float32", None)
    answer = ask(model, text=LONG, speaks=False)
    assert not model.checkpoint.talker_is_loaded
    spoken = ask(omni, text=LONG)
    words = ["".join(chunk.new_text for chunk in reply.chunks) for reply in (answer, spoken)]
    assert words[0] == words[1] != ""
    assert len(answer.wave) == 0 and answer.chunks[-1].total_seconds == 0
    assert answer.chunks[-1].total_frames == len(spoken.ids)


def test_a_conversation_goes_from_text_to_speech(omni, published):
    conversation = omni.new_conversation()
    ask(omni, conversation, text=LONG, speaks=False, frames=9)
    answer = ask(omni, conversation, text=SHORT, frames=30)
    assert_same(answer, published_answer(published, answer, 30))


def test_three_turns_are_one_prompt_and_cost_only_themselves(omni, published, monkeypatch):
    conversation, sound = omni.new_conversation(), speech(2.5)
    ask(omni, conversation, text=LONG, frames=20)
    ask(omni, conversation, sound=sound, pieces=(len(sound),), frames=20)
    reader, read = conversation.reader, []
    step = type(reader)._step

    def counted(self, model, cache, inputs, positions):
        read.append((cache is self.talker, cache.length, len(inputs)))
        return step(self, model, cache, inputs, positions)

    monkeypatch.setattr(type(reader), "_step", counted)
    length, talker_length = reader.thinker.length, reader.talker.length
    assert length - 20 <= talker_length < length  # of the reply, the text is still to be read
    answer = ask(omni, conversation, text=SHORT, frames=20)
    assert_same(answer, published_answer(published, answer, 20, **features(sound)))
    thinker = [(start, num) for is_talker, start, num in read if not is_talker]
    assert thinker[0][0] == length
    num_new = len(answer.prompt) - length + len(answer.ids) - 1  # the last is not read
    assert sum(num for _, num in thinker) == num_new
    talker = [(start, num) for is_talker, start, num in read if is_talker]
    starts = [talker_length + sum(num for _, num in talker[:place]) for place in range(len(talker))]
    assert [start for start, _ in talker] == starts
    num_spoken = len(answer.codes) + CODES_WITHOUT_TEXT - 1  # the last is not read
    assert sum(num for _, num in talker) == len(answer.prompt) - talker_length + num_spoken


def test_two_conversations_do_not_disturb_each_other(omni, monkeypatch):
    monkeypatch.setattr(
        "models.omni.reply.TEXT_SECONDS", 1e9
    )  # they take turns at each piece of sound
    flow = FlowConfig(num_steps=2)  # sound begins long before the end
    alone = [ask(omni, text=text, frames=72, flow=flow) for text in (LONG, SHORT)]
    replies = []
    for text in (LONG, SHORT):
        turn = omni.new_conversation().begin_turn(text)
        turn.finish()
        sampling = OmniSampling(seed=3, flow=flow)
        options = ReplyOptions(sampling=sampling, max_frames=72)
        replies.append((turn.conversation.reply(turn, options), []))
    open_replies = list(replies)
    while open_replies:
        for reply in list(open_replies):
            if (chunk := next(reply[0], None)) is None:
                open_replies.remove(reply)
            else:
                reply[1].append(chunk.new_audio)
    for (_, waves), answer in zip(replies, alone):
        assert sum(len(wave) > 0 for wave in waves) >= 3, "their pieces came in turn"
        assert np.array_equal(np.concatenate(waves), answer.wave)


@pytest.mark.parametrize("by_event", [True, False])
def test_stop_keeps_the_text_so_far(omni, by_event, monkeypatch):
    monkeypatch.setattr("models.omni.reply.TEXT_SECONDS", 0.0)
    conversation = omni.new_conversation()
    turn = conversation.begin_turn(LONG)
    turn.finish()
    before = len(conversation.segments)
    options = ReplyOptions(sampling=OmniSampling(seed=3, flow=EXACT), max_frames=150)
    reply = conversation.reply(turn, options)
    text = next(reply).new_text + next(reply).new_text
    if by_event:
        options.stop.set()
        rest = list(reply)
        text += "".join(chunk.new_text for chunk in rest)
        assert len(rest) == 1 and not rest[0].ended
    else:
        reply.close()
    said = torch.cat([segment.ids for segment in conversation.segments[before:]]).tolist()
    said = said[: said.index(omni.prompt.tokens.turn_end)]
    assert omni.checkpoint.tokenizer.decode(said).replace("\ufffd", "") == text
    length = conversation.reader.talker.length
    assert length == sum(map(len, conversation.segments[:before]))
    again = ask(omni, conversation, text=SHORT, frames=9)
    fresh = type(conversation)(omni, None, conversation.turns[:1])
    assert ask(omni, fresh, text=SHORT, frames=9).codes == again.codes


def test_a_turn_that_is_given_up_leaves_no_trace(omni):
    conversation = omni.new_conversation()
    ask(omni, conversation, text=LONG, frames=9)
    turn = conversation.begin_turn(sample_rate=RATE)
    turn.push(speech(2.2))
    turn.abandon()
    after = ask(omni, conversation, text=SHORT, frames=9)
    fresh = omni.new_conversation()
    ask(omni, fresh, text=LONG, frames=9)
    assert ask(omni, fresh, text=SHORT, frames=9).codes == after.codes


def test_a_saved_conversation_goes_on(omni, tmp_path):
    conversation = omni.new_conversation_with("You are a pirate.")
    ask(omni, conversation, text=LONG, sound=speech(2.2), frames=9)
    conversation.save(tmp_path / "talk")
    restored = omni.load_conversation(tmp_path / "talk")
    assert restored.system == "You are a pirate."
    answers = [ask(omni, each, text=SHORT, frames=9) for each in (conversation, restored)]
    assert answers[0].codes == answers[1].codes and answers[0].ids == answers[1].ids
    assert torch.equal(answers[0].prompt, answers[1].prompt)
