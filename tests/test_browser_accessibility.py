"""axe-core finds nothing to complain of, in any state of the talk tab, theme and language."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe import violations
from browser import MARKS, Pages, chromium, playwright, record, wait_for_reply, write
from fake_model import FakeModel
from page_client import served

pytestmark = MARKS


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(FakeModel(num_frames=200, frame_seconds=0.005)) as (_, address):
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[playwright.Browser]:
    with chromium(tmp_path_factory.mktemp("microphone")) as browser:
        yield browser


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_the_talk_tab_is_for_everybody(browser: playwright.Browser, url: str, locale: str):
    open_page = Pages(browser, url)
    page = open_page(locale)
    found = violations(page, "empty")
    page.click("#advanced button")
    page.click("#send")
    page.wait_for_selector("#status .fault:not(:empty)")
    found += violations(page, "fault, settings open")
    write(page, "你好")
    page.wait_for_function("window.pagePlayer.isSpeaking()")
    found += violations(page, "speaking")
    page.keyboard.press("Escape")
    wait_for_reply(page)
    found += violations(page, "stopped")
    page.click(".bot-row .compare")
    page.wait_for_selector(".panel .primary:not(:disabled)")
    found += violations(page, "comparing")
    page.click(".panel .primary")
    wait_for_reply(page, 2)
    page.keyboard.press("Escape")
    found += violations(page, "compared")
    record(page, 1)
    found += violations(page, "recording")
    page.click("#composer .record")
    page.wait_for_selector("#composer .attached:not([hidden])")
    found += violations(page, "attached")
    page.click("#hands-free")
    page.wait_for_selector("#hands-free[data-state=listening]")
    found += violations(page, "listening")
    page.wait_for_selector("#hands-free[data-state=speaking]")
    found += violations(page, "hands-free reply")
    open_page.close()
    assert found == []
