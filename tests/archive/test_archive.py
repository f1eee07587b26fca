"""Conversations as zip files: they come back as they were."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
from archives import LIMITS, changed, shown
from fake_model import FakeModel, OtherModel

from models.errors import UserError
from page.archive import read_archive, write_archive
from page.limits import Limits
from page.once_more import again, beside
from page.session import Session
from page.settings import Settings
from page.turn import ShownTurn


def test_a_conversation_comes_back(saved: Path, session: Session, model: FakeModel, new_file):
    conversation, turns, state, settings = read_archive(str(saved), model, LIMITS, new_file)
    assert conversation.heard == session.conversation.heard and settings == {"style": ""}
    assert state.is_file()
    for before, after in zip(session.turns, turns, strict=True):
        for name in ("text", "reply", "seed", "rating", "emotion", "style", "heard", "stopped"):
            assert getattr(after, name) == getattr(before, name), name
        ours, theirs = (soundfile.read(turn.reply_audio)[0] for turn in (before, after))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert [turn.heard for turn in turns] == [None, "di er ju", "di er ju"]
    assert turns[1].audio and [turn.again_of for turn in turns] == [None, None, turns[1].name]


def test_what_was_shown_and_compared_comes_back(
    session: Session, model: FakeModel, tmp_path: Path, new_file
):
    other = OtherModel()
    model.accepts = other.accepts = frozenset({"audio", "text", "image"})
    shown = session.files.new_folder() / "shown.png"
    shown.write_bytes(b"a picture")
    session.files.add(shown, "v")
    *_, turn = session.answer(None, "看", image=str(shown))
    list(beside(session, turn.name, other, "other:float32"))
    path = tmp_path / "conversation.zip"
    write_archive(path, model, session.turns, session.transcript.state, {}, LIMITS)
    _, (first, second), _, _ = read_archive(str(path), model, LIMITS, new_file)
    assert Path(first.image).suffix == ".png" and Path(first.image).read_bytes() == b"a picture"
    assert (second.beside, second.model) == (first.name, "other:float32")


def test_it_goes_on_as_it_was(saved: Path, session: Session, model: FakeModel, new_file):
    conversation, turns, state, _ = read_archive(str(saved), model, LIMITS, new_file)
    old = [turn.reply_audio for turn in session.turns]
    session.restore(conversation, turns, state)
    assert not any(Path(path).exists() for path in old)
    list(session.answer(None, "第三句"))
    assert [text for text, _ in session.conversation.heard] == ["第一句", "第二句", "第三句"]
    assert [turn.text for turn in session.turns] == ["第一句", "第二句", "第二句", "第三句"]


def test_no_place_of_a_folder_is_saved(saved: Path, session: Session, model: FakeModel, new_file):
    model.name = "/srv/secret/fake"
    write_archive(saved, model, session.turns, session.transcript.state, {}, LIMITS)
    with zipfile.ZipFile(saved) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert not any(b"secret" in content for content in contents)
    read_archive(str(saved), model, LIMITS, new_file)


def test_all_that_was_heard_in_the_longest_speech_comes_back(
    session: Session, model: FakeModel, tmp_path: Path, new_file
):
    """A syllable in each frame."""
    speech = session.files.new_folder() / "speech.wav"
    num_samples = int(LIMITS.max_audio_seconds * 16_000)
    samples = 0.2 * np.sin(np.arange(num_samples) * 0.1)
    samples[np.arange(num_samples) % 4000 > 2500] = 0
    soundfile.write(speech, samples, 16_000)
    session.files.add(speech, "v")
    model.heard = " ".join(["zhuang"] * int(LIMITS.max_audio_seconds * model.frame_rate))
    list(session.answer(str(speech), ""))
    path = tmp_path / "conversation.zip"
    write_archive(path, model, session.turns, session.transcript.state, {}, LIMITS)
    _, (turn,), _, _ = read_archive(str(path), model, LIMITS, new_file)
    assert turn.heard == model.heard and len(turn.heard) > 1000


def test_an_archive_of_before_has_nothing_heard(saved: Path, model: FakeModel, new_file):
    with zipfile.ZipFile(saved) as archive:
        about = json.loads(archive.read("conversation.json"))
    for turn in about["turns"]:
        del turn["heard"]
    path = changed(saved, conversation_json=json.dumps(about).encode())
    _, turns, _, _ = read_archive(str(path), model, LIMITS, new_file)
    assert {turn.heard for turn in turns} == {None}


@pytest.mark.parametrize(
    ("num_turns", "fields", "limits"),
    [
        (205, {}, {}),
        (100, {"reply": "长" * 11_000}, {}),
        (60, {"reply": "\x01" * 4_000}, {}),
        (3, {"seconds": 12}, {}),
        (3, {"seconds": 12}, {"max_upload_bytes": 4 << 20, "max_user_bytes": 1 << 20}),
    ],
    ids=["turns", "long replies", "escaped", "file", "sounds"],
)
def test_what_is_written_can_be_read(
    model: FakeModel, tmp_path: Path, new_file, num_turns: int, fields: dict, limits: dict
):
    """Of a conversation that is too long, its end."""
    limits = Limits(max_audio_seconds=10, **{"max_upload_bytes": 1 << 20, **limits})
    turns = [shown(number, **fields) for number in range(num_turns)]
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * fields.get("seconds", 0))
    for turn in turns if len(noise) else []:
        turn.reply_audio = str(tmp_path / f"{turn.text}.wav")
        soundfile.write(turn.reply_audio, noise, 16_000)
    model.new_conversation().save(tmp_path / "state")
    path = tmp_path / "conversation.zip"
    num_left_out = write_archive(path, model, turns, tmp_path / "state", {}, limits)
    assert path.stat().st_size <= limits.max_upload_bytes
    _, read, _, _ = read_archive(str(path), model, limits, new_file)
    assert 0 < num_left_out < num_turns
    assert [turn.text for turn in read] == [turn.text for turn in turns[num_left_out:]]
    assert [turn.reply for turn in read] == [turn.reply for turn in turns[num_left_out:]]


@pytest.mark.parametrize(
    ("kind", "name"), [("image", "a.jfif"), ("video", "a"), ("image", "A.PNG")]
)
def test_a_picture_of_another_ending_can_be_read(
    model: FakeModel, tmp_path: Path, new_file, kind: str, name: str
):
    (tmp_path / name).write_bytes(b"seen")
    model.new_conversation().save(tmp_path / "state")
    turn = shown(1, **{kind: str(tmp_path / name)})
    path = tmp_path / "conversation.zip"
    assert write_archive(path, model, [turn], tmp_path / "state", {}, LIMITS) == 0
    _, (read,), _, _ = read_archive(str(path), model, LIMITS, new_file)
    assert Path(getattr(read, kind)).read_bytes() == b"seen"


def test_only_what_was_heard_of_a_reply_is_kept(session: Session, model: FakeModel):
    model.num_frames = 40
    *_, turn = session.answer(None, "你好")
    session.transcript.cut(turn.name, 0.7)
    assert turn.stopped and 13 <= len(turn.reply) <= 15
    assert soundfile.info(turn.reply_audio).duration == pytest.approx(0.7, abs=0.01)
    *_, turn = session.answer(None, "你好")
    session.transcript.cut(turn.name, 1.99)  # all of it was heard
    assert not turn.stopped and len(turn.reply) == 40
    session.transcript.cut(turn.name, 0.0)
    assert turn.stopped and turn.reply == "" and turn.reply_audio is None
    with pytest.raises(UserError):
        session.transcript.cut("nobody", 1)


def test_a_reply_again_begins_where_the_conversation_was(session: Session):
    list(session.answer(None, "第一句"))
    list(session.answer(None, "第二句"))
    list(session.answer(None, "第三句"))
    names = [turn.name for turn in session.turns]
    *_, turn = again(session, names[1])
    assert [shown.again_of for shown in session.turns] == [None, None, names[1], None]
    assert [text for text, _ in session.conversation.heard] == ["第一句", "第二句", "第三句"]
    before = session.conversation
    *_, turn = again(session, names[2])  # the last one: the conversation goes on from the new reply
    assert session.conversation is not before and session.turns[-1] is turn
    assert [text for text, _ in session.conversation.heard] == ["第一句", "第二句", "第三句"]
    *_, turn = again(session, turn.name)
    assert turn.again_of == names[2]
    assert isinstance(turn, ShownTurn) and len(session.turns) == 6


def test_settings_that_a_file_lacks_are_as_they_were(model: FakeModel):
    """An older one, written before there was a setting."""
    with gr.Blocks():
        settings = Settings(model, LIMITS)
    kept = settings.kept(["calm", 3, 0.9, 5])
    assert kept == {"style": "calm", "length": 3, "sampling": {"temperature": 0.9, "seed": 5}}
    assert settings.restored(kept) == ["calm", 3, 0.9, 5]
    del kept["sampling"]["temperature"]
    assert settings.restored(kept) == ["calm", 3, model.sampling.temperature, 5]
    assert settings.restored(kept | {"sampling": {"temperature": 99}}) is None
