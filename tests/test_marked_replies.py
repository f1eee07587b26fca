"""What a model writes of a turn without speaking it: in the chunks, the sound, the conversation."""

import dataclasses
import itertools
from threading import Event

import numpy as np
import pytest
import torch
from conversing import answer, assert_sound, clip
from replying import NUM_FRAMES, reply_to
from small import marking, rigged, small_model, speaking

from generate import generate_long
from models.tokenizer import special_words
from models.westlake.dual_ar import MAX_MARKS, SamplingConfig
from page.inspecting import grid, timings


@pytest.fixture(scope="module")
def model(small_codec):
    return marking(small_model(small_codec))


def ids_of(model, *tokens):
    vocab = model.checkpoint.tokenizer.get_vocab()
    return [vocab[token] for token in tokens]


def opening(model):
    return ids_of(model, "<|user:sad|>", "<|style:warm|>", "<|topic:assistant.greeting.how|>")


def reply_columns(conversation):
    turn = conversation.turns[-1]
    return turn.columns[:, turn.prompt_length : -1]


def spoken(model, columns):
    return torch.tensor([id not in model.checkpoint.mark_ids for id in columns[0].tolist()])


@pytest.mark.parametrize("sizes", [(2, 16), (1, 1), (7, 2), (100, 5)])
def test_the_sound_is_that_of_the_spoken_frames_alone(model, sizes):
    conversation = model.new_conversation()
    chunks, _, wave = reply_to(
        model,
        audio=clip(0.6),
        conversation=conversation,
        first_chunk_frames=sizes[0],
        chunk_frames=sizes[1],
    )
    columns = reply_columns(conversation)
    is_spoken = spoken(model, columns)
    assert is_spoken.sum() == NUM_FRAMES and len(is_spoken) > NUM_FRAMES + 3
    assert not columns[1:, ~is_spoken].any()
    codes = columns[None, 1:, is_spoken] - 1
    with torch.no_grad():
        whole, _ = model.checkpoint.codec.decode(codes, torch.tensor([NUM_FRAMES]))
    np.testing.assert_allclose(wave, whole[0, 0].numpy(), atol=1e-4)
    size = model.checkpoint.codec.config.samples_per_frame
    lengths, expected = [len(chunk.new_audio) // size for chunk in chunks], []
    while sum(expected) < NUM_FRAMES:
        wanted = min(sizes[0] * 2 ** len(expected), sizes[1]) if expected else sizes[0]
        expected.append(min(wanted, NUM_FRAMES - sum(expected)))
    assert [length for length in lengths if length] == expected
    totals = list(itertools.accumulate(lengths))
    assert [chunk.total_frames for chunk in chunks] == totals
    assert [chunk.total_seconds for chunk in chunks] == [n / model.frame_rate for n in totals]
    assert {chunk.max_frames for chunk in chunks} == {NUM_FRAMES}


def test_marks_are_among_the_frames_that_are_shown(model):
    conversation = model.new_conversation()
    chunks, _, _ = reply_to(model, text="你好", conversation=conversation)
    columns = reply_columns(conversation)
    tokens = [token for chunk in chunks for token in chunk.new_frames.text]
    assert tokens == [model.checkpoint.tokenizer.decode([id]) for id in columns[0].tolist()]
    codes = np.concatenate([chunk.new_frames.codes for chunk in chunks], axis=1)
    is_spoken = spoken(model, columns).numpy()
    assert (codes[:, ~is_spoken] == -1).all() and (codes[:, is_spoken] >= 0).all()
    assert all(len(chunk.frame_seconds) == len(chunk.new_frames.text) for chunk in chunks)
    seconds = [second for chunk in chunks for second in chunk.frame_seconds]
    assert seconds == sorted(seconds) and seconds[0] == chunks[0].first_frame_seconds > 0
    shown = grid([chunk.new_frames for chunk in chunks])
    assert shown["count"] == len(tokens) > NUM_FRAMES
    measured = timings(chunks, [1.0] * len(chunks))
    assert measured["frames"] == NUM_FRAMES
    assert measured["allowed"] == pytest.approx(1 / model.frame_rate)
    times = [second for second, is_said in zip(seconds, is_spoken) if is_said]
    assert measured["intervals"] == np.diff(times).round(5).tolist()


def test_what_is_written_first_comes_with_the_first_sound(model):
    tokens = [*opening(model), *model.checkpoint.tokenizer.encode("你好")]
    tokens += [model.checkpoint.semantic_id] * 3
    chunks, text, wave = reply_to(speaking(model, tokens), text="你好")
    first, size = chunks[0], model.checkpoint.codec.config.samples_per_frame
    assert (first.emotion, first.style, first.total_frames) == ("sad", "warm", 2)
    assert len(first.new_audio) == 2 * size and len(first.new_frames.text) == 5
    assert text == "你好" and len(wave) == (len(tokens) - 3) * size


def test_a_mark_amid_a_character_is_no_text(model):
    tokenizer = model.checkpoint.tokenizer
    first, *others = tokenizer.encode("龘")
    assert others, "龘 is one token"
    tokens = [first, *opening(model), *others]
    _, text, _ = reply_to(speaking(model, tokens), text="你好")
    assert text == "龘"


def test_the_shortest_reply_is_a_spoken_frame(model):
    conversation = speaking(model, [*opening(model), *[model.checkpoint.semantic_id] * 3])
    conversation = conversation.new_conversation()
    wave = answer(conversation, 1, text="你好")
    assert len(wave) == model.checkpoint.codec.config.samples_per_frame
    assert reply_columns(conversation)[0].tolist() == [
        *opening(model),
        model.checkpoint.semantic_id,
    ]
    conversation.model = model
    assert_sound(conversation)


def test_a_stop_amid_the_marks_keeps_what_was_written(model):
    stop, talking = Event(), speaking(model, opening(model) * 5)
    stop.set()
    conversation = talking.new_conversation()
    (chunk,), text, wave = reply_to(talking, text="你好", conversation=conversation, stop=stop)
    assert (text, len(wave), chunk.total_frames, chunk.ended) == ("", 0, 0, False)
    assert chunk.emotion == "sad" and chunk.new_frames.text == ("<|user:sad|>",)
    assert reply_columns(conversation)[0].tolist() == opening(model)[:1]
    conversation.model = model
    assert_sound(conversation)


def test_a_reply_of_marks_alone_is_empty_and_kept(model):
    talking = speaking(model, opening(model))
    conversation = talking.new_conversation()
    (chunk,), text, wave = reply_to(talking, text="你好", conversation=conversation)
    assert (text, len(wave), chunk.total_frames, chunk.ended) == ("", 0, 0, True)
    assert reply_columns(conversation)[0].tolist() == opening(model)
    conversation.model = model
    assert_sound(conversation)


def test_a_reply_that_is_left_keeps_the_marks_of_what_was_heard(model):
    conversation = model.new_conversation()
    reply = generate_long(
        model, text="你好", conversation=conversation, sampling=SamplingConfig(seed=1)
    )
    shown = [*next(reply).new_frames.text, *next(reply).new_frames.text]
    reply.close()
    columns = reply_columns(conversation)
    assert columns.shape[1] == len(shown) > spoken(model, columns).sum() == 6
    assert_sound(conversation)


@pytest.mark.parametrize("style", ["warm", "calm"])
def test_a_style_is_forced_on_the_second_column(model, style):
    conversation = model.new_conversation()
    chunks, _, wave = reply_to(model, text="你好", conversation=conversation, style=style)
    columns = reply_columns(conversation)
    assert columns[0, 1] == model.checkpoint.style_ids[style] and not columns[1:, 1].any()
    assert chunks[-1].style == style
    assert len(wave) == NUM_FRAMES * model.checkpoint.codec.config.samples_per_frame


def test_two_turns_go_on_as_if_all_were_read_anew(model, tmp_path):
    conversation = model.new_conversation()
    answer(conversation, audio=clip(0.3))
    answer(conversation, text="再见")
    for turn in conversation.turns:
        said = turn.columns[:, turn.prompt_length : -1]
        assert spoken(model, said).sum() == 6 < said.shape[1]
    conversation.save(tmp_path / "talk")
    restored = model.load_conversation(tmp_path / "talk")
    assert torch.equal(restored.columns, conversation.columns)
    left, right = (answer(c, text="你好") for c in (conversation, restored))
    np.testing.assert_allclose(left, right, atol=1e-4)
    assert_sound(restored)


def test_the_context_has_room_for_all_marks(small_codec):
    model = marking(small_model(small_codec, max_seq_len=128))
    script = opening(model) * 30 + [model.checkpoint.semantic_id] * 200
    conversation = speaking(model, script).new_conversation()
    chunks, _, _ = reply_to(
        conversation.model, text="你好", conversation=conversation, max_new_tokens=None
    )
    last, columns = chunks[-1], reply_columns(conversation)
    assert last.total_frames == last.max_frames > 0 and not last.ended
    assert columns.shape[1] == last.max_frames + MAX_MARKS
    assert conversation.columns.shape[1] == conversation.cache.max_len == 128


def test_the_longest_input_leaves_room_for_marks_and_speech(small_codec):
    model = marking(small_model(small_codec, max_seq_len=128))
    conversation = model.new_conversation()
    layout = len(model.prompt_tokens.opening(False)) + len(model.prompt_tokens.closing())
    size = len(model.checkpoint.tokenizer.encode("龘"))
    text = "龘" * ((model.max_input_columns - layout) // size)
    chunks, _, _ = reply_to(model, text=text, conversation=conversation, max_new_tokens=None)
    assert 0 <= model.max_input_columns - conversation.turns[0].prompt_length < size
    assert chunks[-1].max_frames >= 128 // 16


@pytest.mark.parametrize("num_calls", [0, 1, 2, 12])
def test_a_fault_leaves_a_sound_conversation(model, num_calls):
    calls = itertools.count()

    def text_logits(hidden):
        logits = model.checkpoint.model.text_logits(hidden)
        return logits * float("nan") if next(calls) == num_calls else logits

    faulty = rigged(model, text_logits=text_logits)
    conversation = faulty.new_conversation()
    with pytest.raises(FloatingPointError):
        answer(conversation, 20, text="你好")
    assert len(conversation.turns) == (num_calls == 12)
    conversation.model = model
    assert len(answer(conversation, text="再见"))
    assert_sound(conversation)


def test_without_marks_all_is_as_it_was(model):
    """The tokens are spoken then, as a published checkpoint speaks all of its own."""
    plain = dataclasses.replace(model.checkpoint, mark_ids=frozenset())
    tokens = [*opening(model), model.checkpoint.semantic_id]
    talking = speaking(type(model)(plain), tokens)
    chunks, _, wave = reply_to(talking, text="你好")
    assert chunks[-1].total_frames == 4
    assert len(wave) == 4 * model.checkpoint.codec.config.samples_per_frame
    assert all((chunk.new_frames.codes >= 0).all() for chunk in chunks)


def test_what_is_understood_is_no_matter_of_chance(model):
    written = []
    for seed in range(12):
        conversation = model.new_conversation()
        sampling = SamplingConfig(seed=seed, temperature=1.9, top_p=1)
        reply_to(model, text="你好", conversation=conversation, sampling=sampling, style="warm")
        written.append(reply_columns(conversation)[0, :4].tolist())
    assert len({tuple(marks) for *marks, _ in written}) == 1
    assert len({after for *_, after in written}) > 6


@pytest.mark.parametrize(
    ("kind", "field", "place"), [("user", "emotion", 0), ("topic", "topic", 2)]
)
def test_a_word_where_a_checkpoint_has_no_marks_is_drawn(model, kind, field, place):
    """As the speech of one that tells moods and no topics begins at the topic's place."""
    missing = special_words(model.checkpoint.tokenizer, kind).values()
    fields = {"mark_ids": model.checkpoint.mark_ids.difference(missing), f"{field}_ids": {}}
    others = type(model)(dataclasses.replace(model.checkpoint, **fields))
    written = set()
    for seed in range(12):
        conversation = others.new_conversation()
        sampling = SamplingConfig(seed=seed, temperature=1.9, top_p=1)
        reply_to(others, text="你好", conversation=conversation, sampling=sampling, style="warm")
        written.add(int(reply_columns(conversation)[0, place]))
    assert len(written) > 6
