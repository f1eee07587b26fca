"""Who may use the page, where not everybody may: names and passwords, over HTTP's own login."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Mapping
from pathlib import Path


def read_users(source: str | None) -> dict[str, str]:
    """Names and passwords.

    Args:
        source: the path of a file with one name:password a line, or such pairs with commas
            between; None or empty if everybody may come.

    Raises:
        ValueError: something else; the message repeats nothing of it.
    """
    if not source:
        return {}
    text = source.replace(",", "\n")
    try:
        if os.path.isfile(source):  # of a text that is too long for a path, too
            text = Path(source).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError("--auth names a file that can't be read as text") from error
    users = {}
    for line in text.splitlines():
        name, colon, password = line.strip().partition(":")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not (name and colon and password):
            raise ValueError(
                "--auth is no file, or holds what is no name:password: give one such pair a line, "
                "or pairs with commas between"
            )
        users[name] = password
    if not users:
        raise ValueError("--auth holds no name:password: give one such pair a line")
    return users


def user_of(header: str, users: Mapping[str, str]) -> str | None:
    """The user that an Authorization header names with the right password."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    expected = users.get(name, "")
    # Compared in a time that tells nothing; no password is empty.
    is_right = hmac.compare_digest(password.encode(), expected.encode())
    return name if is_right and expected else None
