"""Browsers of several people, whose pages must have no error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from browser import playwright, watch


@pytest.fixture
def context(browser: playwright.Browser) -> Iterator[Callable[..., playwright.BrowserContext]]:
    """Makes browsers of different people; an error in any page fails the test."""
    contexts, errors = [], []

    def new(locale: str = "en-US", width: int = 1280, **options) -> playwright.BrowserContext:
        context = browser.new_context(
            locale=locale,
            viewport={"width": width, "height": 844},
            accept_downloads=True,
            **options,
        )
        context.set_default_timeout(120_000)
        watch(context, errors)
        contexts.append(context)
        return context

    yield new
    for context in contexts:
        context.close()
    assert errors == []
