"""The voice loop: replies are made and cut into chunks, and their ends are told."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest
import soundfile
import torch
from replying import COLD, NUM_FRAMES, RATE, SEEDED, meet, reply_to, speech
from small import rigged, small_model, speaking

from generate import generate_long
from models.audio import AudioClip
from models.level import level_speech
from models.westlake.dual_ar import SamplingConfig
from models.westlake.speech_model import WestlakeModel


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


INPUTS = {
    "speech": {"audio": speech(0.6)},
    "speech and text": {"audio": speech(0.6), "text": "你好"},
    "text": {"text": "今天天气怎么样？"},
    "text longer than the speech": {"audio": speech(0.1), "text": "今天天气怎么样？" * 6},
}


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_a_reply_to(model, given):
    chunks, _, wave = reply_to(model, **given)
    assert chunks[-1].total_frames == NUM_FRAMES
    assert wave.dtype == np.float32
    assert len(wave) == NUM_FRAMES * model.checkpoint.codec.config.samples_per_frame
    assert chunks[-1].total_seconds == NUM_FRAMES / model.frame_rate
    assert np.abs(wave).max() > 0


def test_the_reply_depends_on_all_that_was_given(model):
    given = [*INPUTS.values(), {"audio": speech(0.6, seed=1)}, {"text": "再见"}]
    waves = [reply_to(model, **inputs)[2] for inputs in given]
    for left, right in itertools.combinations(waves, 2):
        assert not np.allclose(left, right, atol=1e-3)


def test_quiet_speech_is_heard_as_loud_as_it_should_be(model):
    quiet = speech(1.0).samples * 1e-3
    quiet[: RATE // 2] /= 100  # a pause, without which it would be steady noise
    raised = level_speech(AudioClip(quiet, RATE))
    assert raised.samples.norm() > 5 * quiet.norm()
    wave = reply_to(model, audio=(RATE, quiet.numpy()))[2]
    assert np.array_equal(wave, reply_to(model, audio=raised)[2])


def test_no_text_nor_speech_is_lost_where_the_text_is_longer(model):
    text, clip = "今天天气怎么样？" * 6, speech(0.3)
    talks = [model.new_conversation() for _ in range(2)]
    reply_to(model, audio=clip, text=text, conversation=talks[0])
    reply_to(model, audio=clip, conversation=talks[1])
    both, alone = (talk.turns[0].columns[:, : talk.turns[0].prompt_length] for talk in talks)
    ids = model.checkpoint.tokenizer.encode(text)
    start = both[0].tolist().index(ids[0])
    assert both[0, start : start + len(ids)].tolist() == ids
    heard = both[:, both[0] == model.checkpoint.semantic_id]
    assert heard.shape[1] > 3
    assert torch.equal(heard, alone[:, alone[0] == model.checkpoint.semantic_id])


@pytest.mark.parametrize("sizes", [(4, 8), (1, 1), (1, 6), (7, 2), (100, 5)])
def test_the_chunks_joined_are_the_offline_decode(model, sizes):
    conversation = model.new_conversation()
    chunks, _, wave = reply_to(
        model,
        **INPUTS["speech"],
        conversation=conversation,
        first_chunk_frames=sizes[0],
        chunk_frames=sizes[1],
    )
    turn = conversation.turns[0]
    codes = turn.columns[None, 1:, turn.prompt_length : -1] - 1
    assert codes.shape[2] == NUM_FRAMES
    with torch.no_grad():
        whole, _ = model.checkpoint.codec.decode(codes, torch.tensor([NUM_FRAMES]))
    np.testing.assert_allclose(wave, whole[0, 0].numpy(), atol=1e-4)
    size = model.checkpoint.codec.config.samples_per_frame
    lengths = [len(chunk.new_audio) // size for chunk in chunks]
    expected, size = [], sizes[0]
    while sum(expected) < NUM_FRAMES:
        expected.append(min(size, NUM_FRAMES - sum(expected)))
        size = min(2 * size, sizes[1])
    assert [length for length in lengths if length] == expected
    made = np.cumsum(lengths).tolist()
    assert [chunk.total_frames for chunk in chunks] == made


def test_the_first_chunk_comes_before_the_second_is_made(model):
    made = []

    def step(*arguments):
        made.append(1)
        return model.checkpoint.model.text_logits(*arguments)

    reply = generate_long(rigged(model, text_logits=step), text="你好", sampling=SEEDED)
    assert not made
    assert next(reply).total_frames == len(made) == 2
    assert next(reply).total_frames == len(made) == 6
    reply.close()


def test_the_published_numbers_of_frames(full_codec, tmp_path):
    model = small_model(full_codec, max_seq_len=4096)
    path = tmp_path / "question.wav"
    soundfile.write(path, speech(3.625).samples.numpy(), RATE)
    conversation = model.new_conversation()
    reply = generate_long(
        model,
        audio=path,
        conversation=conversation,
        sampling=SEEDED,
        first_chunk_frames=1,
    )
    prompt = conversation.columns
    first = next(reply)
    reply.close()
    assert prompt.shape[1] == 85
    assert (prompt[0] == model.checkpoint.semantic_id).sum() == 78
    assert (first.total_frames, first.max_frames, model.sample_rate) == (1, 4010, 44100)
    assert len(first.new_audio) == 2048


def test_max_frames_are_what_is_asked_or_fits(model):
    room = model.checkpoint.model.config.max_seq_len - 1
    conversation = model.new_conversation()
    chunks, _, _ = reply_to(model, text="你好", conversation=conversation, max_new_tokens=6)
    assert {chunk.max_frames for chunk in chunks} == {6}
    used = conversation.columns.shape[1]
    for asked in (None, 10_000):
        conversation = model.new_conversation()
        reply = generate_long(model, text="你好", conversation=conversation, max_new_tokens=asked)
        used = conversation.columns.shape[1]
        assert next(reply).max_frames == room - used
        reply.close()


def test_a_reply_may_fill_the_context(small_codec):
    model = small_model(small_codec, max_seq_len=48)
    talking = speaking(model, model.checkpoint.tokenizer.encode("好") * 100)
    conversation = talking.new_conversation()
    chunks, _, _ = reply_to(talking, text="你好", conversation=conversation, max_new_tokens=None)
    assert chunks[-1].total_frames == chunks[-1].max_frames
    assert not chunks[-1].ended
    assert conversation.columns.shape[1] == conversation.cache.max_len
    again, _, _ = reply_to(talking, text="再见", conversation=conversation, max_new_tokens=3)
    assert again[-1].max_frames == 3
    assert len(conversation.turns) == 1, "the long turn has to make room"


def pads(hidden, cache):
    logits = torch.zeros(len(hidden), 1001)
    logits[:, 0] = 1000
    return logits


def test_a_pad_code_never_reaches_the_codec(model):
    chunks, _, wave = reply_to(rigged(model, step_fast=pads), text="你好")
    assert chunks[-1].total_frames == NUM_FRAMES
    assert np.isfinite(wave).all()


def test_a_code_that_the_codec_lacks_never_reaches_it(small_codec):
    model = small_model(small_codec, codebook_size=1032)

    def highest(hidden, cache):
        logits = torch.zeros(len(hidden), 1032)
        logits[:, -1] = 1000
        return logits

    chunks, _, _ = reply_to(rigged(model, step_fast=highest), text="你好")
    assert chunks[-1].total_frames == NUM_FRAMES


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_an_end_token_at_once_is_an_empty_reply(model, given):
    (chunk,), text, wave = reply_to(speaking(model, []), **given)
    assert (text, len(wave), chunk.total_frames, chunk.ended) == ("", 0, 0, True)


@pytest.mark.parametrize("num_frames", [3, 4, 5, 12])
def test_ended_tells_whether_the_model_ended(model, num_frames):
    tokens = [model.checkpoint.semantic_id] * num_frames
    for limit in (num_frames + 1, num_frames):
        chunks, _, _ = reply_to(speaking(model, tokens), text="你好", max_new_tokens=limit)
        assert chunks[-1].total_frames == num_frames
        assert [chunk.ended for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
        assert chunks[-1].ended == (limit > num_frames)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_stop_ends_the_reply_within_a_frame(model, stop_after):
    stop = threading.Event()
    if not stop_after:
        stop.set()
    chunks = []
    for chunk in generate_long(model, text="你好", sampling=SEEDED, stop=stop):
        chunks.append(chunk)
        if len(chunks) == stop_after:
            stop.set()
    said = [0, 2, 6][stop_after]
    assert said <= chunks[-1].total_frames <= said + 1
    assert not chunks[-1].ended
    free, _, _ = reply_to(model, text="你好")
    for left, right in zip(chunks[:stop_after], free):
        np.testing.assert_array_equal(left.new_audio, right.new_audio)


def test_the_seed_decides(model):
    _, text, wave = reply_to(model, **INPUTS["speech"])
    _, text_again, wave_again = reply_to(model, **INPUTS["speech"])
    assert text == text_again
    np.testing.assert_array_equal(wave, wave_again)
    other = reply_to(model, **INPUTS["speech"], sampling=SamplingConfig(seed=2))[2]
    assert not np.allclose(wave, other, atol=1e-3)


def test_the_sampling_defaults_to_the_checkpoints(model):
    sampling = SamplingConfig(seed=3, temperature=1.5)
    own = WestlakeModel(dataclasses.replace(model.checkpoint, sampling=sampling))
    left = reply_to(own, text="你好", sampling=None)[2]
    right = reply_to(model, text="你好", sampling=own.sampling)[2]
    np.testing.assert_array_equal(left, right)


def test_replies_at_the_same_time_do_not_disturb_each_other(model, monkeypatch):
    inputs = [INPUTS["speech and text"], INPUTS["text"], {"audio": speech(0.5, seed=3)}]
    seeded = SamplingConfig(seed=3, temperature=COLD)
    alone = [reply_to(model, sampling=seeded, **given)[1:] for given in inputs]
    together, sizes = [None] * len(inputs), meet(monkeypatch, model.stepper, len(inputs))

    def answer(index):
        together[index] = reply_to(model, sampling=seeded, **inputs[index])[1:]

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sizes[0] == 3
    for left, right in zip(alone, together):
        assert left[0] == right[0]
        np.testing.assert_allclose(left[1], right[1], atol=1e-5)


@pytest.mark.parametrize("style", ["warm", "calm"])
def test_a_style_is_forced_on_the_second_frame(model, style):
    conversation = model.new_conversation()
    chunks, _, _ = reply_to(model, text="你好", conversation=conversation, style=style)
    turn = conversation.turns[0]
    assert turn.columns[0, turn.prompt_length + 1] == model.checkpoint.style_ids[style]
    assert chunks[-1].style == style
    free = model.new_conversation()
    reply_to(model, text="你好", conversation=free)
    first = turn.columns[:, turn.prompt_length]
    assert torch.equal(first, free.turns[0].columns[:, turn.prompt_length])


def test_a_seed_is_drawn_and_told(model):
    first, second = (reply_to(model, text="你好", sampling=SamplingConfig()) for _ in range(2))
    (seed,) = {chunk.seed for chunk in first[0]}
    assert seed not in {chunk.seed for chunk in second[0]}
    again = reply_to(model, text="你好", sampling=SamplingConfig(seed=seed))
    np.testing.assert_array_equal(first[2], again[2])
