"""Every limit of the page, in one table; `options` makes options and variables of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from listening.limits import TestLimits
from models.errors import shown

MIB = 1 << 20
SOUNDS_SHARE = 0.75  # of an exported test; texts and ratings take the rest of an upload
MAX_NUMBER = 2**53  # NaN and infinity are beyond it, too
SHORTEST_REPLY = 1.0  # seconds: the least that can be set as a reply's longest length


def _limit(default: float, meaning: str, least: float = 0):
    return field(default=default, metadata={"meaning": meaning, "least": least})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a visitor may ask of the page; the defaults suit a small public server.

    Raises:
        ValueError: a value that is too low, or is no whole number where one is meant.
    """

    max_text_characters: int = _limit(2000, "characters of a written turn")
    max_audio_seconds: float = _limit(60.0, "seconds of a recording or an uploaded sound")
    max_upload_bytes: int = _limit(50 * MIB, "bytes of an uploaded file")
    max_request_bytes: int = _limit(256 * 1024, "bytes of any other request")
    max_mcp_bytes: int = _limit(4 * MIB, "bytes of an assistant's request, sounds in base64 in it")
    receive_seconds: float = _limit(120.0, "seconds in which a request must have arrived")
    user_requests: int = _limit(600, "calls and uploads of one user in a minute")
    address_requests: int = _limit(6000, "the same, of all users at one address")
    max_connections: int = _limit(512, "requests and event streams open at the same time")
    address_connections: int = _limit(128, "the same, of all users at one address")
    reply_seconds: float = _limit(
        30.0, "longest reply in seconds, until the user sets another", SHORTEST_REPLY
    )
    max_reply_seconds: float = _limit(
        90.0, "longest reply in seconds that can be set", SHORTEST_REPLY
    )
    max_replies: int = _limit(4, "replies made at the same time")
    max_waiting: int = _limit(16, "replies that wait for their turn")
    max_microphones: int = _limit(16, "microphones open for live talk at the same time")
    max_sessions: int = _limit(32, "conversations kept at the same time")
    wait_seconds: float = _limit(10.0, "longest wait for another turn of the same conversation")
    idle_seconds: float = _limit(1800.0, "a conversation ends after so many seconds without use")
    linger_seconds: float = _limit(180.0, "the same, where its page was not heard of for 150 s")
    silent_seconds: float = _limit(10.0, "an open microphone that sends nothing closes after these")
    upload_seconds: float = _limit(600.0, "seconds that an upload is kept if nobody sends it")
    stop_seconds: float = _limit(10.0, "seconds that replies under way have when it is told to end")
    max_user_bytes: int = _limit(128 * MIB, "bytes of sounds kept for one visitor")
    max_total_bytes: int = _limit(1024 * MIB, "bytes of sounds kept for all; the oldest go first")

    max_tests: int = _limit(100, "listening tests kept; ones that nobody has rated make room")
    max_user_tests: int = _limit(20, "of these, and of their bytes, the share of one user")
    max_address_tests: int = _limit(50, "the same, of all users at one address")
    max_tests_bytes: int = _limit(2048 * MIB, "bytes of listening tests and ratings kept for all")

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            least = entry.metadata["least"]
            _check(entry.name, getattr(self, entry.name), type(entry.default), least)
        if self.reply_seconds > self.max_reply_seconds:
            object.__setattr__(self, "reply_seconds", self.max_reply_seconds)


def listening_limits(limits: Limits) -> TestLimits:
    """What listening tests may take."""
    return TestLimits(
        max_tests=limits.max_tests,
        max_user_tests=limits.max_user_tests,
        max_address_tests=limits.max_address_tests,
        max_bytes=round(SOUNDS_SHARE * limits.max_upload_bytes),
        max_total_bytes=limits.max_tests_bytes,
    )


def _check(name: str, value: object, kind: type, least: float) -> None:
    number = value if isinstance(value, (int, float)) else math.nan
    is_right = abs(number) <= MAX_NUMBER and (kind is float or number == int(number))
    if isinstance(value, bool) or not is_right or number <= 0 or number < least:
        low = f"of at least {least:g}" if least else "above 0"
        what = "a whole number" if kind is int else "a number"
        raise ValueError(
            f"--{name.replace('_', '-')} is {shown(repr(value))}, but must be {what} {low}"
        )
