"""So many bad inputs are tried in all."""

from __future__ import annotations

import pytest
from cases import TRIED

MIN_CASES = 5000
MODULES = ("test_checkpoints", "test_requests", "test_sounds", "test_texts")


@pytest.mark.slow
def test_so_many_cases_were_tried(request: pytest.FixtureRequest):
    ran = {item.module.__name__.rpartition(".")[2] for item in request.session.items}
    if not ran.issuperset(MODULES):
        pytest.skip("only some of them were asked for")
    print(dict(TRIED))
    assert TRIED.total() >= MIN_CASES
