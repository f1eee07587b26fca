"""What is damaged, crafted, or can't be kept does no harm, and is told."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import wave
import zipfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from archives import LIMITS, changed, described, shown
from fake_model import FakeModel
from page_client import Visitor, function, served
from strangers import SETTINGS, shown_faults, written

from models.errors import UserError
from page.archive import read_archive, write_archive
from page.chat import chat_value
from page.checks import check_text
from page.limits import Limits
from page.saving import Saving
from page.session import Session
from strings import say


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


@pytest.mark.parametrize("number", range(1, 8))
def test_a_full_disk_leaves_nothing_of_an_archive(
    saved: Path, session: Session, monkeypatch: pytest.MonkeyPatch, number: int
):
    """The n-th file that is written of it is half written."""
    files, calls = session.files, count(1)
    upload = files.make("upload.zip", lambda path: path.write_bytes(saved.read_bytes()), "v")
    before = [set(files._entries), set(files.folder.rglob("*")), session.turns]
    before[0].remove(upload), before[1].difference_update([Path(upload), Path(upload).parent])

    def full(write: Callable) -> Callable:
        def call(place: object, content: bytes) -> object:
            if next(calls) == number:
                write(place, content[:5])
                raise OSError(errno.ENOSPC, "no space")
            return write(place, content)

        return call

    monkeypatch.setattr(Path, "write_bytes", full(Path.write_bytes))
    monkeypatch.setattr(wave.Wave_write, "writeframes", full(wave.Wave_write.writeframes))
    with pytest.raises(UserError) as told:
        saving_of(session)._load("v", upload)
    assert told.value.code == "error_no_room"
    assert [set(files._entries), set(files.folder.rglob("*")), session.turns] == before


def saving_of(session: Session) -> Saving:
    sessions = SimpleNamespace(files=session.files, open=lambda visitor: session)
    return Saving(SimpleNamespace(sessions=sessions))
