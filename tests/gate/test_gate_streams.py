"""Streams of events: who reads them, and which was closed last."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from page_client import API, Visitor, function

import app
from page.limiter import Readers


def closed_before(visitor: Visitor, index: int) -> str | None:
    """Ask for something; which stream was closed before."""
    body = json.dumps({"data": [{}], "fn_index": index, "session_hash": visitor.session})
    answer = visitor.open("POST", f"{API}/queue/join", body, Content_Type="application/json")
    assert answer.status == 200
    return answer.getheader("X-Stream")


def test_a_call_learns_which_stream_was_closed_before_it(url: str, page: app.Page):
    visitor, index = Visitor(url), function(page, "stop")
    for number in ("", "1", "2"):
        assert closed_before(visitor, index) == number
        assert closed_before(visitor, index) == number
        path = f"{API}/queue/data?session_hash={visitor.session}"
        events = visitor.open("GET", path, X_Stream=str(int(number or 0) + 1)).read()
        assert events.count(b'"process_completed"') == 2 and b'"close_stream"' in events
    assert closed_before(Visitor(url), index) == ""


@pytest.mark.parametrize("number", ["one", "1" * 17, "1;2", "\xb2"])
def test_what_is_no_number_of_a_stream_is_not_told_back(url: str, page: app.Page, number: str):
    visitor, index = Visitor(url), function(page, "stop")
    assert closed_before(visitor, index) == ""
    path = f"{API}/queue/data?session_hash={visitor.session}"
    assert b'"close_stream"' in visitor.open("GET", path, X_Stream=number).read()
    assert closed_before(visitor, index) == ""


def test_a_call_that_comes_as_a_stream_closes_waits_for_the_next(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("page.limiter.READER_SECONDS", 60.0)
    readers = Readers()
    with readers.reading("a"):
        readers.call("a")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(readers.is_read, "a")
        with pytest.raises(TimeoutError):
            read.result(0.3)
        with readers.reading("a"):
            assert read.result(60)
