"""axe-core finds nothing in the tabs beside the conversation, in any theme and language."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import MARKS
from fake_model import FakeModel
from page_client import served
from rating import opened, violations

pytestmark = [
    *MARKS,
    pytest.mark.parametrize("scheme", ["light", "dark"]),
    pytest.mark.parametrize("locale", ["en-US", "zh-CN"]),
]


def test_a_listening_test_from_building_to_results(
    context, locale: str, scheme: str, tmp_path: Path
):
    with served(FakeModel(num_frames=8), data_folder=tmp_path) as (_, url):
        page = opened(context(locale, 390, color_scheme=scheme), url)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(page) == []
        page.click(".tests .primary")
        page.wait_for_selector(".built h2")
        assert violations(page) == []
        page.click(".built .primary")
        page.fill(".tests input[autocomplete=nickname]", "Ann")
        page.click(".tests form .primary")
        page.wait_for_selector(".trial .play")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for play in page.query_selector_all(".trial .play"):
            play.click()
        page.check(".trial input[value='0']")
        page.click(".trial .primary")
        page.click("#compare [role=tab]:last-child")
        page.click("#compare .files .link")
        page.wait_for_selector(".plot")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
