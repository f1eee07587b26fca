"""A model on ZeroGPU: replies made in forked processes are those of the model itself."""

import os
import sys
from collections.abc import Generator
from contextlib import closing
from threading import Event

import numpy as np
import pytest
from conversing import LONG_TEXT, RATE, SEEDED, answer, clip, noise
from fake_model import FakeModel
from gradio_client import Client
from page_client import free_port, served
from small import rigged

import app
from generate import generate_long
from models.contract import ReplyOptions, SpeechCodec, SystemPrompts
from models.elsewhere import conversation_of, state_of
from models.errors import UserError
from models.load import load_model
from models.transformer.graphs import SWITCH
from models.transformer.native import load_library
from models.westlake.dual_ar import SamplingConfig
from models.zero_gpu import VARIABLE, ZeroGpuModel, is_lent
from page.shelf import Shelf

# Python warns where a process with threads is forked, which is what ZeroGPU does.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
TURNS = (
    {"text": "最近心情不好，能聊聊吗？"},
    {"audio": clip(1.3)},
    {"audio": clip(0.4, seed=1), "text": "你好"},
)


def chunks_of(conversation, num_frames=9, seed=1, **given):
    options = {"sampling": SamplingConfig(seed=seed), "max_new_tokens": num_frames, **given}
    return generate_long(conversation.model, conversation=conversation, **options)


def assert_same_chunks(found, expected):
    for one, other in zip(found, expected, strict=True):
        left, right = (dict(vars(chunk)) for chunk in (one, other))
        for chunk in (left, right):  # what depends on the clock
            del chunk["first_frame_seconds"], chunk["frame_seconds"]
        np.testing.assert_array_equal(left.pop("new_audio"), right.pop("new_audio"))
        frames = [vars(chunk.pop("new_frames")) for chunk in (left, right)]
        np.testing.assert_equal(*frames)
        assert left == right


def said(model, conversation):
    """What was said: for each turn its columns, and how many are the user's."""
    turns = conversation_of(model, state_of(conversation)).turns
    return [(turn.columns.tolist(), turn.prompt_length) for turn in turns]


def read_anew(model, conversation):
    """As each reply finds it: what floats round otherwise than one that goes on, they do so too."""
    return conversation_of(model, state_of(conversation))


def test_three_turns_are_those_of_the_model_to_the_bit(model, lent):
    there, here = lent.new_conversation(), model.new_conversation()
    for seed, given in enumerate(TURNS):
        here = read_anew(model, here)
        assert_same_chunks(*(list(chunks_of(c, 12, seed, **given)) for c in (there, here)))
        assert len(said(model, there)) == seed + 1
        assert said(model, there) == said(model, here)


@pytest.mark.skipif(load_library() is None, reason="native.c can't be compiled here")
def test_in_few_bits_they_are_those_of_a_conversation_that_goes_on(spaces):
    model = load_model("tiny", dtype="int8")
    there, here = (each.new_conversation() for each in (ZeroGpuModel(model, spaces.GPU), model))
    for seed, given in enumerate(TURNS):
        assert_same_chunks(*(list(chunks_of(c, 20, seed, **given)) for c in (there, here)))
        assert said(model, there) == said(model, here)


def test_what_is_heard_in_pieces_is_read_in_these_pieces(model, lent):
    states = []
    for each in (model, lent):
        turn = each.new_conversation().begin_turn(None, RATE)
        for piece in noise(1.0).split(3000):
            turn.push(piece)
        assert turn.seconds_heard == pytest.approx(1.0, abs=0.2)
        assert turn.seconds_left == pytest.approx(each.max_input_seconds - 1, abs=0.2)
        list(generate_long(each, audio=turn, sampling=SEEDED, max_new_tokens=3))
        states.append(said(model, turn.conversation))
    assert states[0] == states[1]


def interrupted(reply):
    with pytest.raises(KeyboardInterrupt):
        reply.throw(KeyboardInterrupt)


@pytest.mark.parametrize("leave", [Generator.close, interrupted])
@pytest.mark.parametrize("num_taken", [1, 3])
def test_of_a_reply_that_is_left_what_was_taken_is_kept(model, lent, leave, num_taken):
    """The process had time to make all of it meanwhile."""
    conversations = lent.new_conversation(), model.new_conversation()
    for conversation in conversations:
        reply = chunks_of(conversation, 60, text="你好", chunk_frames=3)
        for _ in range(num_taken):
            next(reply)
        leave(reply)
    there, here = conversations
    assert said(model, there) == said(model, here)
    here = read_anew(model, here)
    assert_same_chunks(*(list(chunks_of(c, text="再见")) for c in (there, here)))


@pytest.mark.parametrize("num_taken", [0, 2])
def test_a_reply_that_is_stopped_ends_with_its_chunk(model, lent, num_taken):
    conversations, replies = (lent.new_conversation(), model.new_conversation()), []
    for conversation in conversations:
        stop = Event()
        reply = chunks_of(conversation, 60, text="你好", chunk_frames=3, stop=stop)
        chunks = [next(reply) for _ in range(num_taken)]
        stop.set()
        replies.append([*chunks, *reply])
    assert_same_chunks(*replies)
    assert 0 < replies[0][-1].total_frames < 10 and not replies[0][-1].ended
    there, here = conversations
    assert said(model, there) == said(model, here)
    here = read_anew(model, here)
    assert_same_chunks(*(list(chunks_of(c, text="再见")) for c in (there, here)))


def forgotten_by_a_turn(conversation):
    answer(conversation, 3, text="再见")


def forgotten_by_reset(conversation):
    conversation.reset()
    answer(conversation, 3, text="再见")


@pytest.mark.parametrize("forget", [forgotten_by_a_turn, forgotten_by_reset])
def test_a_reply_that_is_forgotten_leaves_nothing(model, lent, forget):
    conversation, expected = lent.new_conversation(), lent.new_conversation()
    old = chunks_of(conversation, 60, text="你好", chunk_frames=3)
    next(old)
    forget(conversation)
    assert len(list(old)) == 1
    answer(expected, 3, text="再见")
    assert said(model, conversation) == said(model, expected)


def test_a_turn_that_is_over(lent):
    conversation = lent.new_conversation()
    with pytest.raises(UserError) as error:
        conversation.begin_turn().finish()
    assert error.value.code == "error_nothing_given"
    old = conversation.begin_turn("你好")
    old.finish()
    conversation.begin_turn("再见")
    for use in (
        old.finish,
        lambda: old.push(noise(0.1)),
        lambda: next(conversation.reply(old, ReplyOptions())),
    ):
        with pytest.raises(UserError) as error:
            use()
        assert error.value.code == "error_turn_over"


def test_two_conversations_whose_replies_come_by_turns(model, lent):
    texts = ("你好", "我并不喜欢现在的工作。")
    there, here = ([each.new_conversation() for _ in texts] for each in (lent, model))
    for seed in range(2):
        replies = [chunks_of(c, 12, seed, text=text) for c, text in zip(there, texts, strict=True)]
        by_turns = list(zip(*replies, strict=True))
        here = [read_anew(model, conversation) for conversation in here]
        for found, conversation, text in zip(zip(*by_turns), here, texts, strict=True):
            assert_same_chunks(found, list(chunks_of(conversation, 12, seed, text=text)))


def test_a_fault_of_the_user_is_the_models(model, lent):
    faults = []
    for each in (model, lent):
        conversation = each.new_conversation()
        answer(conversation, 3, text="你好")
        before = said(model, conversation)
        with pytest.raises(UserError) as error:
            answer(conversation, text=LONG_TEXT * 20)
        assert said(model, conversation) == before
        faults.append((error.value.code, error.value.values))
        answer(conversation, 3, text="再见")
    assert faults[0] == faults[1]


@pytest.mark.parametrize("num_frames", [0, 8])
def test_a_fault_in_a_reply_keeps_what_was_said(model, spaces, num_frames):
    states = []
    for is_lent_one in (False, True):
        calls = iter(range(num_frames))

        def text_logits(hidden, calls=calls):
            if next(calls, None) is None:
                raise RuntimeError("the GPU is on fire")
            return model.checkpoint.model.text_logits(hidden)

        each = rigged(model, text_logits=text_logits)
        each = ZeroGpuModel(each, spaces.GPU) if is_lent_one else each
        conversation = each.new_conversation()
        with pytest.raises(UserError if is_lent_one else RuntimeError) as error:
            list(chunks_of(conversation, 60, text="你好", chunk_frames=3))
        states.append(said(model, conversation))
    assert error.value.code == "error_zero_gpu" and "RuntimeError" in str(error.value)
    assert states[0] == states[1]
    assert len(states[1]) == (num_frames > 0)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("refusal", "Try again in 3 hours.", "in 3 hours."), ("num_pieces", 2, "GPU task aborted")],
)
def test_what_zero_gpu_says_is_told(lent, spaces, name, value, reason):
    conversation = lent.new_conversation()
    answer(conversation, 3, text="你好")
    before = conversation.state
    setattr(spaces, name, value)
    with pytest.raises(UserError) as error:
        list(chunks_of(conversation, 60, text="再见"))
    assert error.value.code == "error_zero_gpu" and reason in str(error.value)
    assert conversation.state == before
    setattr(spaces, name, None)
    assert len(answer(conversation, 3, text="再见"))


def test_a_saved_conversation_goes_on_identically(model, lent, tmp_path):
    conversation = lent.new_conversation()
    answer(conversation, text="你好")
    conversation.save(tmp_path / "talk")
    restored = [each.load_conversation(tmp_path / "talk") for each in (lent, model)]
    expected, *replies = (list(chunks_of(c, **TURNS[1])) for c in (conversation, *restored))
    for reply in replies:
        assert_same_chunks(reply, expected)


def test_what_is_no_saved_conversation_is_refused(lent, tmp_path):
    (tmp_path / "talk").write_bytes(b"nothing")
    with pytest.raises(UserError, match="talk is no saved conversation"):
        lent.load_conversation(tmp_path / "talk")


def test_the_codec(model, lent):
    assert isinstance(lent, SpeechCodec) and not isinstance(lent, SystemPrompts)
    codes = lent.encode(noise(0.5), RATE)
    np.testing.assert_array_equal(codes, model.encode(noise(0.5), RATE))
    np.testing.assert_array_equal(lent.decode(codes), model.decode(codes))


def test_a_gpu_is_asked_for_as_long_as_a_reply_may_be(model, lent, spaces):
    conversation = lent.new_conversation()
    for num_frames in (10, 20):
        answer(conversation, num_frames, text="你好")
    assert np.diff(spaces.asked) == pytest.approx([10 / model.frame_rate])
    with closing(generate_long(lent, text="你好")) as reply:
        next(reply)
    assert spaces.asked[-1] > 60


def test_a_page_answers(spaces):
    with served(ZeroGpuModel(FakeModel(), spaces.GPU)) as (_, url):
        client = Client(url, verbose=False)
        text, _ = client.predict(text="你好", conversation="kept", api_name="/speak")
        assert text == "好" * 5 and len(spaces.asked) == 1
        client.close()


@pytest.mark.parametrize(
    ("device", "said", "expected"),
    [("auto", "true", True), ("cuda", "1", True), ("cpu", "true", False), ("auto", "0", False)],
)
def test_it_is_chosen_where_hugging_face_says_so(device, said, expected):
    assert is_lent(device, {VARIABLE: said}) == expected
    assert not is_lent(device, {})


def test_without_spaces_the_page_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "true")
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert app.main(["--port", str(free_port())]) == 2
    assert "pip install spaces" in capsys.readouterr().err


def test_there_the_page_gets_it_and_what_is_compared_runs_on_the_cpu(monkeypatch, spaces):
    served = {}

    def page(model, *arguments, **options):
        served.update(options, model=model)
        raise ValueError("enough was seen")

    monkeypatch.setenv(VARIABLE, "true")
    monkeypatch.setenv(SWITCH, "")
    monkeypatch.delenv(SWITCH)
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    monkeypatch.setattr(app, "Page", page)
    assert app.main(["--port", str(free_port())]) == 2
    assert isinstance(served["model"], ZeroGpuModel) and os.environ[SWITCH] == "0"
    served["model"].device = "cuda"
    shelf = Shelf(served["model"], served["compare_with"], served["compare_on"])
    assert shelf.get("tiny:float32").device == "cpu"
