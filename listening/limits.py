"""How large a listening test may be."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TestLimits:
    """What one test, and all of them, may take.

    Fields:
        max_tests: tests kept; one that nobody has rated makes room, the oldest first.
        max_user_tests, max_address_tests: of these, of one who builds them, and of all at one
            address; their shares of the bytes are as large.
        max_sounds: sounds of a test.
        max_bytes: of a test's sounds, as they are stored.
        max_total_bytes: of all tests: sounds, definitions and ratings.
        max_seconds: of one sound.
        max_raters: of a test.
    """

    __test__ = False  # its name begins as those that pytest collects

    max_tests: int = 100
    max_user_tests: int = 20
    max_address_tests: int = 50
    max_sounds: int = 240
    max_bytes: int = 37 * MIB
    max_total_bytes: int = 2048 * MIB
    max_seconds: float = 60.0
    max_raters: int = 200


RATING_BYTES = 256  # that a rating counts for
MAX_CONDITIONS = 8
MAX_STIMULI = 1000  # of a test, whatever its limits say
MAX_TRIALS = 400  # that one rater is asked
MAX_TITLE = 120  # characters
MAX_NAME = 80  # of a condition, a prompt's name, a rater
MAX_TEXT = 4000  # of a question, a prompt, a reply
MAX_SETTINGS = 16_384  # characters of what is noted of one sound
MAX_WORDS = 16  # of which a rater chooses one
MAX_ANSWER_SECONDS = 86_400.0  # that a rater takes for one answer
