"""Room in the store: everybody's share of it, and what is removed to make some."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass

from models.errors import UserError

from .limits import RATING_BYTES, TestLimits

# Columns that files of earlier releases have not.
COLUMNS = {
    "user": "TEXT NOT NULL DEFAULT ''",
    "address": "TEXT NOT NULL DEFAULT ''",
    "bytes": "INTEGER NOT NULL DEFAULT 0",
}
COUNT_BYTES = f"""
UPDATE tests SET bytes = LENGTH(CAST(definition AS BLOB))
    + (SELECT COALESCE(SUM(LENGTH(data)), 0) FROM sounds WHERE test = tests.id)
    + {RATING_BYTES} * (SELECT COUNT(*) FROM ratings JOIN raters ON raters.id = rater
                        WHERE test = tests.id)
"""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Who builds a test, as far as shares of the store go.

    Fields:
        user: one of those at an address, who may make themselves up.
        address: that all of them share.
    """

    user: str = ""
    address: str = ""


NOBODY = Maker()


def add_columns(file: sqlite3.Connection) -> None:
    """Bring the table of tests up to `COLUMNS`."""
    known = {row[1] for row in file.execute("PRAGMA table_info(tests)")}
    missing = [name for name in COLUMNS if name not in known]
    for name in missing:
        file.execute(f"ALTER TABLE tests ADD COLUMN {name} {COLUMNS[name]}")
    if missing:
        file.execute(COUNT_BYTES)
        file.commit()


def add_growth(file: sqlite3.Connection, test: int, num_bytes: int) -> None:
    """Count what a test takes since it was kept; its own row, a definition's, stays as it is."""
    query = (
        "INSERT INTO growth VALUES (?, ?) "
        "ON CONFLICT (test) DO UPDATE SET bytes = bytes + excluded.bytes"
    )
    file.execute(query, (test, num_bytes))


def make_room(file: sqlite3.Connection, maker: Maker, limits: TestLimits, num_bytes: int) -> None:
    """Remove tests that nobody has rated, as far as one more of so many bytes needs it.

    First the maker's own, until their share is kept, then those of the same address, then those of
    the address that has most; the oldest first.

    Raises:
        UserError: all that are left have ratings.
    """
    for column, value, max_tests, code in (
        ("user", maker.user, limits.max_user_tests, "error_tests_share"),
        ("address", maker.address, limits.max_address_tests, "error_tests_share"),
        ("''", "", limits.max_tests, "error_tests_full"),
    ):
        max_bytes = limits.max_total_bytes * min(max_tests / limits.max_tests, 1)
        while True:
            count, used = file.execute(
                "SELECT COUNT(*), COALESCE(SUM(tests.bytes + COALESCE(growth.bytes, 0)), 0) "
                f"FROM tests LEFT JOIN growth ON test = id WHERE {column} = ?",
                (value,),
            ).fetchone()
            if count < max_tests and used + num_bytes <= max_bytes:
                break
            unrated = file.execute(
                f"SELECT id FROM tests WHERE {column} = ? AND id NOT IN (SELECT test FROM raters) "
                "ORDER BY COUNT(*) OVER (PARTITION BY address) DESC, created",
                (value,),
            ).fetchone()
            if unrated is None:
                raise UserError(code, limit=max_tests, size=round(max_bytes))
            file.execute("DELETE FROM tests WHERE id = ?", unrated)


def digest_of(key: object) -> str:
    """A key's digest: it has too many bits to be guessed from it."""
    return hashlib.sha256(str(key).encode(errors="replace")).hexdigest()
