"""Mini-Omni through generate_long: streamed, stopped, several turns, wrong inputs, files."""

import contextlib
import dataclasses
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from replying import meet
from small_mini_omni import NUM_TEXT

import generate
from generate import generate_long
from models.audio import AudioClip
from models.contract import ReplyOptions, SpeechModel, UserTurn
from models.errors import UserError
from models.load import load_model
from models.mini_omni.speech_model import MiniOmniModel, NoiseConfig

RATE = 16_000
SEED = NoiseConfig(seed=3)
NUM_FRAMES = 20


@pytest.fixture(scope="module")
def clip() -> AudioClip:
    return AudioClip(0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0)), RATE)


def chunks_of(model, **options):
    given = {"sampling": SEED, "max_new_tokens": NUM_FRAMES} | options
    return list(generate_long(model, **given))


def joined(chunks) -> tuple[str, np.ndarray]:
    text = "".join(chunk.new_text for chunk in chunks)
    return text, np.concatenate([chunk.new_audio for chunk in chunks])


def reply_of(model, **options) -> tuple[str, np.ndarray]:
    return joined(chunks_of(model, **options))


def assert_same(found, expected) -> None:
    assert found[0] == expected[0] and found[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_what_front_ends_may_know(mini_omni: SpeechModel):
    assert mini_omni.family == "mini_omni" and mini_omni.accepts == {"audio", "text"}
    assert (mini_omni.sample_rate, mini_omni.frame_rate) == (24_000, 24_000 / 2048)
    assert mini_omni.max_input_seconds == 2.0 and mini_omni.dtype == "float32"
    turn = mini_omni.new_conversation().begin_turn("hi")
    assert isinstance(turn, UserTurn)


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_streamed_equals_the_whole(mini_omni, clip, kind):
    turn = {"audio": clip} if kind == "audio" else {"text": "how are you"}
    chunks = chunks_of(mini_omni, **turn)
    text, wave = joined(chunks)
    assert chunks[0].new_text and not len(chunks[0].new_audio), "text comes before its sound"
    sizes = [len(chunk.new_audio) // 2048 for chunk in chunks if len(chunk.new_audio)]
    assert sizes[:3] == [2, 4, 8] and sum(sizes) == NUM_FRAMES
    last = chunks[-1]
    assert (last.total_frames, last.max_frames, last.ended) == (NUM_FRAMES, NUM_FRAMES, False)
    assert last.total_seconds == last.max_seconds == NUM_FRAMES / mini_omni.frame_rate
    assert last.first_frame_seconds > 0 and chunks[0].first_frame_seconds == 0
    assert {chunk.seed for chunk in chunks} == {3}

    conversation = mini_omni.new_conversation()
    turn = conversation.begin_turn(turn.get("text"), RATE)
    if kind == "audio":
        turn.push(clip.samples)
    turn.finish()
    from models.mini_omni.generation import Reply, next_columns

    reply = Reply(mini_omni.checkpoint.model, turn.prompt, NUM_FRAMES + 7)
    while not reply.ended:
        next_columns(mini_omni.checkpoint.engine, [reply])
    codes = torch.stack([reply.codes(frame) for frame in range(NUM_FRAMES)], dim=1)
    whole = mini_omni.checkpoint.codec(codes, 0, 3)
    np.testing.assert_allclose(wave, whole, atol=1e-5)
    ids = [int(column[0]) for column in reply.columns]
    said = bytes(mini_omni.checkpoint.tokenizer.decode(
        [id for id in ids if id < NUM_TEXT], skip_special_tokens=True
    ), "utf-8").decode().replace("\ufffd", "")  # fmt: skip
    assert text == said


def test_speech_that_came_in_pieces_is_the_same(mini_omni, clip):
    turn = mini_omni.new_conversation().begin_turn(None, RATE)
    for piece in clip.samples.split(3001):
        turn.push(piece)
    assert turn.seconds_heard == 1.0 and turn.seconds_left == 1.0
    options = {"sampling": SEED, "max_new_tokens": 4}
    assert_same(
        joined(list(generate_long(mini_omni, audio=turn, **options))),
        reply_of(mini_omni, audio=clip, max_new_tokens=4),
    )


def test_no_turn_is_longer_than_the_context_holds(mini_omni_folder, tmp_path):
    folder = Path(shutil.copytree(mini_omni_folder, tmp_path / "short"))
    path = folder / "model_config.yaml"
    path.write_text(path.read_text().replace("block_size: 320", "block_size: 64"))
    model = load_model(folder, dtype="float32")
    assert model.max_input_seconds == 44 * 0.02
    given = {"sampling": SEED, "max_new_tokens": 4}
    longest = AudioClip(0.1 * torch.ones(round(model.max_input_seconds * RATE)), RATE)
    assert list(generate_long(model, audio=longest, **given))[-1].total_frames == 4
    with pytest.raises(UserError) as caught:
        list(generate_long(model, audio=AudioClip(0.1 * torch.ones(RATE), RATE), **given))
    assert caught.value.code == "error_input_too_long"


def test_a_seed_gives_the_same_sound_again(mini_omni):
    first, again = (reply_of(mini_omni, text="hi", max_new_tokens=3) for _ in range(2))
    assert_same(again, first)
    text, wave = reply_of(mini_omni, text="hi", max_new_tokens=3, sampling=NoiseConfig(seed=4))
    assert text == first[0] and np.abs(wave - first[1]).max() > 1e-4


def test_each_turn_is_answered_alone_and_kept(mini_omni, clip):
    conversation = mini_omni.new_conversation()
    for turn in ({"text": "hi"}, {"audio": clip}, {"text": "hi"}):
        found = reply_of(mini_omni, conversation=conversation, max_new_tokens=3, **turn)
        assert_same(found, reply_of(mini_omni, max_new_tokens=3, **turn))
        assert conversation.turns[-1].reply == found[0]
    assert [turn.text for turn in conversation.turns] == ["hi", "", "hi"]
    assert [turn.seconds for turn in conversation.turns] == [0, 1, 0]
    conversation.reset()
    assert conversation.turns == []


def test_users_together_hear_what_each_hears_alone(mini_omni, clip, monkeypatch):
    turns = [{"text": "hi"}, {"audio": clip}, {"text": "what is this"}]
    alone = [reply_of(mini_omni, max_new_tokens=5, **turn) for turn in turns]
    sizes = meet(monkeypatch, mini_omni.stepper, len(turns))
    with ThreadPoolExecutor(len(turns)) as pool:
        replies = list(pool.map(lambda turn: reply_of(mini_omni, max_new_tokens=5, **turn), turns))
    assert sizes[0] == 3
    for reply, expected in zip(replies, alone):
        assert_same(reply, expected)


@pytest.mark.parametrize("by", ["stop", "close"])
def test_a_stop_keeps_the_text_so_far(mini_omni, by):
    conversation, stop = mini_omni.new_conversation(), threading.Event()
    reply = generate_long(mini_omni, text="hi", conversation=conversation, sampling=SEED, stop=stop)
    chunks = [next(reply) for _ in range(3)]
    if by == "stop":
        stop.set()
        chunks += list(reply)
        assert chunks[-1].total_frames <= chunks[2].total_frames + 1 and not chunks[-1].ended
    reply.close()
    text, wave = joined(chunks)
    assert conversation.turns[-1].reply == text and conversation.open_turn is None
    whole = reply_of(mini_omni, text="hi")
    assert whole[0].startswith(text) and len(wave) < len(whole[1])


def test_a_reply_that_ends_by_itself(mini_omni, monkeypatch):
    end, calls = mini_omni.checkpoint.model.config.audio.end, []
    codes = mini_omni.checkpoint.engine.codes

    def ending(hidden):
        calls.append(len(hidden))
        found = codes(hidden)
        found[:, -1] = end if len(calls) == 12 else 0
        return found

    monkeypatch.setattr(mini_omni.checkpoint.engine, "codes", ending)
    chunks = chunks_of(mini_omni, text="hi")
    assert chunks[-1].ended and chunks[-1].total_frames == 11 - 7
    assert len(joined(chunks)[1]) == 4 * 2048
    calls[:] = [0] * 11
    (chunk,) = chunks_of(mini_omni, text="hi")
    assert chunk.ended and chunk.total_frames == 0 and not len(chunk.new_audio)


def test_a_reset_while_a_reply_runs(mini_omni):
    conversation = mini_omni.new_conversation()
    reply = generate_long(mini_omni, text="hi", conversation=conversation, sampling=SEED)
    next(reply)
    conversation.reset()
    other = reply_of(mini_omni, text="oh", conversation=conversation, max_new_tokens=2)
    assert not any(len(chunk.new_audio) for chunk in reply), "a forgotten reply goes on"
    assert_same(other, reply_of(mini_omni, text="oh", max_new_tokens=2))
    assert [turn.text for turn in conversation.turns] == ["oh"]


def test_a_fault_forgets_the_turn(mini_omni, monkeypatch):
    def fail(hidden):
        raise RuntimeError("no memory")

    conversation = mini_omni.new_conversation()
    with monkeypatch.context() as patch:
        patch.setattr(mini_omni.checkpoint.engine, "codes", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            reply_of(mini_omni, text="hi", conversation=conversation)
    assert conversation.open_turn is None and conversation.turns == []
    assert reply_of(mini_omni, text="hi", conversation=conversation, max_new_tokens=1)[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "  "}, "neither speech nor text"),
        ({"text": "hi", "clip": 1.0}, "speech or text, not both"),
        ({"clip": 2.1}, "of 2.1 s of speech, at most 2.0 s fit"),
        ({"text": "x" * 238}, "the text has 238 characters, allowed are up to 237"),
        ({"text": "x" * 10_000}, "the text has 10000 characters"),
        ({"text": "\ud800"}, "no UTF-8"),
        ({"text": "hi", "image": "x.png"}, "does not take image: allowed are audio, text"),
        ({"text": "hi", "style": "calm"}, "has no styles"),
        ({"text": "hi", "voice": "Ethan"}, "has one voice only"),
    ],
)
def test_what_it_cannot_take(mini_omni, given, message):
    given = dict(given)
    conversation = mini_omni.new_conversation()
    if seconds := given.pop("clip", None):
        given["audio"] = AudioClip(torch.rand(round(seconds * 8000)) - 0.5, 8000)
    with pytest.raises(UserError, match=message):
        generate_long(mini_omni, conversation=conversation, **given)
    assert conversation.open_turn is None and conversation.turns == []
    assert reply_of(mini_omni, text="hi", conversation=conversation, max_new_tokens=1)[0]


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "1"])
def test_seeds_that_there_are_not(seed):
    with pytest.raises(UserError, match="seed is .*, allowed is a whole number"):
        NoiseConfig(seed=seed)


def test_the_longest_inputs_leave_room_for_a_reply(mini_omni):
    turn = mini_omni.new_conversation().begin_turn("x" * 237)
    turn.finish()
    reply = next(turn.conversation.reply(turn, ReplyOptions()))
    assert reply.max_frames == 320 - 239 - 7
    clip = AudioClip(torch.rand(2 * RATE) - 0.5, RATE)
    assert reply_of(mini_omni, audio=clip, max_new_tokens=1)[0] is not None


def test_turns_that_are_over(mini_omni):
    conversation = mini_omni.new_conversation()
    turn = conversation.begin_turn("hi")
    other = conversation.begin_turn("oh")
    for action in (turn.finish, lambda: turn.push(torch.zeros(9))):
        with pytest.raises(UserError, match="this turn is over"):
            action()
    with pytest.raises(UserError, match="this turn is over"):
        next(conversation.reply(other, ReplyOptions()))  # not finished, and forgotten by that
    other.abandon()
    assert conversation.open_turn is None
    turn = conversation.begin_turn("hi")
    turn.finish()
    assert list(conversation.reply(turn, ReplyOptions(max_frames=1)))
    with pytest.raises(UserError, match="this turn is over"):
        next(conversation.reply(turn, ReplyOptions()))


def test_a_saved_conversation_goes_on(mini_omni, tmp_path: Path):
    conversation = mini_omni.new_conversation()
    reply_of(mini_omni, text="你好 hi", conversation=conversation, max_new_tokens=2)
    conversation.begin_turn("open")
    path = tmp_path / "talk.json"
    conversation.save(path)
    assert mini_omni.load_conversation(path).turns == conversation.turns
    with pytest.raises(UserError, match="can't be written to talk.json"):
        conversation.save(tmp_path / "no" / "talk.json")
    content = path.read_text(encoding="utf-8")
    fingerprint = mini_omni.checkpoint.fingerprint
    for changed, message in (
        ("[1, 2", "is no saved conversation"),
        ('{"turns": []}', "is no saved conversation"),
        (content.replace(fingerprint, "0" * 64), "whose weights are others"),
        (content.replace('"seconds"', '"minutes"'), "is a damaged conversation"),
        (content.replace("0.0", '"x"'), "is a damaged conversation"),
    ):
        assert changed != content
        path.write_text(changed, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            mini_omni.load_conversation(path)
    with pytest.raises(UserError, match="is no saved conversation"):
        mini_omni.load_conversation(tmp_path / "none.json")


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": float("nan")}, {"seconds": float("inf")}, {"seconds": -1}, {"seconds": True},
        {"seconds": "1"}, {"text": "\ud800"}, {"reply": "\ud800"}, {"reply": 1},
    ],
)  # fmt: skip
def test_a_saved_turn_that_cannot_be_saved_again_is_damaged(mini_omni, tmp_path: Path, change):
    conversation = mini_omni.new_conversation()
    reply_of(mini_omni, text="hi", conversation=conversation, max_new_tokens=1)
    path = tmp_path / "talk"
    conversation.save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "turns": [content["turns"][0] | change]}))
    with pytest.raises(UserError) as caught:
        mini_omni.load_conversation(path)
    assert caught.value.code == "error_conversation_damaged"
    path.write_text(json.dumps({**content, "checkpoint": "x", "checkpoint_name": "\ud800"}))
    with pytest.raises(UserError) as caught:
        mini_omni.load_conversation(path)
    assert str(caught.value).encode()


def test_the_command_line_speaks_with_it(mini_omni_folder, tmp_path: Path, capsys):
    output = tmp_path / "reply.wav"
    given = ["--checkpoint", str(mini_omni_folder), "--output", str(output), "--dtype", "int8"]
    turns = ["--user-text", "hello", "--max-new-tokens", "3"]
    assert generate.main([*given, *turns]) == 0
    assert output.stat().st_size == 44 + 2 * 3 * 2048
    assert generate.main([*given, *turns, "--top-p", "0.5"]) == 2
    assert "no setting top_p" in capsys.readouterr().err


def test_it_is_found_by_its_files_and_warms_up(mini_omni_folder):
    model = load_model(mini_omni_folder, dtype="auto")
    assert isinstance(model, MiniOmniModel) and model.dtype == "int8"
    model.warm_up()
    assert dataclasses.replace(model.sampling, seed=1).seed == 1
    with contextlib.closing(generate_long(model, text="hi")) as chunks:
        assert next(chunks).new_text
