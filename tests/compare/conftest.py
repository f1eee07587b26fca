"""Browsers of several people, whose pages must have no error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from browser import People, playwright


@pytest.fixture
def context(people: People) -> Iterator[Callable[..., playwright.BrowserContext]]:
    """Makes browsers of different people; an error in any page fails the test."""
    contexts = []

    def new(locale: str = "en-US") -> playwright.BrowserContext:
        context = people.come(locale)
        context.set_default_timeout(120_000)
        contexts.append(context)
        return context

    yield new
    assert [error for context in contexts for error in people.leave(context)] == []
