"""Strangers at the page's server: which paths, sessions and addresses are open to them."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import soundfile
import uvicorn
from fake_model import FakeModel
from gradio.queueing import Queue
from page_client import API, Visitor, function, served
from strangers import FOREIGN, LIMITS, SETTINGS, file_of, wait_until, wav, written

import app
from page import words
from page.server import LOOPBACK


def foreign_paths(folder: Path, other: str) -> list[object]:
    (folder / "secret.wav").write_bytes(wav())
    (folder / "link.wav").symlink_to(folder / "secret.wav")
    here = Path(other).parent
    names = [
        folder / "secret.wav",
        folder / "link.wav",
        folder / "gone.wav",
        "/etc/passwd",
        "/proc/self/environ",
        f"file://{folder}/secret.wav",
        "http://127.0.0.1:1/secret.wav",
        f"{here}/../../../../{folder}/secret.wav",
        other,
        f"{here}/./{Path(other).name}",
        "",
        "speech\0.wav",
        "x" * 5000,
    ]
    return [*map(str, names), None, 5, ["a"], {"path": "/etc/passwd"}]


def test_a_path_is_one_of_the_visitors_own_uploads(url: str, page: app.Page, tmp_path: Path):
    other = Visitor(url).upload_path(wav())
    visitor = Visitor(url)
    answers = set()
    for path in foreign_paths(tmp_path, other):
        for file in (
            {"path": path},
            file_of(path),
            {"path": path, "url": "http://127.0.0.1:1/a.wav", "meta": {"_type": "gradio.FileData"}},
        ):
            answers.add(visitor.call([file, ""]))
            answers.add(
                visitor.join(function(page, "answer"), [{"text": "", "audio": file}, *SETTINGS])
            )
            answers.add(visitor.join(function(page, "prepare"), [{"audio": file, "alone": True}]))
            answers.add(visitor.join(function(page, "load"), [{"file": file}]))
    answers.add(visitor.call([{"url": "http://127.0.0.1:1/a.wav"}, ""]))
    assert answers == {(403, json.dumps({"detail": FOREIGN}, separators=(",", ":")))}
    own = visitor.upload_path(wav())
    assert "event: complete" in visitor.call([file_of(own), ""])[1]
    assert "event: complete" in visitor.call([{"path": own}, "你好"])[1]


def test_an_upload_belongs_to_who_brought_it(url: str):
    path = Visitor(url).upload_path(wav())
    for stranger in (Visitor(url), Visitor(url, name="")):
        assert stranger.call([file_of(path), ""])[0] == 403


def test_only_files_of_the_page_are_served(url: str, page: app.Page, tmp_path: Path):
    visitor = Visitor(url)
    path = visitor.upload_path(wav())
    assert visitor.get(f"{API}/file={quote(path)}")[0] == 200
    for foreign in foreign_paths(tmp_path, f"{path}x"):
        if isinstance(foreign, str):
            assert visitor.get(f"{API}/file={quote(foreign)}")[0] == 404
    folder = page.files.folder
    for name in ("", "/.lock", "/../"):
        assert visitor.get(f"{API}/file={quote(f'{folder}{name}')}")[0] == 404
    example = Path(app.EXAMPLE_FOLDER, "1-bad-mood.wav")
    assert visitor.get(f"{API}/file={quote(str(example))}")[0] == 200
    assert visitor.get(f"{API}/file={quote(str(example.parent.parent / 'app.py'))}")[0] == 404


def test_a_page_that_nobody_asks_is_at_rest(page: app.Page, monkeypatch):
    looks = 0
    length = Queue.__len__

    def counted(queue: Queue) -> int:
        nonlocal looks
        looks += queue is page.demo._queue
        return length(queue)

    monkeypatch.setattr(Queue, "__len__", counted)
    time.sleep(0.5)
    assert 0 < looks <= 110  # at most 200 a second


@pytest.mark.parametrize("name", ["answer", "reset", "stop", "open_microphone", "restore", "speak"])
def test_there_is_no_way_past_the_queue(url: str, page: app.Page, model: FakeModel, name: str):
    visitor = Visitor(url)
    index = function(page, name)
    data = {"answer": written("你好"), "speak": [None, "你好"], "restore": []}.get(name, [{}])
    body = {"data": data, "fn_index": index, "session_hash": visitor.session}
    for path in ("run/predict", "api/predict", f"run/{name}", f"api/{name}", "run/predict/"):
        assert visitor.post(f"{API}/{path}", body)[0] == 404
    if name != "speak":
        for path in (f"call/{name}", f"call/{name.strip('_')}", f"call/v2/{name}"):
            assert visitor.post(f"{API}/{path}", body)[0] == 404
    assert model.num_replies == 0


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring",
        f"{API}/heartbeat/a",
        "/monitoring/summary",
        f"{API}/proxy=http://127.0.0.1:1/",
        f"{API}/file/etc/passwd",
        f"{API}/runs",
        f"{API}/deep_link?session_hash=a",
        f"{API}/dev/reload",
        f"{API}/vibe-code",
        f"{API}/profiling/summary",
        f"{API}/custom_component/1/client/component/index.js",
        "/docs",
        "/logout",
        f"{API}/mcp/",
    ],
)
def test_other_doors_of_gradio_are_closed(url: str, path: str):
    assert Visitor(url).get(path)[0] == 404
    assert Visitor(url).post(path, {})[0] == 404


def test_closed_methods_and_components(url: str):
    visitor = Visitor(url)
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert visitor.open(method, f"{API}/queue/join").status in (404, 405)
    for path in ("component_server", "process_recording", "vibe-edit", "login"):
        assert visitor.post(f"{API}/{path}", {"data": []})[0] == 404


def test_a_session_of_another_visitor_can_not_be_reached(url: str, page: app.Page):
    victim = Visitor(url)
    assert victim.run(function(page, "answer"), written("秘密"))["success"]
    for name in ("", "stranger"):
        stranger = Visitor(url, name=name, session=victim.session)
        restored = stranger.run(function(page, "restore"), [])
        assert "秘密" not in json.dumps(restored, ensure_ascii=False)
        stranger.run(function(page, "reset"), [{}])
    restored = json.loads(victim.run(function(page, "restore"), [])["output"]["data"][0])
    assert [turn["user"]["text"] for turn in restored["turns"]] == ["秘密"]


def test_a_running_reply_of_another_visitor_can_not_be_stopped(
    url: str, page: app.Page, model: FakeModel
):
    model.num_frames, model.frame_seconds = 20, 0.05
    victim = Visitor(url)
    index = function(page, "answer")
    event = json.loads(victim.join(index, written("你好"))[1])["event_id"]
    stranger = Visitor(url, session=victim.session)
    body = {"session_hash": victim.session, "fn_index": index, "event_id": event}
    assert stranger.post(f"{API}/cancel", body)[0] == 404
    assert stranger.post(f"{API}/stream/{event}", {"data": [None]})[0] == 404
    last = list(victim.events())[-2]
    assert last["success"] and page.sessions.limiter is not None
    assert model.num_replies == 1 and model.num_running == 0


@pytest.mark.parametrize("session", ["", "a b", "../x", "a" * 200, "x<gradio-sep>y", 5, None])
def test_names_of_sessions_are_plain(url: str, page: app.Page, session: object):
    body = {"data": [], "fn_index": function(page, "restore"), "session_hash": session}
    assert Visitor(url).post(f"{API}/queue/join", body)[0] == 400


def test_who_has_the_page_open_keeps_the_conversation(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    visitor = Visitor(url)
    assert visitor.get("/here") == (204, "")
    assert visitor.run(function(page, "answer"), written("第一句"))["success"]
    for _ in range(LIMITS.max_sessions + 1):
        Visitor(url).run(function(page, "answer"), written("你好"))
    time.sleep(1.5 * LIMITS.linger_seconds)
    again = Visitor(url, name=visitor.name)  # the page was loaded again in the same tab
    restored = again.run(function(page, "restore"), [])["output"]["data"][0]
    assert "第一句" in json.loads(restored)["turns"][0]["user"]["text"]
    assert len(page.sessions._seen) == 1
    monkeypatch.setattr("page.sessions.HERE_SECONDS", 0.1)
    wait_until(lambda: len(page.sessions) == 0 and not page.sessions._seen)


def test_an_open_page_holds_no_connection():
    with served(FakeModel(), dataclasses.replace(LIMITS, address_connections=4)) as (_, url):
        tabs = [Visitor(url).open("GET", "/here") for _ in range(12)]
        assert [tab.status for tab in tabs] == [204] * 12
        assert {tab.headers["cache-control"] for tab in tabs} == {"no-store"}
        config = json.loads(Visitor(url).get("/config")[1])
        assert not config["connect_heartbeat"]  # else Gradio's clients would


def test_a_short_break_of_the_connection_ends_nothing(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 100, 0.02
    visitor = Visitor(url)
    visitor.get("/here")
    for _ in range(2):
        visitor.join(function(page, "answer"), written("你好"))
        with visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}") as stream:
            wait_until(lambda: model.num_running == 1)
            stream.read(10)
        wait_until(lambda: model.num_running == 0)
    restored = visitor.run(function(page, "restore"), [])["output"]["data"][0]
    assert len(json.loads(restored)["turns"]) == 2


def test_the_files_of_an_api_reply_take_twice_its_size(url: str, page: app.Page, model: FakeModel):
    model.num_frames = 50
    before = set(page.files.folder.iterdir())
    answer = Visitor(url).call([None, "你好"])[1]
    paths = list(map(Path, dict.fromkeys(re.findall(r'"path": "([^"]+)"', answer))))
    frames = [soundfile.info(path).frames * 20 // 16_000 for path in paths]
    assert frames == [1, 2, 4, 8, 16, 32, 50]  # one each time that it has doubled, and all of it
    assert {path.parent for path in paths} == set(page.files.folder.iterdir()) - before
    assert all(len(list(path.parent.iterdir())) == 1 for path in paths)


def test_only_names_of_this_machine_are_answered(url: str):
    port = urlsplit(url).port
    for host in ("127.0.0.1", "localhost", f"localhost:{port}", "[::1]:80", "LOCALHOST"):
        assert Visitor(url).get("/config", Host=host)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.", "10.0.0.1"):
        assert Visitor(url).get("/config", Host=host)[0] == 421
        assert Visitor(url).post(f"{API}/call/speak", {"data": []}, Host=host)[0] == 421


def test_pages_of_other_sites_can_not_speak_with_it(url: str, page: app.Page):
    port = urlsplit(url).port
    visitor, data = Visitor(url), json.dumps({"data": [None, "你好"]}).encode()
    foreign = (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "cross-site", "Origin": f"http://localhost:{port}"},
        {"Origin": "https://evil.example"},
        {"Origin": f"http://127.0.0.1.evil.example:{port}"},
        {"Origin": "null"},
    )
    for headers in foreign:
        for path in ("call/speak", "queue/join", "upload", "cancel", "reset"):
            headers = {"Content_Type": "text/plain", **headers}
            answer = visitor.open("POST", f"{API}/{path}", data, **headers)
            assert answer.status == 403
    own = (
        {},
        {"Origin": url.rstrip("/"), "Sec_Fetch_Site": "same-origin"},
        {"Origin": f"http://localhost:{port}", "Sec_Fetch_Site": "same-site"},
        {"Origin": f"http://[::1]:{port}"},
    )
    for headers in own:
        body = {"data": [None, "你好"]}
        assert visitor.post(f"{API}/call/speak", body, **headers)[0] == 200
    assert visitor.get("/config", Sec_Fetch_Site="cross-site")[0] == 200  # a link leads here
    wait_until(lambda: page.calls.num_waiting == 0)


def test_all_holds_at_a_server_of_somebody_elses(tmp_path: Path):
    page = app.Page(FakeModel())
    server = uvicorn.Server(
        uvicorn.Config(page.asgi(LOOPBACK.__contains__), port=0, log_level="warning")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        visitor = Visitor(f"http://127.0.0.1:{port}/")
        assert visitor.run(function(page, "answer"), written("你好"))["success"]
        assert "event: complete" in visitor.call([None, "你好"])[1]
        assert json.loads(visitor.get("/healthz")[1])["ready"]
        (tmp_path / "secret.wav").write_bytes(wav())
        assert visitor.call([{"path": str(tmp_path / "secret.wav")}, ""])[0] == 403
        assert visitor.get("/config", Host="evil.example")[0] == 421
        assert visitor.get("/monitoring")[0] == 404
    finally:
        server.should_exit = True
        thread.join(30)
        page.close()
    assert not thread.is_alive()


def test_the_page_is_as_long_as_its_head_says_and_a_script_comes_first(url: str):
    visitor = Visitor(url)
    asked, got = (visitor.open(method, "/") for method in ("HEAD", "GET"))
    body = got.read()
    assert int(asked.headers["content-length"]) == int(got.headers["content-length"]) == len(body)
    assert body.partition(b"<script")[2].startswith(f">{words.asset('first.js')}</script>".encode())


def test_it_is_served_below_a_path_whether_a_proxy_strips_it_or_not():
    with served(FakeModel(), root_path="/talk") as (page, address):
        visitor, index = Visitor(address), function(page, "answer")
        for root in ("", "/talk"):
            assert visitor.get(f"{root}/config")[0] == 200
            assert visitor.get(f"{root}/here")[0] == 204
            assert visitor.get(f"{root}/monitoring")[0] == 404
            body = {"data": written("你好"), "fn_index": index, "session_hash": visitor.session}
            assert visitor.post(f"{root}{API}/queue/join", body)[0] == 200
            stream = f"{root}{API}/queue/data?session_hash={visitor.session}"
            assert "process_completed" in visitor.get(stream)[1]
            foreign = {**body, "data": [{"audio": {"path": "/etc/passwd"}}, *SETTINGS]}
            assert visitor.post(f"{root}{API}/queue/join", foreign)[0] == 403
            assert visitor.post(f"{root}{API}/run/predict", body)[0] == 404
        (session,) = page.sessions._sessions.values()
        assert len(session.turns) == 2
        assert visitor.get(f"/talk{API}/file={session.turns[0].reply_audio}")[0] == 200
