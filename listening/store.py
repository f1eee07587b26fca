"""Tests, their sounds, their raters and every rating, in one SQLite file.

A rating is on the disk when `rate` returns. Keys that open a test or let a rater go on are stored
as digests only.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.errors import UserError, shown

from .definition import ListeningTest, check_answer, check_text, is_unicode, test_of_json
from .limits import MAX_NAME, RATING_BYTES, TestLimits
from .plan import Trial, plan, rater_seed
from .results import Rating
from .room import NOBODY, Maker, add_columns, add_growth, digest_of, make_room

FILE = "listening-tests.sqlite"
WAIT_SECONDS = 20.0  # for another process that writes
SCHEMA = """
CREATE TABLE IF NOT EXISTS tests (
    id INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    created REAL NOT NULL, definition TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sounds (
    test INTEGER NOT NULL REFERENCES tests ON DELETE CASCADE, digest TEXT NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (test, digest));
CREATE TABLE IF NOT EXISTS raters (
    id INTEGER PRIMARY KEY, test INTEGER NOT NULL REFERENCES tests ON DELETE CASCADE,
    name TEXT NOT NULL, key TEXT NOT NULL, seed INTEGER NOT NULL, UNIQUE (test, name));
CREATE TABLE IF NOT EXISTS ratings (
    rater INTEGER NOT NULL REFERENCES raters ON DELETE CASCADE, position INTEGER NOT NULL,
    sounds TEXT NOT NULL, reference INTEGER, answer TEXT NOT NULL, seconds REAL NOT NULL,
    time TEXT NOT NULL, PRIMARY KEY (rater, position));
CREATE TABLE IF NOT EXISTS growth (
    test INTEGER PRIMARY KEY REFERENCES tests ON DELETE CASCADE, bytes INTEGER NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Rater:
    """Who rates a test, and how far they are.

    Fields:
        key: that lets them go on; empty where it is known already.
        test: that they rate.
        trials: all that they are asked, in their order.
        num_done: trials answered; the next one is at this place.
    """

    id: int
    name: str
    key: str
    test: ListeningTest
    trials: tuple[Trial, ...]
    num_done: int


class Store:
    """Where listening tests are kept; every method may be called from any thread.

    Args:
        folder: where the file lies; it is made if it isn't there.
        limits: of what is kept.

    Raises:
        ValueError: nothing can be written there.
    """

    def __init__(self, folder: Path, limits: TestLimits | None = None) -> None:
        self.limits = limits or TestLimits()
        self._path = folder / FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600)  # voices and names: for this user alone
            with closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS)) as file:
                file.execute("PRAGMA journal_mode = WAL")
                file.executescript(SCHEMA)
                add_columns(file)
        except (OSError, sqlite3.Error) as error:
            raise ValueError(
                f"listening tests can't be kept in {folder} ({error}): give a folder that you can "
                "write to, with --data-folder"
            ) from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are on the disk at the end, all of them or none."""
        with closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS)) as file:
            file.execute("PRAGMA synchronous = FULL")
            file.execute("PRAGMA foreign_keys = ON")
            with file:
                file.execute("BEGIN IMMEDIATE")
                yield file

    def add(
        self,
        test: ListeningTest,
        sounds: Mapping[str, bytes],
        ratings: Sequence[Rating] = (),
        maker: Maker = NOBODY,
    ) -> tuple[str, str]:
        """Keep a test.

        Args:
            sounds: by digest; all that the test names, prompts' too.
            ratings: that it comes with.
            maker: whose share of the store it takes.

        Returns:
            The code that raters are given, and the key that opens the results.

        Raises:
            UserError: there is no room for it.
        """
        code, key, definition = secrets.token_hex(4), secrets.token_urlsafe(18), test.to_json()
        num_bytes = sum(map(len, sounds.values()))
        if num_bytes > self.limits.max_bytes:
            raise UserError("error_test_large", size=num_bytes, limit=self.limits.max_bytes)
        num_bytes += len(definition.encode()) + RATING_BYTES * len(ratings)
        maker = Maker(user=digest_of(maker.user), address=digest_of(maker.address))
        with self._open() as file:
            make_room(file, maker, self.limits, num_bytes)
            row = (
                code, digest_of(key), time.time(), definition, maker.user, maker.address, num_bytes,
            )  # fmt: skip
            number = file.execute(
                "INSERT INTO tests (code, owner, created, definition, user, address, bytes) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            ).lastrowid
            rows = [(number, name, data) for name, data in sounds.items()]
            file.executemany("INSERT INTO sounds VALUES (?, ?, ?)", rows)
            for name in dict.fromkeys(rating.rater for rating in ratings):
                rater = _add_rater(file, number, test, name, secrets.token_urlsafe(18))
                for rating in ratings:
                    if rating.rater == name:
                        _add_rating(file, rater, rating)
        return code, key

    def test(self, code: str) -> ListeningTest:
        """The test that raters were given this code of.

        Raises:
            UserError: there is none.
        """
        with self._open() as file:
            return _test(file, code)[1]

    def owned(self, key: str) -> tuple[str, ListeningTest]:
        """The code and the test that this key opens the results of.

        Raises:
            UserError: there is none.
        """
        with self._open() as file:
            row = file.execute(
                "SELECT code, definition FROM tests WHERE owner = ?", (digest_of(key),)
            ).fetchone()
        if row is None:
            raise UserError("error_test_key")
        return row[0], test_of_json(row[1])

    def sound(self, code: str, digest: str) -> bytes:
        """A sound of a test, as it is stored."""
        query = "SELECT data FROM sounds WHERE test = ? AND digest = ?"
        with self._open() as file:
            number = _number(file, code)
            row = file.execute(query, (number, digest)).fetchone() if is_unicode(digest) else None
        if row is None:
            raise UserError("error_no_test", name=shown(code))
        return row[0]

    def remove(self, key: str) -> None:
        """Remove the test that a key opens, with all ratings."""
        with self._open() as file:
            file.execute("DELETE FROM tests WHERE owner = ?", (digest_of(key),))

    def join(self, code: str, name: str, key: str = "") -> Rater:
        """Begin to rate, or go on where one stopped.

        Args:
            name: of the rater, once in a test.
            key: that they were given when they began.

        Raises:
            UserError: no such test; a name that is taken, and the key isn't theirs; no room.
        """
        check_text("name", name, MAX_NAME, may_be_empty=False)
        name = name.strip()
        with self._open() as file:
            number, test = _test(file, code)
            row = file.execute(
                "SELECT id, key, seed FROM raters WHERE test = ? AND name = ?", (number, name)
            ).fetchone()
            if row is None:
                query = "SELECT COUNT(*) FROM raters WHERE test = ?"
                if file.execute(query, (number,)).fetchone()[0] >= self.limits.max_raters:
                    raise UserError("error_test_raters", limit=self.limits.max_raters)
                key = secrets.token_urlsafe(18)
                rater = _add_rater(file, number, test, name, key)
                trials = plan(test, rater_seed(test, name))
                return Rater(id=rater, name=name, key=key, test=test, trials=trials, num_done=0)
            if not secrets.compare_digest(row[1], digest_of(key)):
                raise UserError("error_rater_name", name=shown(name))
            return Rater(
                id=row[0], name=name, key="", test=test, trials=plan(test, row[2]),
                num_done=_num_done(file, row[0]),
            )  # fmt: skip

    def rate(self, code: str, rater: Rater, position: int, answer: Any, seconds: float) -> int:
        """Keep a rater's answer; one that was kept before stays as it is.

        Args:
            rater: as `join` gave it.
            position: of the trial that is answered.
            seconds: that it took.

        Returns:
            How many trials the rater has answered.

        Raises:
            UserError: it is no answer, or not the trial's turn.
        """
        with self._open() as file:
            number = _number(file, code)
            num_done = _num_done(file, rater.id)
            if type(position) is not int or not 0 <= position <= num_done:
                raise UserError("error_test_answer", value=shown(position))
            if position < num_done:
                return num_done
            if position >= len(rater.trials):
                raise UserError("error_test_answer", value=shown(position))
            trial = rater.trials[position]
            check_answer(rater.test, len(trial.sounds), answer)
            rating = Rating(
                rater=rater.name, position=position, trial=trial, answer=answer,
                seconds=seconds, time=datetime.now(UTC).isoformat(timespec="seconds"),
            )  # fmt: skip
            _add_rating(file, rater.id, rating)
            add_growth(file, number, RATING_BYTES)
            return num_done + 1

    def ratings(self, code: str) -> list[Rating]:
        """All ratings of a test, in the order of raters and of what they were asked."""
        with self._open() as file:
            rows = file.execute(
                "SELECT name, position, sounds, reference, answer, seconds, time FROM ratings "
                "JOIN raters ON raters.id = rater JOIN tests ON tests.id = test "
                "WHERE code = ? ORDER BY raters.id, position",
                (code,),
            ).fetchall()
        return [
            Rating(
                rater=name, position=position, seconds=seconds, time=at, answer=json.loads(answer),
                trial=Trial(sounds=tuple(json.loads(sounds)), reference=reference),
            )
            for name, position, sounds, reference, answer, seconds, at in rows
        ]  # fmt: skip


def _number(file: sqlite3.Connection, code: object) -> int:
    """A test's number; its definition, which may be of megabytes, is not read."""
    query = "SELECT id FROM tests WHERE code = ?"
    row = file.execute(query, (code,)).fetchone() if is_unicode(code) else None
    if row is None:
        raise UserError("error_no_test", name=shown(code))
    return row[0]


def _test(file: sqlite3.Connection, code: object) -> tuple[int, ListeningTest]:
    number = _number(file, code)
    query = "SELECT definition FROM tests WHERE id = ?"
    return number, test_of_json(file.execute(query, (number,)).fetchone()[0])


def _num_done(file: sqlite3.Connection, rater: int) -> int:
    query = "SELECT COUNT(*) FROM ratings WHERE rater = ?"
    return file.execute(query, (rater,)).fetchone()[0]


def _add_rater(file, number: int | None, test: ListeningTest, name: str, key: str) -> int:
    row = (number, name, digest_of(key), rater_seed(test, name))
    query = "INSERT INTO raters (test, name, key, seed) VALUES (?, ?, ?, ?)"
    return file.execute(query, row).lastrowid


def _add_rating(file: sqlite3.Connection, rater: int, rating: Rating) -> None:
    row = (
        rater, rating.position, json.dumps(rating.trial.sounds), rating.trial.reference,
        json.dumps(rating.answer), rating.seconds, rating.time,
    )  # fmt: skip
    file.execute("INSERT INTO ratings VALUES (?, ?, ?, ?, ?, ?, ?)", row)
