"""Tests and ratings outlive the process."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from small_listening import new

from listening.limits import TestLimits
from listening.store import FILE, Store
from models.errors import UserError

ROOT = Path(__file__).parent.parent


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


def test_a_rating_costs_the_same_whatever_the_definition(store: Store, monkeypatch):
    code, _ = store.add(*new())
    rater = store.join(code, "ann")
    with sqlite3.connect(store._path) as file:
        file.execute(
            "CREATE TRIGGER row_stays BEFORE UPDATE ON tests "
            "BEGIN SELECT RAISE(ABORT, 'a definition is written again'); END"
        )
    monkeypatch.setattr("listening.store.test_of_json", None)  # nor is one read
    for position in range(3):
        store.rate(code, rater, position, 4, 1)
    assert store.sound(code, rater.test.stimuli[0].digest)


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


def test_voices_and_names_are_for_this_user_alone(store: Store, tmp_path: Path):
    store.add(*new())
    folder = tmp_path / "data"
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}


def test_a_key_of_half_characters_opens_nothing(store: Store):
    with pytest.raises(UserError, match="opens no test"):
        store.owned("\ud800")
