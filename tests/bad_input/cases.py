"""Counted cases of bad input: how many were tried, and what every message must be like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from models.errors import UserError
from strings import LANGUAGES, say

TRIED: Counter[str] = Counter()  # cases by test
MAX_MESSAGE = 2000  # characters
SECRET = "very-secret-folder"  # in the path of whatever lies on the server


def cases(num_cases: int, *strategies: SearchStrategy) -> Callable:
    """A test that is tried with so many draws, always the same ones, and counted."""

    def decorate(test: Callable) -> Callable:
        def counted(*arguments, **fixtures):
            TRIED[test.__name__] += 1
            test(*arguments, **fixtures)

        counted.__name__, counted.__doc__ = test.__name__, test.__doc__
        counted.__module__, counted.__wrapped__ = test.__module__, test
        limited = settings(
            max_examples=num_cases,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return limited(given(*strategies)(counted))

    return decorate


def check_told(error: ValueError) -> None:
    """The message is one that may be shown: short, whole, without a place on the server."""
    messages = [str(error)]
    if isinstance(error, UserError):
        messages += [say(error.code, language, **error.values) for language in LANGUAGES]
    for message in messages:
        assert 0 < len(message) <= MAX_MESSAGE
        assert "Traceback" not in message and SECRET not in message
        message.encode()


def damaged(content: bytes, changes: list[tuple[float, int]], end: float) -> bytes:
    """A file with bytes changed, each at a share of its length, and cut off at another share.

    Half of the changes hit the first 200 bytes, where the lengths stand.
    """
    data = bytearray(content)
    for index, (place, value) in enumerate(changes):
        span = min(200, len(data)) if index % 2 else len(data)
        data[int(place * (span - 1))] = value
    return bytes(data[: int(end * len(data))])


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
