"""Tests and ratings outlive the process, packages of strangers do no harm, samples come again."""

import json
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_model import FakeModel
from small import small_model

from listening.definition import ListeningTest
from listening.folder import read_folder
from listening.limits import TestLimits
from listening.making import Condition, Prompt, make_sample, recorded_prompt, remake
from listening.package import read_package, write_package
from listening.results import summarise
from listening.sample import Sample, new_test
from listening.sounds import as_wav, digest, unpack
from listening.store import FILE, Store
from models.errors import UserError

ROOT = Path(__file__).parent.parent
LIMITS = TestLimits()


def sample(condition: str, prompt: str, hertz: float = 300.0) -> Sample:
    wave = 0.1 * np.sin(2 * np.pi * hertz * np.arange(8_000) / 16_000).astype(np.float32)
    return Sample(condition=condition, prompt=prompt, samples=wave, sample_rate=16_000)


def new(kind: str = "mos", **options) -> tuple[ListeningTest, dict[str, bytes]]:
    samples = [sample(c, p, h) for c, h in (("a", 300), ("b", 500)) for p in ("p", "q")]
    return new_test(kind, "title", samples, seed=1, **options)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def test_a_rating_is_there_when_the_process_is_killed(tmp_path: Path):
    code, key = Store(tmp_path).add(*new())
    script = f"""
import os
from pathlib import Path
from listening.store import Store
store = Store(Path({str(tmp_path)!r}))
rater = store.join({code!r}, "ann")
store.rate({code!r}, rater, 0, 4, 1.5)
print(rater.key, flush=True)
os._exit(9)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    rater_key = done.stdout.strip()
    store = Store(tmp_path)
    (rating,) = store.ratings(code)
    assert (rating.rater, rating.answer, rating.seconds) == ("ann", 4, 1.5)
    again = store.join(code, "ann", rater_key)
    assert again.num_done == 1 and again.trials[0] == rating.trial
    assert store.owned(key)[0] == code


def test_a_rater_goes_on_only_with_their_key(store: Store):
    code, _ = store.add(*new())
    rater = store.join(code, "ann")
    assert store.rate(code, rater, 0, 4, 1) == 1
    for key in ("", "guess", rater.key + "x"):
        with pytest.raises(UserError, match="ann"):
            store.join(code, " ann ", key)
    assert store.join(code, "ann", rater.key).num_done == 1
    assert store.join(code, "bob").num_done == 0


def test_what_was_answered_stays(store: Store):
    code, _ = store.add(*new())
    rater = store.join(code, "ann")
    assert store.rate(code, rater, 0, 4, 1) == 1
    assert store.rate(code, rater, 0, 1, 1) == 1  # sent again by a page that saw no answer
    for position in (2, -1, 1.0, "1", None):
        with pytest.raises(UserError):
            store.rate(code, rater, position, 4, 1)
    with pytest.raises(UserError):
        store.rate(code, rater, 1, 6, 1)
    for position in (1, 2, 3):
        assert store.rate(code, rater, position, 5, 1) == position + 1
    with pytest.raises(UserError):
        store.rate(code, rater, 4, 5, 1)
    assert [rating.answer for rating in store.ratings(code)] == [4, 5, 5, 5]


def test_keys_are_not_stored(store: Store, tmp_path: Path):
    code, key = store.add(*new())
    rater = store.join(code, "ann")
    content = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert code.encode() in content
    assert key.encode() not in content and rater.key.encode() not in content


def test_a_code_opens_no_results(store: Store):
    code, key = store.add(*new())
    for wrong in (code, "", key[:-1]):
        with pytest.raises(UserError, match="opens no test"):
            store.owned(wrong)
    with pytest.raises(UserError, match="no listening test"):
        store.test("' OR 1=1 --")
    with pytest.raises(UserError):
        store.join(code, "x" * 100)
    store.remove(key)
    with pytest.raises(UserError):
        store.test(code)
    with sqlite3.connect(store._path) as file:
        assert file.execute("SELECT COUNT(*) FROM sounds").fetchone() == (0,)


def test_unrated_tests_make_room_and_rated_ones_do_not(tmp_path: Path):
    store = Store(tmp_path, TestLimits(max_tests=2))
    first, second, third = (store.add(*new())[0] for _ in range(3))
    with pytest.raises(UserError):
        store.test(first)
    for code in (second, third):
        store.join(code, "ann")
    with pytest.raises(UserError, match="no more listening tests"):
        store.add(*new())
    num_bytes = sum(map(len, new()[1].values()))
    with pytest.raises(UserError, match=f"{num_bytes} bytes"):
        Store(tmp_path, TestLimits(max_bytes=num_bytes - 1)).add(*new())
    with pytest.raises(UserError):
        Store(tmp_path, TestLimits(max_total_bytes=num_bytes)).add(*new())
    limited = Store(tmp_path, TestLimits(max_raters=1))
    with pytest.raises(UserError, match="1 people"):
        limited.join(second, "bob")


def test_a_place_that_cant_be_written_to_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--data-folder"):
        Store(tmp_path / "file")
    (tmp_path / FILE).write_text("no database, but a text that is long enough to be looked at" * 9)
    with pytest.raises(ValueError, match="--data-folder"):
        Store(tmp_path)


@pytest.fixture
def package(store: Store, tmp_path: Path) -> Path:
    """A rated MUSHRA test, exported."""
    code, _ = store.add(*new("mushra", reference="a"))
    for name in ("ann", "bob"):
        rater = store.join(code, name)
        for position in range(2):
            store.rate(code, rater, position, [90 + position, 20, 30], 2.5)
    path = tmp_path / "package.zip"
    write_package(path, store, code)
    return path


def test_another_instance_takes_up_a_package(store: Store, package: Path, tmp_path: Path):
    other = Store(tmp_path / "other")
    code, key = other.add(*read_package(package, LIMITS))
    (original,) = [store.test(code) for (code,) in _rows(store, "SELECT code FROM tests")]
    (own_code,) = _rows(store, "SELECT code FROM tests")[0]
    assert other.test(code) == original
    assert other.ratings(code) == store.ratings(own_code)
    assert summarise(original, other.ratings(code)) == summarise(original, store.ratings(own_code))
    name = original.stimuli[0].digest
    assert other.sound(code, name) == store.sound(own_code, name)
    assert other.owned(key)[0] == code != own_code
    with pytest.raises(UserError):  # nobody's key came with it
        other.join(code, "ann", "")


def _rows(store: Store, query: str) -> list:
    with sqlite3.connect(store._path) as file:
        return file.execute(query).fetchall()


def rewrite(package: Path, changes: dict[str, object]) -> Path:
    """The package with entries replaced: by bytes, by JSON, or left out for None."""
    path = package.with_name("hostile.zip")
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w") as new:
        names = old.namelist() + [name for name in changes if name not in old.namelist()]
        for name in names:
            content = changes.get(name, old.read(name) if name in old.namelist() else None)
            if content is not None:
                text = content if isinstance(content, bytes) else json.dumps(content)
                new.writestr(name, text)
    return path


def changed(package: Path, name: str, change) -> Path:
    """The package after `change` has been applied to the JSON of an entry."""
    with zipfile.ZipFile(package) as file:
        value = json.loads(file.read(name))
    change(value)
    return rewrite(package, {name: value})


HOSTILE = {
    "no format": lambda p: rewrite(p, {"format.txt": None}),
    "another format": lambda p: rewrite(p, {"format.txt": b"1"}),
    "no test": lambda p: rewrite(p, {"test.json": None}),
    "no ratings": lambda p: rewrite(p, {"ratings.json": None}),
    "test of another type": lambda p: rewrite(p, {"test.json": [1]}),
    "test of no text": lambda p: rewrite(p, {"test.json": b"\xff\xfe"}),
    "deeply nested": lambda p: rewrite(p, {"test.json": b"[" * 200_000}),
    "unknown field": lambda p: changed(p, "test.json", lambda t: t.update(owner="me")),
    "path for a digest": lambda p: changed(
        p, "test.json", lambda t: t["stimuli"][0].update(digest="../../etc/passwd")
    ),
    "path for a prompt": lambda p: changed(
        p, "test.json", lambda t: t["stimuli"][0]["settings"].update(prompt_sound="../x")
    ),
    "endless title": lambda p: changed(p, "test.json", lambda t: t.update(title="x" * 10**6)),
    "NaN": lambda p: rewrite(p, {"ratings.json": b'[{"seconds": NaN}]'}),
    "not a list": lambda p: rewrite(p, {"ratings.json": 5}),
    "foreign sound": lambda p: changed(
        p, "ratings.json", lambda r: r[0]["trial"].update(sounds=[0, 1, 99])
    ),
    "answer out of range": lambda p: changed(
        p, "ratings.json", lambda r: r[0].update(answer=[0, 0, 1000])
    ),
    "no answer": lambda p: changed(p, "ratings.json", lambda r: r[0].update(answer={})),
    "rating twice": lambda p: changed(p, "ratings.json", lambda r: r.append(dict(r[0]))),
    "another trial": lambda p: changed(
        p, "ratings.json", lambda r: r[0]["trial"].update(sounds=[0], reference=0)
    ),
    "no time": lambda p: changed(p, "ratings.json", lambda r: r[0].update(time="<script>")),
    "a huge position": lambda p: changed(
        p, "ratings.json", lambda r: r[0].update(position=10**30)
    ),
    "path in the zip": lambda p: rewrite(p, {"../../evil": b"x"}),
    "absolute path": lambda p: rewrite(p, {"/etc/passwd": b"x"}),
    "backslashes": lambda p: rewrite(p, {"..\\evil": b"x"}),
    "no zip": lambda p: p.write_bytes(b"PK\x03\x04 nonsense" * 50) and p,
    "too many entries": lambda p: rewrite(p, {f"x{i}": b"" for i in range(3000)}),
}  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_package_is_refused(package: Path, make):
    with pytest.raises(UserError):
        read_package(make(package), LIMITS)


def test_a_sound_that_is_none_or_another_is_refused(package: Path):
    with zipfile.ZipFile(package) as file:
        names = [name for name in file.namelist() if name.startswith("sounds/")]
        other = file.read(names[1])
    for content in (b"no sound", other, None):
        with pytest.raises(UserError):
            read_package(rewrite(package, {names[0]: content}), LIMITS)
    nonsense = b"no sound at all" * 100
    path = changed(package, "test.json", lambda t: t["stimuli"][0].update(digest=digest(nonsense)))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"sounds/{digest(nonsense)}.flac", nonsense)
    with pytest.raises(UserError, match="can't be read"):
        read_package(path, LIMITS)


def test_a_zip_bomb_is_not_unpacked(package: Path):
    path = package.with_name("bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("format.txt", bytes(200 << 20))
    with pytest.raises(UserError, match="would unpack"):
        read_package(path, LIMITS)
    raw = path.read_bytes()  # and one that lies about its size
    path.write_bytes(raw.replace((200 << 20).to_bytes(4, "little"), (30).to_bytes(4, "little")))
    with pytest.raises(UserError):
        read_package(path, LIMITS)


def test_a_folder_of_sounds_becomes_samples(tmp_path: Path):
    path = tmp_path / "sounds.zip"
    wave = 0.1 * np.sin(np.arange(4000))
    soundfile.write(tmp_path / "x.wav", wave, 16_000)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("all/a/1.wav", "all/b/1.wav", "all/a/.hidden", "__MACOSX/a/1.wav"):
            file.write(tmp_path / "x.wav", name)
    samples = list(read_folder(path, LIMITS))
    assert [(item.condition, item.prompt) for item in samples] == [("a", "1"), ("b", "1")]
    np.testing.assert_allclose(samples[0].samples, wave, atol=1e-4)
    with pytest.raises(UserError, match="2 sounds"):
        list(read_folder(path, TestLimits(max_sounds=1)))
    with zipfile.ZipFile(path, "w") as file:
        file.write(tmp_path / "x.wav", "1.wav")
    with pytest.raises(UserError, match=r"1\.wav"):
        list(read_folder(path, LIMITS))


def test_what_is_heard_is_what_is_stored():
    test, sounds = new()
    data = sounds[test.stimuli[0].digest]
    stored = unpack(data, 60)
    assert stored.sample_rate == 16_000
    assert as_wav(data)[:4] == b"RIFF"
    assert digest(data) == test.stimuli[0].digest


@pytest.fixture(scope="module")
def model(small_codec):
    return small_model(small_codec)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Prompt:
    path = tmp_path_factory.mktemp("recording") / "speech.wav"
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.3, 0.3, 11_025)
    wave[np.arange(len(wave)) % 3000 > 1800] = 0
    soundfile.write(path, wave, 22_050, subtype="FLOAT")
    return recorded_prompt("said", path, LIMITS)


@pytest.mark.parametrize(
    "condition",
    [
        Condition(name="reply", model="m", max_seconds=0.5),
        Condition(
            name="styled", model="m", style="calm", sampling={"temperature": 0.9}, seed=5,
            max_seconds=0.5,
        ),
        Condition(name="copy", source="copy", model="m"),
        Condition(name="recording", source="recording"),
    ],
    ids=lambda condition: condition.name,
)  # fmt: skip
def test_a_sample_can_be_made_again(model, recording: Prompt, condition: Condition):
    made = make_sample(condition, recording, lambda name: model, LIMITS)
    settings = json.loads(json.dumps(made.settings))
    again = remake(settings, made.prompt_sound, lambda name: model, LIMITS)
    np.testing.assert_array_equal(again.samples, made.samples)
    assert len(made.samples) and again.sample_rate == made.sample_rate
    if condition.source == "reply":
        assert isinstance(settings["sampling"]["seed"], int)
        assert settings["style"] == condition.style or condition.style is None


def test_what_a_condition_needs_is_said(model):
    written = Prompt(name="written", text="你好")
    for source in ("copy", "recording"):
        with pytest.raises(UserError, match="needs a recording"):
            make_sample(Condition(name="x", source=source), written, lambda name: model, LIMITS)
    with pytest.raises(UserError, match="allowed are reply, copy, recording"):
        Condition(name="x", source="other")


def test_a_model_without_a_codec_copies_nothing(recording: Prompt):
    with pytest.raises(UserError, match="fake has no codec"):
        make_sample(Condition(name="x", source="copy"), recording, lambda name: FakeModel(), LIMITS)


def test_voices_and_names_are_for_this_user_alone(store: Store, tmp_path: Path):
    store.add(*new())
    folder = tmp_path / "data"
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}


def test_a_key_of_half_characters_opens_nothing(store: Store):
    with pytest.raises(UserError, match="opens no test"):
        store.owned("\ud800")


def test_a_long_directory_is_not_read(package: Path, monkeypatch: pytest.MonkeyPatch):
    long = rewrite(package, {f"x{i}": b"" for i in range(3000)})
    monkeypatch.delattr("listening.archive.zipfile.ZipFile")
    with pytest.raises(UserError, match="allowed are up to 2000"):
        read_package(long, LIMITS)


@pytest.mark.parametrize(("kind", "reference"), [("ab", 0), ("abx", None), ("abx", 3)])
def test_a_rating_has_a_reference_where_its_test_has_one(
    store: Store, tmp_path: Path, kind: str, reference: int | None
):
    code, _ = store.add(*new(kind))
    store.rate(code, store.join(code, "ann"), 0, 0, 1)
    path = tmp_path / "package.zip"
    write_package(path, store, code)
    assert len(read_package(path, LIMITS)[2]) == 1
    trial = {"sounds": [0, 2], "reference": reference}
    other = changed(path, "ratings.json", lambda ratings: ratings[0].update(trial=trial))
    with pytest.raises(UserError, match="ratings.json"):
        read_package(other, LIMITS)
