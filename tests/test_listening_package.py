"""A test goes elsewhere as a package; those of strangers do no harm."""

import json
import sqlite3
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_listening import new

from listening.definition import ListeningTest, Stimulus
from listening.limits import MAX_NAME, MAX_SETTINGS, MAX_TRIALS, TestLimits
from listening.package import read_package, write_package
from listening.plan import plan, rater_seed
from listening.results import Rating, summarise
from listening.sounds import digest, pack
from listening.store import Store
from models.errors import UserError
from page.limits import Limits, listening_limits

LIMITS = TestLimits()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


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


def test_the_largest_test_comes_back_with_all_its_ratings(tmp_path: Path):
    """By the page's limits: of 240 sounds, of texts that pack badly, by all raters it may have."""
    limits = Limits()
    rng, sizes = np.random.default_rng(0), listening_limits(limits)

    def text(length: int) -> str:
        return "".join(map(chr, rng.integers(0x4E00, 0x9FA5, length)))

    shared = [(f"{i % 5}", f"{i // 5}") for i in range(200)]
    names = [*shared, *((f"{i % 5}", text(MAX_NAME)) for i in range(40))]
    noise = rng.integers(-(2**15), 2**15, (240, 81_500)).astype(np.int16) / 2**15
    packed = [pack(wave, 16_000) for wave in noise]
    stimuli = [
        Stimulus(
            condition=condition, prompt=prompt, digest=digest(data),
            settings={"prompt_text": text(MAX_SETTINGS - 20)},
        )
        for (condition, prompt), data in zip(names, packed)
    ]  # fmt: skip
    test = ListeningTest(kind="abx", title="t", seed=1, stimuli=tuple(stimuli))
    ratings = [
        Rating(
            rater=name, position=position, trial=trial, answer=position % 2,
            seconds=rng.random() * 100, time="2026-01-01T00:00:00+00:00",
        )
        for name in [text(MAX_NAME) for _ in range(sizes.max_raters)]
        for position, trial in enumerate(plan(test, rater_seed(test, name)))
    ]  # fmt: skip
    assert len(ratings) == MAX_TRIALS * sizes.max_raters
    sounds = dict(zip((stimulus.digest for stimulus in stimuli), packed))
    assert 0.98 * sizes.max_bytes < sum(map(len, packed)) <= sizes.max_bytes
    path = tmp_path / "package.zip"
    store = SimpleNamespace(
        test=lambda code: test, ratings=lambda code: ratings, sound=lambda code, name: sounds[name]
    )
    write_package(path, store, "code")
    assert path.stat().st_size <= limits.max_upload_bytes
    assert read_package(path, sizes) == (test, sounds, ratings)


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
