"""Strangers at the page's server: bodies, values and uploads of any kind are bounded and told."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fake_model import FakeModel
from gradio.routes import file_upload_statuses
from loguru import logger
from page_client import API, Visitor, function
from strangers import FOREIGN, LIMITS, shown_faults, wait_until, wav, written

import app
from strings import say


def test_large_requests_are_refused_unread(url: str, page: app.Page):
    visitor, before = Visitor(url), set(page.files.folder.glob("*/*"))
    index = function(page, "answer")
    assert visitor.join(index, written("好" * 50_000))[0] == 413
    body = json.dumps({"data": [None, "a" * 200_000]})
    headers = {"Content_Type": "application/json", "Transfer_Encoding": "chunked"}
    pieces = (body[i : i + 1000].encode() for i in range(0, len(body), 1000))
    response = visitor.open("POST", f"{API}/call/speak", _chunked(pieces), **headers)
    assert response.status == 413
    assert visitor.upload(b"x" * (LIMITS.max_upload_bytes + 5000))[0] == 413
    lying = visitor.open(
        "POST", f"{API}/call/speak", b"{}", Content_Length="2000000000", Content_Type="x"
    )
    assert lying.status == 413
    assert set(page.files.folder.glob("*/*")) <= before


def _chunked(pieces) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return body + b"0\r\n\r\n"


def test_a_long_text_is_refused_before_any_work(url: str, page: app.Page, model: FakeModel):
    wait_until(lambda: len(page.sessions) == 0)
    visitor = Visitor(url)
    text = "好" * (LIMITS.max_text_characters + 1)
    for answer in (
        visitor.call([None, text])[1],
        json.dumps(visitor.run(function(page, "answer"), written(text))),
    ):
        assert "101" in answer and "100" in answer
    assert (model.num_replies, len(page.sessions)) == (0, 0)


def test_a_body_that_never_ends_is_dropped(url: str):
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
        head = f"POST {API}/call/speak HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 100\r\n"
        client.sendall(f"{head}\r\n{{".encode())
        assert b" 408 " in client.recv(1000)


@pytest.mark.parametrize(
    "body",
    ["", "[", "[]", "5", '"a"', "null", "[" * 100_000, '{"data": 5}', '{"data": {}}', "\xff"],
)
def test_damaged_requests_are_told(url: str, body: str):
    visitor = Visitor(url)
    for path in ("call/speak", "queue/join", "cancel", "stream/abc"):
        response = visitor.open("POST", f"{API}/{path}", body.encode("latin-1"))
        assert 400 <= response.status < 500
        assert json.loads(response.read())["detail"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "neither speech nor text"),
        ([None], "neither speech nor text"),
        ([None, "a", 5], "unknown style"),
        ([None, "a", "", 0, None, "", 5], "one voice only"),
        ([None, "a", *[None] * 20], "list of: audio, text"),
        ({"text": "a"}, "list of: audio, text"),
        ([5, ""], "came as int"),
        (["/etc/passwd", ""], "came as str"),
        ([["a"], ""], "came as list"),
        ([{}, ""], FOREIGN),
        ([None, 5], "came as int"),
        ([None, ["a"]], "came as list"),
        ([None, None], "neither speech nor text"),
        ([None, "  "], "neither speech nor text"),
    ],
)
def test_wrong_values_are_told_to_callers(url: str, data: object, told: str):
    assert told in Visitor(url).call(data)[1]


def test_wrong_settings_are_told(url: str, page: app.Page, model: FakeModel):
    for settings in (
        ["loud", 5, 0.7, -1],
        ["", 5000, 0.7, -1],
        ["", -5, 0.7, -1],
        ["", 5, 99, -1],
        ["", 5, 0.7, 2**80],
        ["", 5, 0.7, 10**400],
    ):
        answer = Visitor(url).run(function(page, "answer"), [{"text": "你好"}, *settings])
        (told,) = shown_faults(answer) or [answer["output"]["error"]]
        assert told and say("error_internal", "zh") not in told
    assert model.num_replies == 0


def test_an_exception_ends_in_a_plain_message(url: str, page: app.Page, model: FakeModel, capfd):
    def fail(frame: int) -> None:
        if frame == 2:
            raise MemoryError("机密 /home/someone")

    model.on_frame = fail
    logged: list[str] = []
    sink = logger.add(logged.append)
    visitor = Visitor(url)
    answer = visitor.call([None, "机密"])[1]
    assert "event: error" in answer and say("error_internal", "en") in answer
    visitor.join(function(page, "answer"), written("机密"))
    messages = list(visitor.events())
    assert shown_faults(messages[-2]) == [say("error_internal", "zh")]
    conditions = [{"name": "a", "model": "fake:float32"}]
    build = {"kind": "mos", "title": "机密", "conditions": conditions, "texts": ["机密"]}
    for name, given in (("_tests_build", build), ("_look", {"text": "机密", "answers": True})):
        visitor.join(function(page, name), [json.dumps(given)])
        assert say("error_internal", "en") in json.dumps(list(visitor.events()))
    logger.remove(sink)
    assert "机密" not in "".join([*logged, *capfd.readouterr()])
    assert sum("MemoryError at" in line for line in logged) == 4
    model.on_frame = lambda frame: None
    assert visitor.run(function(page, "answer"), written("再来"))["success"]


def test_uploads_are_bounded_and_go(url: str, page: app.Page):
    for owner in list(page.files._taken):  # what other tests left takes room, too
        page.files.remove_all(owner)
    visitor = Visitor(url)
    paths = [visitor.upload_path(b"x" * 900_000) for _ in range(4)]
    assert [Path(path).exists() for path in paths] == [False, False, True, True]
    others = [Visitor(url).upload_path(b"x" * 900_000) for _ in range(4)]
    assert page.files.num_bytes <= LIMITS.max_total_bytes
    assert sum(Path(path).exists() for path in (*paths, *others)) <= 4
    assert all(Path(path).exists() for path in others[1:])


@pytest.mark.parametrize("name", ["../../x.wav", "/etc/passwd", "a" * 400, "<b>.wav", "..", ""])
def test_names_of_uploads_lead_nowhere(url: str, page: app.Page, name: str):
    status, answer = Visitor(url).upload(wav(), name)
    if status == 200:
        path = Path(json.loads(answer)[0])
        assert path.resolve() == path and page.files.folder in path.parents
    assert not re.search(r"/(home|work|tmp)", answer) or status == 200


def test_several_files_or_none_are_refused(url: str, page: app.Page):
    visitor, before = Visitor(url), set(page.files.folder.iterdir())
    part = 'Content-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\nx\r\n'
    for body in ("", "--b--\r\n", f"--b\r\n{part}--b\r\n{part}--b--\r\n", "--b\r\nno form"):
        for kind in ("multipart/form-data; boundary=b", "multipart/form-data", "text/plain"):
            answer = visitor.open("POST", f"{API}/upload", body, Content_Type=kind)
            assert answer.status == 400
            assert answer.read().decode() == say("error_upload", "en")
    assert set(page.files.folder.iterdir()) <= before


def test_arguments_of_the_api_may_come_by_name(url: str):
    visitor = Visitor(url)
    path = visitor.upload_path(wav())
    for body in ({"text": "你好"}, {"audio": {"path": path}}, {"audio": None, "text": "你好"}):
        status, answer = visitor.post(f"{API}/call/v2/speak", body)
        assert status == 200 and json.loads(answer)["place"] == 0
        answer = visitor.get(f"{API}/call/v2/speak/{json.loads(answer)['event_id']}")[1]
        assert "event: complete" in answer and "reply.wav" in answer
    for body in ({"words": "你好"}, {"data": [None, "你好"]}):
        status, answer = visitor.post(f"{API}/call/v2/speak", body)
        assert status == 422 and "list of: audio, text" in answer
    assert visitor.post(f"{API}/call/v2/speak", {"audio": {"path": "/etc/passwd"}})[0] == 403
    assert visitor.post(f"{API}/call/v2/nothing", {})[0] == 404


def test_nobody_keeps_anything_with_the_progress_of_uploads(url: str):
    visitor = Visitor(url)
    before = len(file_upload_statuses._signals), len(file_upload_statuses._statuses)
    for number in range(5):
        status, body = visitor.get(f"{API}/upload_progress?upload_id=a{number}")[:2]
        assert (status, body) == (200, 'data: {"msg": "done"}\n\n')  # it ends at once
    kind, body = "multipart/form-data; boundary=b", b"--b\r\nno form"
    visitor.open("POST", f"{API}/upload?upload_id=b", body, Content_Type=kind).read()
    after = len(file_upload_statuses._signals), len(file_upload_statuses._statuses)
    assert after == before


def test_refusals_speak_the_browsers_language(url: str):
    answer = Visitor(url).get("/nothing", Accept_Language="zh-CN,zh;q=0.9")[1]
    assert json.loads(answer)["detail"] == say("error_no_such_page", "zh")
