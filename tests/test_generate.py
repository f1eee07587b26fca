"""The voice loop: replies are made, cut into chunks, logged and refused as promised."""

import contextlib
import dataclasses
import itertools
import threading

import numpy as np
import pytest
import soundfile
import torch
from loguru import logger
from small import rigged, small_model, speaking

from generate import generate_long
from models.audio import AudioClip
from models.errors import UserError
from models.level import level_speech
from models.westlake.conversation import Conversation
from models.westlake.dual_ar import SamplingConfig
from models.westlake.speech_model import WestlakeModel

SEEDED = SamplingConfig(seed=1)
RATE = 16_000
NUM_FRAMES = 14


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


def speech(seconds, seed=0, rate=RATE):
    generator = torch.Generator().manual_seed(seed)
    wave = torch.rand(int(seconds * rate), generator=generator) - 0.5
    return AudioClip(wave, rate)


def reply_to(model, **options):
    """The whole reply: its chunks, its text and its wave."""
    options = {"sampling": SEEDED, "max_new_tokens": NUM_FRAMES, "audio": None, **options}
    chunks = list(generate_long(model, **options))
    wave = np.concatenate([chunk.new_audio for chunk in chunks])
    return chunks, "".join(chunk.new_text for chunk in chunks), wave


def talk_of(model, *texts):
    """A conversation in which these were answered."""
    conversation = model.new_conversation()
    for text in texts:
        reply_to(model, text=text, conversation=conversation, max_new_tokens=4)
    return conversation


def read_anew(conversation):
    """The same turns in a conversation that has read nothing yet."""
    return Conversation(conversation.model, conversation.turns)


@contextlib.contextmanager
def log_lines():
    lines = []
    sink = logger.add(lambda message: lines.append(message.rstrip("\n")), format="{message}")
    try:
        yield lines
    finally:
        logger.remove(sink)


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


def byte_tokens(model, data):
    """One token for each byte, so that characters of several bytes are cut."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    symbols = {byte: chr(byte) for byte in shown}
    symbols |= {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}
    ids = model.checkpoint.tokenizer.convert_tokens_to_ids([symbols[byte] for byte in data])
    assert None not in ids
    return ids


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (4, 8)])
def test_text_comes_in_whole_characters(model, sizes):
    text = "嗯, é龘𠮷😀!"
    tokens = byte_tokens(model, text.encode())
    assert len(tokens) > 2 * len(text) - 3
    chunks, said, _ = reply_to(
        speaking(model, tokens),
        text="你好",
        max_new_tokens=50,
        first_chunk_frames=sizes[0],
        chunk_frames=sizes[1],
    )
    assert said == text
    if sizes == (1, 1):
        frames = {chunk.total_frames: chunk.new_text for chunk in chunks if chunk.new_text}
        ends = np.cumsum([len(character.encode()) for character in text])
        assert frames == dict(zip(ends.tolist(), text))


@pytest.mark.parametrize(
    "data, text",
    [
        ("龘".encode()[:2], ""),
        (b"a" + "龘".encode()[:2] + b"b", "ab"),
        (b"\x80a\xff\xfeb", "ab"),
        ("龘".encode()[1:] + "嗯".encode(), "嗯"),
    ],
)
def test_broken_characters_are_never_shown(model, data, text):
    tokens = byte_tokens(model, data)
    for size in (1, 50):
        _, said, _ = reply_to(
            speaking(model, tokens), text="你好", first_chunk_frames=size, chunk_frames=size
        )
        assert said == text


def test_text_goes_on_around_silent_frames(model):
    ids = model.checkpoint.tokenizer.encode("你好")
    mark = model.checkpoint.style_ids["calm"]
    tokens = [ids[0], model.checkpoint.semantic_id, mark, *ids[1:], model.checkpoint.semantic_id]
    _, said, _ = reply_to(speaking(model, tokens), text="你好")
    assert said == "你好"


def test_each_chunk_has_the_text_of_its_own_sound(model):
    tokens = byte_tokens(model, b"abcdefghijklm")
    chunks, _, _ = reply_to(speaking(model, tokens), text="你好")
    assert [chunk.new_text for chunk in chunks if chunk.new_text] == ["ab", "cdef", "ghijklm"]


def test_emotion_and_style_are_told_when_they_are_known(model):
    emotion, style = model.checkpoint.emotion_ids["sad"], model.checkpoint.style_ids["warm"]
    other = model.checkpoint.style_ids["calm"]
    tokens = [emotion, style, *model.checkpoint.tokenizer.encode("你好"), other]
    chunks, text, _ = reply_to(
        speaking(model, tokens), text="你好", first_chunk_frames=1, chunk_frames=1
    )
    assert (chunks[0].emotion, chunks[0].style) == ("sad", None)
    assert {(chunk.emotion, chunk.style) for chunk in chunks[1:]} == {("sad", "warm")}
    assert text == "你好"
    silent, _, _ = reply_to(speaking(model, []), text="你好")
    assert (silent[0].emotion, silent[0].style) == (None, None)


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


def test_the_bar_may_be_off(model, monkeypatch):
    monkeypatch.setattr("generate.tqdm", lambda **options: _NoBar())
    with log_lines() as lines:
        chunks, _, _ = reply_to(model, text="你好", max_new_tokens=6)
    assert not chunks[-1].ended
    assert sum(line.startswith("First Token") for line in lines) == 1


class _NoBar:
    n = 0

    def update(self, n):
        pass

    def close(self):
        pass


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


def test_replies_at_the_same_time_do_not_disturb_each_other(model):
    inputs = [INPUTS["speech and text"], INPUTS["text"], {"audio": speech(0.5, seed=3)}]
    # With this seed, no draw is so close that the rounding of a step of more rows decides it.
    seeded = SamplingConfig(seed=2)
    alone = [reply_to(model, sampling=seeded, **given)[1:] for given in inputs]
    together, start = [None] * len(inputs), threading.Barrier(len(inputs))

    def answer(index):
        start.wait()
        together[index] = reply_to(model, sampling=seeded, **inputs[index])[1:]

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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


BAD = {
    "nothing": ({}, "neither speech nor text"),
    "blank text": ({"text": " \n"}, "neither speech nor text"),
    "no samples": ({"audio": (RATE, np.zeros(0, np.int16))}, "no samples"),
    "no file": ({"audio": "missing.wav"}, "missing.wav"),
    "NaN": ({"audio": (RATE, np.full(100, np.nan))}, "NaN"),
    "odd rate": ({"audio": (1, np.zeros(100, np.int16))}, "8000 to 192000"),
    "silence": ({"audio": (RATE, np.zeros(RATE, np.int16))}, "no speech was heard"),
    "too long speech": ({"audio": (RATE, np.zeros(2 * RATE, np.int16)), "max_seconds": 1}, "2.0 s"),
    "too long for the context": ({"audio": speech(12)}, "s of speech, at most"),
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


def test_log_lines_of_speech_and_text(model, tmp_path):
    path = tmp_path / "question.wav"
    soundfile.write(path, speech(0.4).samples.numpy(), RATE)
    tokens = model.checkpoint.tokenizer.encode("嗯,好")
    with log_lines() as lines:
        reply_to(speaking(model, tokens), audio=path, text="你好")
    assert lines[0] == f">> Input: {path} 你好 audio+text"
    assert lines[1].startswith("First Token: ") and 0 < float(lines[1][13:]) < 60
    assert len(lines[1].rpartition(".")[2]) == 4
    assert lines[2:] == [f"generated: {len(tokens)} tokens", "Gen text: 嗯,好"]


@pytest.mark.parametrize(
    "given, line",
    [
        ({"text": "你好"}, ">> Input: 你好 text"),
        ({"audio": speech(0.2)}, ">> Input: recording audio"),
        ({"audio": speech(0.2), "text": " 好 "}, ">> Input: recording 好 audio+text"),
    ],
)
def test_log_line_of_the_input(model, given, line):
    with log_lines() as lines:
        reply_to(model, **given, max_new_tokens=1)
    assert lines[0] == line


def test_log_line_of_a_turn_that_was_listened_to(model):
    turn = model.new_conversation().begin_turn("你好", RATE)
    turn.push(speech(0.2).samples)
    with log_lines() as lines:
        reply_to(model, audio=turn, max_new_tokens=1)
    assert lines[0] == ">> Input: recording 你好 audio+text"


def test_the_progress_bar(model, capsys):
    reply_to(model, text="你好", max_new_tokens=12)
    bar = capsys.readouterr().err.rpartition("\r")[2]
    assert "12/12 [" in bar and "it/s" in bar


@pytest.mark.parametrize("value", [4.5, "4", True, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["max_new_tokens", "first_chunk_frames", "chunk_frames"])
def test_a_count_that_is_no_whole_number(model, name, value):
    with pytest.raises(UserError, match=f"{name} is .*whole number"):
        generate_long(model, text="你好", **{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1, "60", None])
def test_max_seconds_is_a_finite_number(model, value):
    samples = np.zeros(2 * RATE, np.int16)
    with pytest.raises(UserError):
        generate_long(model, audio=(RATE, samples), max_seconds=value)


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


def test_a_seed_is_drawn_and_told(model):
    first, second = (reply_to(model, text="你好", sampling=SamplingConfig()) for _ in range(2))
    (seed,) = {chunk.seed for chunk in first[0]}
    assert seed not in {chunk.seed for chunk in second[0]}
    again = reply_to(model, text="你好", sampling=SamplingConfig(seed=seed))
    np.testing.assert_array_equal(first[2], again[2])


def test_a_logged_line_is_one_line(model):
    forged = "好\n2026-01-01 | INFO | >> Input: forged\x1b[31m\r\u2028\u202e　"
    with log_lines() as lines:
        reply_to(model, text=forged, max_new_tokens=1)
    line = lines[0]
    assert line.startswith(">> Input: 好\\n2026-01-01 | INFO | >> Input: forged\\x1b[31m\\r\\u2028")
    assert all(character.isprintable() or character == "　" for character in line)


def test_words_and_names_may_be_kept_out_of_the_log(model, tmp_path):
    path = tmp_path / "secret.wav"
    soundfile.write(path, speech(0.4).samples.numpy(), RATE)
    tokens = model.checkpoint.tokenizer.encode("嗯,好")
    with log_lines() as lines:
        reply_to(speaking(model, tokens), audio=path, text="你好", log_content=False)
    assert lines[0] == ">> Input: audio+text"
    assert lines[2:] == [f"generated: {len(tokens)} tokens"]
