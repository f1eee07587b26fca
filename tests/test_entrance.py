"""Health, metrics, login, and how often somebody may ask, as they are seen from outside."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_model import FakeModel
from gradio_client import Client
from page_client import API, Visitor, function, served
from starlette.responses import Response
from strangers import wait_until

import app
from page import rate
from page.entrance import Entrance
from page.limits import Limits
from page.login import read_users, user_of
from page.rate import Rate
from strings import say

LOOK = json.dumps({"text": "好", "answers": True})


def written(text: str) -> list:
    return [{"text": text, "audio": None}, "", 5, 0.7, -1]


def basic(name: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


def figure(text: str, name: str) -> float:
    """One of Prometheus' samples; 0 if it has none."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def figures(visitor: Visitor) -> str:
    status, text = visitor.get("/metrics")
    assert status == 200
    return text


def test_health_tells_the_model_and_the_queue():
    model = FakeModel(num_frames=20, frame_seconds=0.1)
    model.name = "/srv/secret/tiny"
    with served(model, Limits(max_replies=1)) as (page, url):
        told = json.loads(Visitor(url).get("/healthz")[1])
        assert told == {
            "ready": True, "model": "tiny", "device": "cpu", "dtype": "float32", "queue_length": 0,
        }  # fmt: skip
        streams = []
        for _ in range(3):
            visitor = Visitor(url)
            assert visitor.join(function(page, "answer"), written("你好"))[0] == 200
            query = f"queue/data?session_hash={visitor.session}"
            streams.append(visitor.open("GET", f"{API}/{query}"))
            streams[-1].read(10)
        assert json.loads(Visitor(url).get("/healthz")[1])["queue_length"] >= 1
        for stream in streams:
            stream.close()


def test_metrics_count_what_happens():
    model = FakeModel(num_frames=5)
    with served(model) as (page, url):
        visitor = Visitor(url)
        before = figures(visitor)
        assert visitor.run(function(page, "answer"), written("你好"))["success"]
        assert "event: complete" in visitor.call([None, "你好"])[1]
        assert visitor.get("/nowhere")[0] == 404
        assert "event: error" in visitor.call([None, " "])[1]
        assert visitor.run(function(page, "answer"), written(" "))["success"]

        def broken(frame: int) -> None:
            raise RuntimeError("a fault of the model")

        model.on_frame = broken
        assert "event: error" in visitor.call([None, "你好"])[1]
        after = figures(visitor)
    for name, more in (
        ("westlake_first_sound_seconds_count", 2),
        ("westlake_reply_frames_per_second_count", 2),
        ("westlake_frames_total", 10),
        ('westlake_replies_total{end="whole"}', 2),
        ('westlake_replies_total{end="error"}', 1),
        ('westlake_errors_total{kind="error_nothing_given"}', 2),
        ('westlake_errors_total{kind="internal"}', 1),
        ('westlake_refused_requests_total{status="404"}', 1),
    ):
        assert figure(after, name) - figure(before, name) == more, name
    assert figure(after, "westlake_sessions") == 1
    assert figure(after, "westlake_queue_length") == 0
    assert figure(after, "process_resident_memory_bytes") > 1e6


def test_replies_of_all_tabs_are_counted():
    model = FakeModel(num_frames=5)
    condition = {"source": "reply", "model": "fake:float32", "seed": 1}
    wish = {
        "kind": "ab", "title": "t", "texts": ["好"],
        "conditions": [{**condition, "name": name} for name in "ab"],
    }  # fmt: skip
    with served(model) as (page, url):
        visitor = Visitor(url)
        before = figures(visitor)
        visitor.run(function(page, "_look"), [LOOK])
        visitor.run(function(page, "_tests_build"), [json.dumps(wish)])
        after = figures(visitor)
    for name, more in (
        ("westlake_first_sound_seconds_count", 3),
        ("westlake_frames_total", 15),
        ('westlake_replies_total{end="whole"}', 3),
    ):
        assert figure(after, name) - figure(before, name) == more, name


@pytest.mark.parametrize(
    "ask",
    [
        lambda page, visitor: visitor.call([None, "你好"]),
        lambda page, visitor: visitor.call([None, "你好", "", -1, None, "a"]),
        lambda page, visitor: visitor.tool("speak", {"text": "你好"}),
        lambda page, visitor: visitor.run(function(page, "answer"), written("你好")),
        lambda page, visitor: visitor.run(function(page, "_look"), [LOOK]),
    ],
    ids=["call", "conversation", "assistant", "page", "inspect"],
)
def test_the_first_sound_counts_from_the_call_on(ask: Callable[[app.Page, Visitor], object]):
    model, name = FakeModel(num_frames=10, frame_seconds=0.05), "westlake_first_sound_seconds_sum"
    all_called = threading.Event()
    model.on_frame = lambda frame: frame == 1 or all_called.wait(60)
    with served(model, Limits(max_replies=1), made={"mcp": True}) as (page, url):
        visitors = [Visitor(url) for _ in range(3)]
        before = figure(figures(visitors[0]), name)
        with ThreadPoolExecutor(3) as pool:
            asked = pool.map(partial(ask, page), visitors)
            wait_until(lambda: page.calls.num_replies == 3)
            all_called.set()
            list(asked)
        more = figure(figures(visitors[0]), name) - before
    assert more >= 1.2, "each waits for the replies before it: else these were 0.15 s"


def test_metrics_are_for_this_machine_alone():
    with served(FakeModel(), is_host=lambda name: True) as (_, url):
        visitor = Visitor(url)
        assert visitor.get("/metrics")[0] == 200
        for header in ("X_Forwarded_For", "Forwarded", "X_Real_IP", "Host"):
            assert visitor.get("/metrics", **{header: "example.org"})[0] == 404
        assert visitor.get("/healthz", X_Forwarded_For="192.0.2.1")[0] == 200
    page = app.Page(FakeModel(), public_metrics=True)
    url = page.launch(lambda name: True, quiet=True)
    assert Visitor(url).get("/metrics", Host="example.org")[0] == 200
    page.close()


def test_who_asks_too_often_waits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rate, "time", SimpleNamespace(monotonic=lambda: 100.0))
    limits = Limits(user_requests=3, address_requests=8)
    with served(FakeModel(), limits) as (_, url):
        often = Visitor(url)
        assert [often.call([None, "你好"])[0] for _ in range(3)] == [200] * 3
        response = often.open("POST", f"{API}/call/speak", json.dumps({"data": [None, "你好"]}))
        assert response.status == 429 and 1 <= int(response.headers["retry-after"]) <= 20
        detail = json.loads(response.read())["detail"]
        wait = int(response.headers["retry-after"])
        assert detail == say("error_requests", "en", limit=3, seconds=wait)
        assert often.get("/config")[0] == 200  # looking costs nothing
        others = [Visitor(url).call([None, "你好"])[0] for _ in range(6)]
        assert others == [200] * 4 + [429] * 2  # made-up users share their address' room


def test_a_rate_lets_through_as_many_as_it_says(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(rate.time, "monotonic", lambda: now[0])
    limit = Rate(6)
    assert [limit.take("a") for _ in range(7)] == [0] * 6 + [pytest.approx(10)]
    assert limit.take("b") == 0
    now[0] += 10
    assert limit.take("a") == 0 and limit.take("a") > 0
    now[0] += 1e9
    assert [bool(limit.take("a")) for _ in range(7)] == [False] * 6 + [True]
    for number in range(2 * rate.MAX_KEYS):
        limit.take(str(number))
    assert len(limit._left) == rate.MAX_KEYS


def test_only_who_has_a_password_comes_in(tmp_path: Path):
    page = app.Page(FakeModel(), users={"lì": "geheim:1", "b": "x"})
    url = page.launch(quiet=True)
    stranger = Visitor(url)
    for path in ("/", "/config", "/metrics", f"{API}/info", "/here", "/assets/a.js"):
        assert stranger.get(path)[0] == 401, path
    for door in ("upload", "call/speak", "queue/join", "cancel", "reset"):
        assert stranger.post(f"{API}/{door}", {"data": [None, "你好"]})[0] == 401
    assert stranger.open("GET", "/").headers["www-authenticate"].startswith("Basic ")
    assert stranger.get("/healthz")[0] == 200
    client = Client(url, verbose=False, headers={"Authorization": basic("lì", "geheim:1")})
    assert client.predict(None, "你好", api_name="/speak")[1]
    for _ in range(10):
        assert stranger.get("/", Authorization=basic("b", "wrong"))[0] == 401
    assert stranger.get("/", Authorization=basic("b", "x"))[0] == 429
    assert stranger.get("/")[0] == 401
    page.close()


def test_users_are_read_from_a_file_or_a_variable(tmp_path: Path):
    file = tmp_path / "users"
    file.write_text("# who\na:b\n\n lì:c:d \n", encoding="utf-8")
    assert read_users(str(file)) == {"a": "b", "lì": "c:d"}
    assert read_users("a:b,c:d") == {"a": "b", "c": "d"}
    assert read_users("") == read_users(None) == {}
    many = {f"user{number}": f"password{number}" for number in range(20)}
    assert read_users(",".join(map(":".join, many.items()))) == many
    file.write_text("a:b\n", encoding="utf-8-sig")
    assert read_users(str(file)) == {"a": "b"}
    file.write_text("a:b,c:d\n")  # one user, whose password has a comma
    assert read_users(str(file)) == {"a": "b,c:d"}
    for wrong in ("nowhere/passwords.txt", "name:", ":secret", "a:b,secret", ",", "# a:b"):
        with pytest.raises(ValueError, match="name:password") as refusal:
            read_users(wrong)
        assert "secret" not in str(refusal.value)
    file.write_bytes(b"\xff\xfe:\xff")
    with pytest.raises(ValueError, match="can't be read"):
        read_users(str(file))


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic !", "Bearer YTpi", "Basic YTo=", "Basic YQ==", "Basic /w==", "Basic Ojo="],
)
def test_what_is_no_login(header: str):
    assert user_of(header, {"a": "b"}) is None


def test_what_is_a_login():
    assert user_of("basic YTpi", {"a": "b"}) == "a"


def test_all_addresses_of_a_network_are_one():
    """Who has one address of IPv6 has as many as they like."""

    async def inner(scope, receive, send) -> None:
        await Response("in")(scope, receive, send)

    limits = Limits(address_requests=2)
    entrance = Entrance(inner, limits=limits, users=None, health=dict, public_metrics=False)

    def status(address: str) -> int:
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        asyncio.run(entrance(scope | {"client": (address, 1)}, None, send))
        return sent[0]["status"]

    addresses = [f"2001:db8::{number}" for number in range(3)]
    assert [status(address) for address in addresses] == [200, 200, 429]
    assert status("2001:db8:0:1::") == 200
    others = [f"::ffff:192.0.2.{number}" for number in range(3)]
    assert [status(address) for address in [*others, "192.0.2.1", ""]] == [200] * 5


def test_what_a_tab_tells_is_counted():
    with served(FakeModel()) as (page, url):
        visitor = Visitor(url)
        before = figures(visitor)
        for name in ("_tests_results", "_look"):
            visitor.run(function(page, name), ["{}"])
        after = figures(visitor)
    for code in ("error_test_key", "error_nothing_to_inspect"):
        name = f'westlake_errors_total{{kind="{code}"}}'
        assert figure(after, name) - figure(before, name) == 1


def test_tests_that_wait_to_be_built_stop_nothing_else(monkeypatch: pytest.MonkeyPatch):
    with served(FakeModel(), Limits(max_waiting=2)) as (page, url):
        visitor, build = Visitor(url), function(page, "_tests_build")
        waiting = [page.demo.fns[build]] * 2
        monkeypatch.setattr(page.calls, "_waiting", lambda: waiting)
        assert visitor.join(build, ["{}"])[0] == 503
        waiting *= 200
        assert visitor.join(function(page, "_tests_stop"), ["{}"])[0] == 200
        assert visitor.join(function(page, "answer"), written("你好"))[0] == 200
