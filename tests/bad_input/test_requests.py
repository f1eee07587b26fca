"""Requests of any kind at the page's server: each is answered, never by a fault of the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from cases import cases, files_in
from fake_model import FakeModel
from hypothesis import strategies as st

import app
from page.calls import RefusedError
from page.entrance import Entrance
from page.gate import API, Gate
from page.limits import Limits
from strings import STRINGS

pytestmark = pytest.mark.slow
LIMITS = Limits(
    max_request_bytes=4096, max_upload_bytes=4096, user_requests=10**6, address_requests=10**6
)
DOORS = (
    "queue/join", "call/speak", "call/v2/speak", "call/encode", "cancel", "reset", "upload",
    "stream/a", "stream/a/close", "queue/data", "call/speak/a", "file=/etc/passwd",
    "run/predict", "info", "login",
)  # fmt: skip
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.sampled_from(["/etc/passwd", "../x", "\ud800", "a" * 100]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(("path", "url", "meta")), st.text()), inner,
                        max_size=3),
    ),
    max_leaves=10,
)  # fmt: skip
KEYS = st.sampled_from(("data", "fn_index", "session_hash", "event_id", "audio", "text", "x"))
BODIES = st.one_of(
    st.dictionaries(KEYS, JSON, max_size=5),
    st.fixed_dictionaries(
        {"session_hash": st.just("a"), "data": st.lists(JSON, max_size=8)},
        optional={"fn_index": st.integers(-1, 60), "event_id": st.text(max_size=5)},
    ),
)
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
HEADERS = st.dictionaries(
    st.sampled_from((
        "host", "origin", "cookie", "x-visitor", "content-type", "content-length", "authorization",
        "sec-fetch-site", "accept-language", "x-forwarded-for", "range",
    )),
    st.one_of(PLAIN, st.sampled_from(("visitor=a", "Basic YTpi", "multipart/form-data; boundary=b",
                                      "application/json", "9" * 30, "-1", "\xb2", "zh", "null"))),
    max_size=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Iterator[app.Page]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        page = app.Page(FakeModel(), LIMITS)
        yield page
        page.close()


async def inner(scope, receive, send) -> None:
    """In Gradio's place: takes the body and is content."""
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def asked(entrance, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple:
    """(status, body) of a request, given to the server's first part as uvicorn would."""
    half = len(body) // 2
    messages = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
    ]
    sent: list[dict] = []

    async def receive() -> dict:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"session_hash=a", "root_path": "", "scheme": "http",
        "client": ("192.0.2.1", 1), "server": ("127.0.0.1", 7860), "http_version": "1.1",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(asyncio.wait_for(entrance(scope, receive, send), 10))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body.decode()


def entrance(page: app.Page, users: dict | None = None) -> Entrance:
    gate = Gate(
        inner, limits=LIMITS, files=page.files, calls=page.calls, see=page.sessions.see,
        is_host=lambda name: name != "no",
    )  # fmt: skip
    return Entrance(gate, limits=LIMITS, users=users, health=page.health, public_metrics=False)


def check_answer(page: app.Page, status: int, told: str) -> None:
    assert status in (200, 204, 400, 401, 403, 404, 408, 413, 421, 422, 429, 503)
    if status not in (200, 204):
        assert "Traceback" not in told and str(page.files.folder) not in told and len(told) < 600


PATHS = st.one_of(
    st.sampled_from(
        [f"{API}/{door}" for door in DOORS] + ["/", "/here", "/config", "/healthz", "/metrics"]
    ),
    st.text(max_size=30).map(lambda text: "/" + text.encode("utf-8", "ignore").decode()),
    st.text(max_size=20).map(lambda text: f"{API}/" + text.encode("utf-8", "ignore").decode()),
)
METHODS = st.sampled_from(("GET", "POST", "HEAD", "PUT", "OPTIONS"))


@cases(250, METHODS, PATHS, HEADERS, st.one_of(st.binary(max_size=300), st.just(b"[" * 4000)))
def test_any_request(page, method: str, path: str, headers: dict, body: bytes):
    before = files_in(page.files.folder)
    check_answer(page, *asked(entrance(page), method, path, headers, body))
    assert files_in(page.files.folder) == before


@cases(250, st.sampled_from(DOORS), HEADERS, BODIES)
def test_any_body(page, door: str, headers: dict, body: dict):
    headers = {name: value for name, value in headers.items() if name != "content-length"}
    raw = json.dumps(body).encode()
    check_answer(page, *asked(entrance(page), "POST", f"{API}/{door}", headers, raw))


@cases(400, st.sampled_from([door for door in DOORS if door != "upload"]), BODIES)
def test_what_goes_on_to_gradio(page, door: str, body: dict):
    """Only what the page itself would send, in the visitor's own space, without foreign files."""
    try:
        if door.startswith("call/v2/"):
            door, body = "call/speak", page.calls.in_order("call/speak", body)
        made = page.calls.clean(door, body, "visitor")
    except RefusedError as refused:
        assert refused.code in STRINGS["en"]
        return
    assert made.get("session_hash", "visitor_").startswith("visitor_")
    sent = json.dumps(made)
    assert '"path"' not in sent and '"url"' not in sent


@cases(80, HEADERS)
def test_who_has_no_password(page, headers: dict):
    status, told = asked(entrance(page, {"a": "c"}), "GET", "/config", headers, b"")
    assert status in (401, 429)
    check_answer(page, status, told)


@cases(150, st.binary(max_size=600), st.sampled_from(("b", "", "x" * 100, "é")))
def test_any_upload(page, content: bytes, boundary: str):
    start = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="'.encode(
        "latin-1"
    )
    body = start + content + f"\r\n--{boundary}--\r\n".encode("latin-1")
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    status, told = asked(entrance(page), "POST", f"{API}/upload", kind, body)
    check_answer(page, status, told)
    page.files.remove_all(next(iter(page.files._taken), ""))
    left = [path for path in page.files.folder.glob("*/*") if path.parent.name != "data"]
    assert left == []
