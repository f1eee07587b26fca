"""What a visitor wishes of a listening test is checked, made step by step, and can be stopped."""

from __future__ import annotations

import dataclasses
import errno
import io
import zipfile
from contextlib import nullcontext
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import soundfile
from fake_model import FakeModel

from listening.limits import TestLimits
from models.errors import UserError
from page.building import Builder
from page.files import Files
from page.limiter import Limiter
from page.limits import Limits
from page.options import data_folder, parse_arguments
from page.shelf import Shelf

OWN = "fake:float32"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, Limits())


@pytest.fixture
def builder(files: Files) -> Builder:
    limits = Limits(wait_seconds=0.05)
    shelf, sizes = Shelf(FakeModel(), ["tiny:float32"]), TestLimits(max_sounds=12)
    return Builder(shelf, files, Limiter(1, limits.wait_seconds), limits, sizes)


def uploaded(files: Files, content: bytes, name: str, owner: str = "ann") -> str:
    path = files.new_folder() / name
    path.write_bytes(content)
    files.add(path, owner)
    return str(path)


def wish(**changes) -> dict:
    conditions = [
        {"name": "calm", "model": OWN, "style": "calm", "seed": 3, "sampling": {"temperature": 1}},
        {"name": "free", "model": OWN, "seed": None},
    ]
    made = {"kind": "ab", "title": "t", "conditions": conditions, "texts": ["一", "二"]}
    return made | changes


def test_a_test_is_made_step_by_step(builder: Builder):
    steps = list(builder.build(wish(), "ann", Event()))
    assert [(step.done, step.total) for step in steps] == [(n, 4) for n in (0, 1, 2, 3, 4, 4)]
    test = steps[-1].test
    assert test.conditions == ("calm", "free")
    assert test.prompts == ("1 一", "2 二")
    assert {stimulus.digest for stimulus in test.stimuli} == set(steps[-1].sounds)
    settings = test.stimuli[0].settings
    assert (settings["asked_style"], settings["checkpoint"]) == ("calm", "fake")
    assert settings["sampling"]["temperature"] == 1


def test_no_more_is_made_after_a_stop(builder: Builder):
    stop = Event()
    steps = builder.build(wish(), "ann", stop)
    assert [next(steps).done, next(steps).done] == [0, 1]
    stop.set()
    assert list(steps) == []


class Mute(FakeModel):
    """Has no sound."""

    def chunk(self, *given):
        return dataclasses.replace(super().chunk(*given), new_audio=np.zeros(0, np.float32))


@pytest.mark.parametrize("why", ["no sound", "busy"])
def test_what_a_stop_brings_about_is_no_fault(builder: Builder, why: str):
    builder.shelf = Shelf(Mute())
    stop, others = Event(), builder.limiter.reply() if why == "busy" else nullcontext()
    steps = builder.build(wish(), "ann", stop)
    assert next(steps).done == 0
    with others:
        stop.set()
        assert list(steps) == []
    with pytest.raises(UserError, match="gave no sound"):
        list(builder.build(wish(), "ann", Event()))


def test_tones_have_the_words_of_the_model(builder: Builder):
    model = builder.shelf.get(OWN)
    model.styles = ("calm", "warm")
    *_, last = builder.build(wish(kind="emotion"), "ann", Event())
    assert last.test.words == ("calm", "warm")
    assert {stimulus.word for stimulus in last.test.stimuli} == {"calm"}


def condition(**changes) -> dict:
    return {"name": "x", "model": OWN} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"conditions": [condition(model="/etc/passwd")]},
        {"conditions": [condition(model="someone/model")]},
        {"conditions": [condition(style="furious")]},
        {"conditions": [condition(voice="nobody")]},
        {"conditions": [condition(sampling={"temperature": 99})]},
        {"conditions": [condition(seed="1")]},
        {"conditions": [condition(source="download")]},
        {"conditions": [condition(source="copy")]},
        {"conditions": [condition(name="")]},
        {"conditions": ["x"]},
        {"conditions": "x"},
        {"conditions": []},
        {"conditions": [condition(name=str(n)) for n in range(9)]},
        {"conditions": [condition(), condition()]},
        {"texts": [str(n) for n in range(7)]},
        {"texts": ["x" * 3000]},
        {"texts": [5]},
        {"texts": []},
        {"recordings": ["/etc/passwd"]},
        {"folder": "/etc/passwd"},
        {"kind": "mushra", "reference": "nobody"},
        {"kind": ["ab"]},
        {"title": ""},
        {"title": None},
    ],
    ids=str,
)
def test_what_cant_be_is_refused(builder: Builder, changes: dict):
    with pytest.raises(UserError):
        list(builder.build(wish(**changes), "ann", Event()))


def test_uploads_of_this_visitor_only(builder: Builder, files: Files, tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", 0.1 * np.sin(np.arange(8000) * 0.3), 16_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a/1.wav", "b/1.wav"):
            archive.write(tmp_path / "x.wav", name)
    recording = uploaded(files, (tmp_path / "x.wav").read_bytes(), "x.wav")
    folder = uploaded(files, (tmp_path / "x.zip").read_bytes(), "x.zip")
    source = [condition(source="recording", name="r"), condition(name="a")]
    for changes in (
        {"recordings": [recording], "texts": [], "conditions": source},
        {"folder": folder},
    ):
        *_, last = builder.build(wish(**changes), "ann", Event())
        assert last.test.prompts in (("1 x",), ("1",))
        with pytest.raises(UserError, match="not uploaded here by you"):
            list(builder.build(wish(**changes), "bob", Event()))


def test_other_models_are_loaded_once_and_by_name_only():
    shelf = Shelf(FakeModel(), ["tiny:float32", "tiny:float32"])
    assert shelf.names == (OWN, "tiny:float32")
    model = shelf.get("tiny:float32")
    assert (model.name, model.dtype) == ("tiny", "float32")
    assert shelf.get("tiny:float32") is model
    with pytest.raises(UserError, match="allowed are fake:float32, tiny:float32"):
        shelf.get("tiny")


def test_folders_of_the_same_name_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    loaded: list[tuple] = []
    monkeypatch.setattr("page.shelf.load_model", lambda *args: loaded.append(args) or FakeModel())
    model = FakeModel()
    model.name = "/runs/1/fake"
    places = ["/runs/1/fake:float32", *(f"/runs/{number}/fake:float32" for number in (2, 3, 2))]
    shelf = Shelf(model, places)
    assert shelf.names == (OWN, "fake:float32 (2)", "fake:float32 (3)")
    assert shelf.get(OWN) is model
    for name in shelf.names[1:]:
        shelf.get(name)
    assert loaded == [(f"/runs/{number}/fake", "cpu", "float32") for number in (2, 3)]


def test_where_tests_are_kept(tmp_path: Path):
    given = parse_arguments(["--data-folder", str(tmp_path)], {})
    assert data_folder(given, {}) == tmp_path
    user = {"XDG_DATA_HOME": str(tmp_path)}
    assert data_folder(parse_arguments([], {}), user) == tmp_path / "westlake-omni"
    assert data_folder(parse_arguments([], {}), {}).is_absolute()


def test_no_place_of_a_folder_is_offered():
    model = FakeModel()
    model.name = "/srv/secret/fake"
    shelf = Shelf(model, ["/srv/secret/other:int8", "owner/model"])
    assert shelf.names == (OWN, "other:int8", "owner/model")
    with pytest.raises(UserError) as refusal:
        shelf.get("/srv/secret/other:int8")
    assert "allowed are fake:float32, other:int8" in str(refusal.value)
    builder = Builder(shelf, Files(Path(), Limits()), Limiter(1, 1), Limits(), TestLimits())
    *_, last = builder.build(wish(), "ann", Event())
    assert "secret" not in last.test.to_json()


def test_no_more_is_read_than_could_be_kept(files: Files, tmp_path: Path):
    content = io.BytesIO()
    soundfile.write(content, 0.1 * np.sin(np.arange(8000) * 0.3), 16_000, format="FLAC")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for index in range(12):
            archive.writestr(f"a/{index}.flac", content.getvalue())
    sizes = TestLimits(max_bytes=9000)
    builder = Builder(Shelf(FakeModel()), files, Limiter(1, 1), Limits(), sizes)
    for changes in (
        {"folder": uploaded(files, (tmp_path / "x.zip").read_bytes(), "x.zip"), "kind": "mos"},
        {
            "texts": [],
            "recordings": [uploaded(files, content.getvalue(), f"{n}.flac") for n in range(6)],
            "conditions": [condition(source="recording", name=name) for name in "ab"],
        },
    ):
        with pytest.raises(UserError, match="have 96000 bytes, allowed are up to 72000"):
            list(builder.build(wish(**changes), "ann", Event()))


def test_a_file_that_cant_be_written_leaves_nothing(files: Files):
    def full(path: Path) -> None:
        path.write_bytes(b"RIFF")
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(UserError) as refusal:
        files.make("sound.wav", full, "ann")
    assert refusal.value.code == "error_no_room"
    assert list(files.folder.iterdir()) == [] and files.num_bytes == 0
