"""Conversations as zip files: they come back as they were, and a crafted one does no harm."""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
from fake_model import FakeModel, OtherModel
from page_client import Visitor, function, served
from strangers import SETTINGS, shown_faults, written

from models.errors import UserError
from page.archive import read_archive, write_archive
from page.chat import chat_value
from page.checks import check_text
from page.files import Files
from page.limiter import Limiter
from page.limits import Limits
from page.once_more import again, beside
from page.session import Session
from page.settings import Settings
from page.turn import ShownTurn
from strings import say

LIMITS = Limits(wait_seconds=1, max_upload_bytes=1 << 20, max_audio_seconds=10)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def session(model: FakeModel, tmp_path: Path) -> Iterator[Session]:
    folder = tmp_path / "kept"
    folder.mkdir()
    session = Session("v", model, Files(folder, LIMITS), Limiter(1, 1), LIMITS)
    yield session
    session.close()


@pytest.fixture
def new_file(tmp_path: Path) -> Callable[[str], Path]:
    numbers = iter(range(1000))

    def new_file(name: str) -> Path:
        folder = tmp_path / f"new{next(numbers)}"
        folder.mkdir()
        return folder / name

    return new_file


@pytest.fixture
def saved(session: Session, model: FakeModel, tmp_path: Path) -> Path:
    speech = session.files.new_folder() / "speech.wav"
    samples = 0.2 * np.sin(np.arange(16_000) * 0.1)
    samples[np.arange(16_000) % 4000 > 2500] = 0
    soundfile.write(speech, samples, 16_000)
    session.files.add(speech, "v")
    model.heard = "di er ju"
    list(session.answer(None, "第一句"))
    list(session.answer(str(speech), "第二句"))
    list(again(session, session.turns[1].name))
    session.turns[0].rating = 1
    path = tmp_path / "conversation.zip"
    write_archive(path, model, session.turns, session.transcript.state, {"style": ""}, LIMITS)
    return path


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


def changed(path: Path, **replaced: bytes | None) -> Path:
    """A copy with other entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries |= {name.replace("_json", ".json"): content for name, content in replaced.items()}
    copy = path.with_name("changed.zip")
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)
    return copy


def described(path: Path, **changes: object) -> Path:
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("conversation.json"))
    turn = {key: value for key, value in changes.items() if key in about["turns"][0]}
    about["turns"][0] |= turn
    about |= {key: value for key, value in changes.items() if key not in turn}
    return changed(path, conversation_json=json.dumps(about).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"turns": []},
        {"turns": [{}]},
        {"turns": 5},
        {"settings": []},
        {"text": "x" * 3000},
        {"text": None},
        {"reply": 7},
        {"audio": "../../etc/passwd"},
        {"audio": "conversation"},
        {"reply_audio": ["a"]},
        {"name": []},
        {"image": "conversation.json"},
        {"image": ["a.png"]},
        {"video": "nowhere.mp4"},
        {"beside": {}},
        {"settings": None, "seed": "a"},
        {"text": "\ud800"},
        {"reply": "\ud800"},
    ],
)
def test_a_damaged_description_is_told(saved: Path, model: FakeModel, new_file, change: dict):
    with pytest.raises(UserError):
        read_archive(str(described(saved, **change)), model, LIMITS, new_file)


def test_any_damaged_byte_is_told_or_changes_nothing(saved: Path, model: FakeModel, new_file):
    """In the head of what is packed, where a decoder finds other faults than a wrong checksum."""
    content = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        starts = [
            entry.header_offset + 30 + len(entry.filename)
            for entry in archive.infolist()
            if entry.compress_type == zipfile.ZIP_DEFLATED
        ]
    num_told = 0
    for place in (start + offset for start in starts for offset in range(40)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        saved.write_bytes(damaged)
        try:
            read_archive(str(saved), model, LIMITS, new_file)
        except UserError as told:
            num_told += told.code == "error_no_archive"
    assert num_told > 35 * len(starts)


def test_what_no_page_can_show_is_not_kept(
    saved: Path, session: Session, model: FakeModel, new_file
):
    settings = {
        "temperature": math.nan, "top_p": math.inf, "top_k": 10**400, "style": "\ud800",
        "\ud800": 1, "speaks": True, "voice": "a", "max_frames": 5,
    }  # fmt: skip
    with zipfile.ZipFile(saved) as archive:
        about = json.loads(archive.read("conversation.json"))
    about["turns"][0] |= {"seed": 10**400, "rating": -(10**400), "settings": settings}
    about["turns"][1] |= {"seed": math.nan, "rating": math.inf, "emotion": "\ud800"}
    path = changed(saved, conversation_json=json.dumps(about).encode())
    conversation, turns, state, _ = read_archive(str(path), model, LIMITS, new_file)
    assert turns[0].settings == {"speaks": True, "voice": "a", "max_frames": 5}
    assert [(turn.seed, turn.rating) for turn in turns[:2]] == [(None, 0)] * 2
    assert turns[1].emotion is None
    session.restore(conversation, turns, state)
    assert write_archive(saved, model, turns, state, {}, LIMITS) == 0
    json.loads(chat_value(session, turns), parse_constant=pytest.fail)
    turns[0].settings = {"temperature": math.nan}
    with pytest.raises(ValueError, match="not JSON compliant"):
        chat_value(session, turns)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("jin tian", "jin tian"), (" zhuang" * 64, " zhuang" * 64)]
    + [(value, None) for value in (None, 7, ["jin"], {}, "zhuang " * 221)],
)
def test_what_was_heard_is_a_short_text(saved: Path, model: FakeModel, new_file, given, kept):
    path = described(saved, heard=given)
    _, turns, _, _ = read_archive(str(path), model, LIMITS, new_file)
    assert turns[0].heard == kept


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


def shown(number: int, **fields: object) -> ShownTurn:
    turn = ShownTurn(f"turn {number}", None, 16_000, ended=True)
    for name, value in fields.items():
        setattr(turn, name, value)
    return turn


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


def test_the_page_tells_what_it_could_not_save(monkeypatch: pytest.MonkeyPatch):
    with served(FakeModel()) as (page, url):
        visitor = Visitor(url)

        def save() -> str:
            return str(visitor.run(function(page, "save"), [{}, *SETTINGS])["output"]["data"])

        assert "nothing to save yet" in save()
        for text in ("第一句", "第二句"):
            assert visitor.run(function(page, "answer"), written(text))["success"]
        said = save()
        assert "conversation.zip" in said and "without the first" not in said
        monkeypatch.setattr("page.archive.MAX_TURNS", 1)
        said = save()
        assert "conversation.zip" in said and "without the first 1 turns" in said
        monkeypatch.setattr("page.archive.MAX_TURNS", 0)
        said = save()
        assert "conversation.zip" not in said and "can be uploaded again" in said


def test_whatever_fails_to_be_saved_or_loaded_is_told(monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> None:
        raise ArithmeticError

    with served(FakeModel()) as (page, url):
        visitor = Visitor(url)

        def told(name: str, given: list) -> str:
            (fault,) = shown_faults(visitor.run(function(page, name), given))
            return fault

        assert visitor.run(function(page, "answer"), written("第一句"))["success"]
        assert "calm" in told("save", [{}, "\ud800", *SETTINGS[1:]])  # the styles that there are
        file = {"file": {"path": visitor.upload_path(b"PK")}}
        for place in ("read_archive", "write_archive"):
            monkeypatch.setattr(f"page.saving.{place}", fail)
        assert told("load", [file]) == say("error_internal", "zh")
        assert told("save", [{}, *SETTINGS]) == say("error_internal", "zh")
        for state in list(page.files.folder.rglob("conversation")):
            page.files.remove(str(state))
        assert told("save", [{}, *SETTINGS]) == say("error_cannot_save", "zh")


def test_text_of_half_characters_is_refused():
    with pytest.raises(UserError) as told:
        check_text("好\ud800", LIMITS)
    assert told.value.code == "error_text_not_unicode"


@pytest.mark.parametrize("large", ["state", "turn"])
def test_what_can_never_be_read_again_is_not_written(model: FakeModel, tmp_path: Path, large: str):
    state = tmp_path / "state"
    state.write_bytes(b" " * (LIMITS.max_upload_bytes if large == "state" else 1))
    turn = shown(1, reply="长" * (400_000 if large == "turn" else 1))
    with pytest.raises(UserError, match="begin a new conversation") as told:
        write_archive(tmp_path / "conversation.zip", model, [turn], state, {}, LIMITS)
    assert told.value.code == "error_too_large_to_save"
    assert not (tmp_path / "conversation.zip").exists()


def test_what_cannot_be_packed_is_counted_as_it_is_written(model: FakeModel, tmp_path: Path):
    limits = Limits(max_audio_seconds=10, max_upload_bytes=16 << 20)
    state, path = tmp_path / "state", tmp_path / "conversation.zip"
    noise = np.random.default_rng(0).bytes(limits.max_upload_bytes)
    written = 0
    for left in (2_000, 4_000, 8_000, 16_000):
        state.write_bytes(noise[:-left])
        with contextlib.suppress(UserError):
            write_archive(path, model, [shown(1)], state, {}, limits)
            written += 1
            assert path.stat().st_size <= limits.max_upload_bytes
    assert written


def test_what_is_no_archive_is_told(saved: Path, model: FakeModel, new_file, tmp_path: Path):
    content = saved.read_bytes()
    for wrong in (
        b"",
        b"PK",
        b"x" * 1000,
        content[:-5],
        content[: len(content) // 2],
        content + b"x",
    ):
        (tmp_path / "wrong.zip").write_bytes(wrong)
        with pytest.raises(UserError) as told:
            read_archive(str(tmp_path / "wrong.zip"), model, LIMITS, new_file)
        assert told.value.code == "error_no_archive"
    for replaced in (
        {"conversation": None},
        {"conversation_json": None},
        {"conversation_json": b"[]"},
        {"conversation_json": b"[" * 100_000},
        {"conversation_json": b" " * (2 << 20)},
        {"conversation": b"\0" * (2 << 20)},
    ):
        with pytest.raises(UserError):
            read_archive(str(changed(saved, **replaced)), model, LIMITS, new_file)


def test_a_long_list_of_files_is_refused_unread(saved: Path, model: FakeModel, new_file):
    path = saved.with_name("long.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(6000):
            archive.writestr(f"{number:050}", b"")
    with pytest.raises(UserError) as told:
        read_archive(str(path), model, LIMITS, new_file)
    assert told.value.code == "error_no_archive"


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
