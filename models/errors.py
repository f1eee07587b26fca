"""Faults in what a user gave: a code with values, said in a language where it is shown."""

from __future__ import annotations

from strings import say


class UserError(ValueError):
    """What came, what is allowed and what to do, as a code of `strings` and its values.

    `str(error)` is the English text; a front end says it in its own language with
    `say(error.code, language, **error.values)`.

    Args:
        code: a key of the strings files, which begins with "error_".
        values: what the text names: numbers, names as the user wrote them; never a path of the
            server.
    """

    def __init__(self, code: str, **values: object) -> None:
        super().__init__(say(code, "en", **values))
        self.code, self.values = code, values
