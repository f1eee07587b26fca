"""Faults in what a user gave: a code with values, said in a language where it is shown."""

from __future__ import annotations

from functools import partial

from strings import say

MAX_SHOWN = 80  # characters of what came, in a message


class UserError(ValueError):
    """What came, what is allowed and what to do, as a code of `strings` and its values.

    `str(error)` is the English text; a front end says it in its own language with
    `say(error.code, language, **error.values)`.

    Args:
        code: a key of the strings files, which begins with "error_".
        values: what the text names: numbers, `shown` words of the user, a `Text`; never a path
            of the server.
    """

    def __init__(self, code: str, **values: object) -> None:
        super().__init__(say(code, "en", **values))
        self.code, self.values = code, values

    def __reduce__(self) -> tuple:
        return partial(UserError, self.code, **self.values), ()  # on its way between processes


def shown(value: object) -> str:
    """What a user gave, as a message names it: on one line, printable, of bounded length."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > MAX_SHOWN:
        text = f"{text[: MAX_SHOWN // 2]}…{text[-MAX_SHOWN // 2 + 1 :]}"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
