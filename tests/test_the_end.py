"""SIGTERM while people talk, with a fake model so that the replies' times are known."""

from __future__ import annotations

import json
import signal
import threading

import pytest
from fake_model import FakeModel
from gradio_client import Client
from page_client import API, Visitor, free_port, function
from strangers import wait_until

import app
from strings import say


def serve(monkeypatch: pytest.MonkeyPatch, model: FakeModel, *arguments: str):
    """(thread, url, page, exit status once it has ended, what lets it end)."""
    pages, told, status = [], threading.Event(), []

    class Told:
        def wait(self) -> None:
            told.wait(60)
            raise KeyboardInterrupt  # as the handler of SIGTERM does

    launch = app.Page.launch

    def launched(page: app.Page, *rest: object, **options: object) -> str:
        pages.append((page, launch(page, *rest, **options, quiet=True)))
        return pages[0][1]

    monkeypatch.setattr(app, "load_model", lambda *rest: model)
    monkeypatch.setattr(app, "Event", Told)
    monkeypatch.setattr(app.Page, "launch", launched)
    monkeypatch.setattr(app.logging, "disable", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *rest: None)
    port = str(free_port())
    main = threading.Thread(
        target=lambda: status.append(app.main(["--port", port, *arguments])), daemon=True
    )
    main.start()
    wait_until(lambda: pages or not main.is_alive())
    assert main.is_alive()
    page, url = pages[0]
    return main, url, page, status, told.set


def test_replies_under_way_are_finished(monkeypatch: pytest.MonkeyPatch):
    model = FakeModel(num_frames=40, frame_seconds=0.05)
    main, url, page, status, end = serve(monkeypatch, model, "--stop-seconds", "60")
    results = []
    client = threading.Thread(
        target=lambda: results.append(
            Client(url, verbose=False).predict(None, "你好", api_name="/speak")
        ),
        daemon=True,
    )
    client.start()
    wait_until(lambda: model.num_running)
    end()
    wait_until(lambda: page.calls.is_ending)
    code, told = Visitor(url).call([None, "你好"])
    assert (code, json.loads(told)["detail"]) == (503, say("error_ending", "en"))
    health = Visitor(url).get("/healthz")
    assert health[0] == 503 and json.loads(health[1])["ready"] is False
    client.join(60)
    main.join(60)
    assert status == [0]
    assert results[0][0] == "好" * 40


def test_a_reply_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    model = FakeModel(num_frames=10_000, frame_seconds=0.05)
    main, url, page, status, end = serve(monkeypatch, model, "--stop-seconds", "0.5")
    visitor = Visitor(url)
    visitor.join(function(page, "answer"), [{"text": "你好"}, "", 90, 0.7, -1])
    stream = visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}")
    wait_until(lambda: model.num_running)
    end()
    main.join(60)
    assert status == [0] and not page.files.folder.exists()
    stream.close()
