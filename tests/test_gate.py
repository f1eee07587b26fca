"""Strangers at the page's server: what they ask for by hand, and what they get."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import soundfile
from fake_model import FakeModel
from gradio.routes import file_upload_statuses
from page_client import API, Visitor, function, served

import app
from page.gate import _with_place
from page.limits import Limits
from strings import say

SETTINGS = ["", 5, 0.7, -1]  # style, seconds, temperature, seed
FOREIGN = say("error_foreign_file", "en")
LIMITS = Limits(
    max_request_bytes=64 * 1024,
    max_upload_bytes=1024 * 1024,
    max_user_bytes=2 * 1024 * 1024,
    max_total_bytes=4 * 1024 * 1024,
    max_text_characters=100,
    receive_seconds=2,
    linger_seconds=3,
    wait_seconds=2,
    silent_seconds=1,
    max_waiting=4,
    max_replies=2,
    max_sessions=4,
)


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(scope="module")
def ours(model: FakeModel) -> Iterator[tuple[app.Page, str]]:
    with served(model, LIMITS) as page:
        yield page


@pytest.fixture
def page(ours: tuple[app.Page, str], model: FakeModel) -> Iterator[app.Page]:
    yield ours[0]
    model.__init__()  # hooks and pace as they were


@pytest.fixture
def url(page: app.Page, ours: tuple[app.Page, str]) -> str:
    return ours[1]


def wav(seconds: float = 0.5) -> bytes:
    """Bursts of noise, which count as speech."""
    samples = np.random.default_rng(0).integers(-6000, 6000, int(16_000 * seconds))
    samples[np.arange(len(samples)) % 4000 > 2500] = 0
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.int16), 16_000, format="WAV")
    return file.getvalue()


def file_of(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def written(text: str) -> list:
    return ["written", None, text, *SETTINGS]


def wait_until(condition) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came true")


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
            answers.add(visitor.join(function(page, "_answer"), ["speech", file, "", *SETTINGS]))
            answers.add(visitor.join(function(page, "_prepare"), ["speech", file]))
            answers.add(visitor.join(function(page, "_hear"), [file]))
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


@pytest.mark.parametrize("name", ["_answer", "_reset", "_stop", "_listen", "_restore", "speak"])
def test_there_is_no_way_past_the_queue(url: str, page: app.Page, model: FakeModel, name: str):
    visitor = Visitor(url)
    index = function(page, name)
    data = {"_answer": written("你好"), "speak": [None, "你好"]}.get(name, [])
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
    assert victim.run(function(page, "_answer"), written("秘密"))["success"]
    for name in ("", "stranger"):
        stranger = Visitor(url, name=name, session=victim.session)
        restored = stranger.run(function(page, "_restore"), [])
        assert "秘密" not in json.dumps(restored, ensure_ascii=False)
        stranger.run(function(page, "_reset"), [])
    restored = json.loads(victim.run(function(page, "_restore"), [])["output"]["data"][0])
    assert [turn["user"]["text"] for turn in restored["turns"]] == ["秘密"]


def test_a_running_reply_of_another_visitor_can_not_be_stopped(
    url: str, page: app.Page, model: FakeModel
):
    model.num_frames, model.frame_seconds = 20, 0.05
    victim = Visitor(url)
    index = function(page, "_answer")
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
    body = {"data": [], "fn_index": function(page, "_restore"), "session_hash": session}
    assert Visitor(url).post(f"{API}/queue/join", body)[0] == 400


def test_made_up_sessions_cost_nothing(url: str, page: app.Page):
    wait_until(lambda: len(page.sessions) == 0)
    before = threading.active_count()
    for name in ("_stop", "_reset", "_listen", "_restore"):
        for _ in range(10):
            Visitor(url).join(function(page, name), [])
    for _ in range(5):
        Visitor(url).run(function(page, "_answer"), written("  "))
        Visitor(url).run(function(page, "_answer"), ["speech", None, "", *SETTINGS])
    assert len(page.sessions) == 0
    assert threading.active_count() < before + 20  # of the server's pool


def test_the_number_of_conversations_is_capped_and_they_end(url: str, page: app.Page):
    for _ in range(LIMITS.max_sessions + 3):
        assert Visitor(url).run(function(page, "_answer"), written("你好"))["success"]
        assert len(page.sessions) <= LIMITS.max_sessions
    wait_until(lambda: len(page.sessions) == 0)


def test_who_is_connected_keeps_the_conversation(url: str, page: app.Page):
    visitor = Visitor(url)
    heartbeat = visitor.open("GET", f"{API}/heartbeat/{visitor.session}")
    assert visitor.run(function(page, "_answer"), written("第一句"))["success"]
    for _ in range(LIMITS.max_sessions + 1):
        Visitor(url).run(function(page, "_answer"), written("你好"))
    time.sleep(1.5 * LIMITS.linger_seconds)
    again = Visitor(url, name=visitor.name)  # the page was loaded again in the same tab
    restored = again.run(function(page, "_restore"), [])["output"]["data"][0]
    assert "第一句" in json.loads(restored)["turns"][0]["user"]["text"]
    heartbeat.close()
    wait_until(lambda: len(page.sessions) == 0)


def test_a_short_break_of_the_connection_ends_nothing(url: str, page: app.Page):
    visitor = Visitor(url)
    for _ in range(2):
        heartbeat = visitor.open("GET", f"{API}/heartbeat/{visitor.session}")
        visitor.run(function(page, "_answer"), written("你好"))
        heartbeat.close()
    restored = visitor.run(function(page, "_restore"), [])["output"]["data"][0]
    assert len(json.loads(restored)["turns"]) == 2


def test_no_more_replies_at_once_than_allowed(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 20, 0.05
    index = function(page, "_answer")

    def ask(number: int) -> bool:
        visitor = Visitor(url)
        if number % 2:
            return visitor.call([None, "你好"])[0] == 200
        return visitor.join(index, written("你好"))[0] == 200 and bool(list(visitor.events()))

    with ThreadPoolExecutor(20) as pool:
        answered = list(pool.map(ask, range(20)))
    assert model.most_running <= LIMITS.max_replies
    assert 0 < sum(answered) < 20  # the others were told that the server is busy


def test_a_full_queue_is_told(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 40, 0.05
    visitors = [Visitor(url) for _ in range(LIMITS.max_replies + LIMITS.max_waiting)]
    index = function(page, "_answer")
    streams = []
    for visitor in visitors:
        assert visitor.join(index, written("你好"))[0] == 200
        streams.append(visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}"))
        time.sleep(0.05)
    status, answer = Visitor(url).join(index, written("你好"))
    assert (status, json.loads(answer)["detail"]) == (503, say("error_busy", "en"))
    late = Visitor(url)
    assert late.run(function(page, "_restore"), [])["success"]  # what costs nothing goes on
    for stream in streams:
        stream.close()
    wait_until(lambda: page.calls.num_waiting == 0 and model.num_running == 0)


def test_calls_at_the_same_moment_do_not_pass_the_limit(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    gate, index = threading.Event(), function(page, "_answer")
    monkeypatch.setattr(page.readers, "is_read", lambda session: gate.wait(60) and False)
    together = threading.Barrier(40)

    def ask(number: int) -> int:
        visitor = Visitor(url)
        together.wait(60)
        if number % 2:
            return visitor.join(index, written("你好"))[0]
        return visitor.post(f"{API}/call/speak", {"data": [None, "你好"]})[0]

    try:
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, range(40)))
        assert set(answers) == {200, 503}
        assert answers.count(200) <= LIMITS.max_replies + LIMITS.max_waiting
    finally:
        gate.set()
    wait_until(lambda: page.calls.num_waiting == 0)


def test_microphones_at_the_same_moment_do_not_pass_the_limit(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    opened = []

    def open_microphone(_: int) -> int:
        visitor, piece = Visitor(url), [None]
        together.wait(60)
        status, answer = visitor.join(function(page, "_hear"), piece)
        if status == 200:
            opened.append((visitor, json.loads(answer)["event_id"]))
        return status

    together = threading.Barrier(40)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(open_microphone, range(40)))
    for visitor, event in opened:
        visitor.post(f"{API}/stream/{event}/close", {})
    assert set(answers) == {200, 503}
    assert answers.count(200) <= LIMITS.max_microphones


def test_a_caller_of_the_api_learns_its_place(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 20, 0.05
    places, streams = [], []
    for _ in range(LIMITS.max_replies + 2):
        visitor = Visitor(url)
        answer = json.loads(visitor.post(f"{API}/call/speak", {"data": [None, "你好"]})[1])
        places.append(answer["place"])
        streams.append(visitor.open("GET", f"{API}/call/speak/{answer['event_id']}"))
        time.sleep(0.2)
    assert places == [0, 0, 0, 1]
    for stream in streams:
        stream.close()
    wait_until(lambda: page.calls.num_waiting == 0 and model.num_running == 0)


def test_a_reply_that_nobody_reads_is_not_made(url: str, page: app.Page, model: FakeModel):
    for _ in range(3):
        visitor = Visitor(url)
        assert visitor.post(f"{API}/call/speak", {"data": [None, "你好"]})[0] == 200
        assert visitor.join(function(page, "_answer"), written("你好"))[0] == 200
    wait_until(lambda: page.calls.num_waiting == 0)
    time.sleep(0.5)
    assert model.num_replies == 0


def test_a_reply_stops_when_its_reader_leaves(url: str, page: app.Page, model: FakeModel):
    model.num_frames, model.frame_seconds = 400, 0.02
    visitor = Visitor(url)
    visitor.join(function(page, "_answer"), written("你好"))
    stream = visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}")
    wait_until(lambda: model.num_running == 1)
    stream.close()
    wait_until(lambda: model.num_running == 0)


def test_no_number_of_waiting_calls_stops_the_server(url: str, page: app.Page, model: FakeModel):
    """An open microphone has the floor; others want it from everywhere at once."""
    visitor = Visitor(url)
    hear, listen = function(page, "_hear"), function(page, "_listen")
    visitor.run(listen, [])
    path = visitor.upload_path(wav())
    visitor.join(hear, [file_of(path)])
    wait_until(lambda: len(page.sessions) == 1)
    for name in ("_stop", "_reset"):
        with ThreadPoolExecutor(30) as pool:
            joined = list(
                pool.map(
                    lambda _: visitor.join(function(page, name), [])[0],  # noqa: B023
                    range(60),
                )
            )
        assert set(joined) <= {200, 503}
    other = Visitor(url)
    assert other.run(function(page, "_answer"), written("你好"))["success"]


def test_a_silent_microphone_gives_the_floor_back(url: str, page: app.Page):
    wait_until(lambda: len(page.sessions) == 0)
    visitor = Visitor(url)
    visitor.run(function(page, "_listen"), [])
    visitor.join(function(page, "_hear"), [file_of(visitor.upload_path(wav()))])
    wait_until(lambda: len(page.sessions) == 1)
    (session,) = page.sessions._sessions.values()
    wait_until(lambda: session.is_busy)
    wait_until(lambda: not session.is_busy)


def test_the_end_of_a_microphones_room_is_said_and_what_was_heard_is_answered(
    url: str, page: app.Page, model: FakeModel
):
    model.max_input_seconds = 8
    visitor = Visitor(url)
    visitor.run(function(page, "_listen"), [])
    hear = function(page, "_hear")
    piece = [file_of(visitor.upload_path(wav(2)))]
    event = json.loads(visitor.join(hear, piece)[1])["event_id"]
    with ThreadPoolExecutor(1) as pool:
        messages = pool.submit(lambda: json.dumps(list(visitor.events()), ensure_ascii=False))
        for _ in range(10):
            piece = [file_of(visitor.upload_path(wav(2)))]
            assert visitor.post(f"{API}/stream/{event}", {"data": piece})[0] == 200
            time.sleep(0.3)
        visitor.post(f"{API}/stream/{event}/close", {})
        said = messages.result(20)
    assert re.search(r"还剩 \d 秒", said) and "它会回答已经听到的内容" in said
    assert visitor.run(function(page, "_answer_heard"), SETTINGS)["success"]
    restored = visitor.run(function(page, "_restore"), [])["output"]["data"][0]
    (turn,) = json.loads(restored)["turns"]
    assert 6 < turn["user"]["seconds"] <= 8 and turn["reply"]["sound"]


def test_large_requests_are_refused_unread(url: str, page: app.Page):
    visitor, before = Visitor(url), set(page.files.folder.glob("*/*"))
    index = function(page, "_answer")
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
        json.dumps(visitor.run(function(page, "_answer"), written(text))),
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
        ([], "list of: audio, text"),
        ([None], "list of: audio, text"),
        ([None, "a", 5], "list of: audio, text"),
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
        answer = Visitor(url).run(function(page, "_answer"), ["written", None, "你好", *settings])
        assert not answer["success"]
        assert say("error_internal", "zh") not in json.dumps(answer, ensure_ascii=False)
    assert model.num_replies == 0


def test_an_exception_ends_in_a_plain_message(url: str, page: app.Page, model: FakeModel, capfd):
    def fail(frame: int) -> None:
        if frame == 2:
            raise MemoryError("机密 /home/someone")

    model.on_frame = fail
    visitor = Visitor(url)
    answer = visitor.call([None, "机密"])[1]
    assert "event: error" in answer and say("error_internal", "en") in answer
    messages = []
    visitor.join(function(page, "_answer"), written("机密"))
    messages = list(visitor.events())
    last = messages[-2]
    assert not last["success"] and say("error_internal", "zh") in last["output"]["error"]
    status = [m["output"]["data"][2] for m in messages if m["msg"] == "process_generating"][-1]
    assert status in ("", [["replace", [], ""]])  # nothing says "generating" any more
    assert "机密" not in "".join(capfd.readouterr())
    model.on_frame = lambda frame: None
    assert visitor.run(function(page, "_answer"), written("再来"))["success"]


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


def test_who_comes_too_late_for_an_answer_is_told(
    url: str, page: app.Page, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page.readers, "is_read", lambda session: False)
    told = Visitor(url).call([None, "你好"])[1]
    assert "event: error" in told and "call again and read it at once" in told


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


@pytest.mark.parametrize(
    ("status", "kind", "pieces", "sent"),
    [
        (200, b"application/json", [b'{"event_id"', b': "a"}'], b'{"event_id": "a", "place": 3}'),
        (200, b"text/plain", [b"a", b"b"], b"ab"),
        (503, b"application/json", [b'["full"]'], b'["full"]'),
    ],
)
def test_only_an_answer_to_a_call_gets_a_place(
    status: int, kind: bytes, pieces: list[bytes], sent: bytes
):
    messages = []

    async def send(message: dict) -> None:
        messages.append(message)

    async def answer() -> None:
        to = _with_place(send, 3)
        headers = [(b"content-type", kind), (b"content-length", b"0")]
        await to({"type": "http.response.start", "status": status, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            more = number < len(pieces)
            await to({"type": "http.response.body", "body": piece, "more_body": more})

    asyncio.run(answer())
    assert messages[0]["status"] == status
    assert b"".join(message["body"] for message in messages[1:]) == sent


def test_refusals_speak_the_browsers_language(url: str):
    answer = Visitor(url).get("/nothing", Accept_Language="zh-CN,zh;q=0.9")[1]
    assert json.loads(answer)["detail"] == say("error_no_such_page", "zh")


def test_it_is_served_below_a_path_whether_a_proxy_strips_it_or_not():
    with served(FakeModel(), root_path="/talk") as (page, address):
        visitor, index = Visitor(address), function(page, "_answer")
        for root in ("", "/talk"):
            assert visitor.get(f"{root}/config")[0] == 200
            assert visitor.get(f"{root}/monitoring")[0] == 404
            body = {"data": written("你好"), "fn_index": index, "session_hash": visitor.session}
            assert visitor.post(f"{root}{API}/queue/join", body)[0] == 200
            stream = f"{root}{API}/queue/data?session_hash={visitor.session}"
            assert "process_completed" in visitor.get(stream)[1]
            foreign = {**body, "data": ["speech", {"path": "/etc/passwd"}, "", *SETTINGS]}
            assert visitor.post(f"{root}{API}/queue/join", foreign)[0] == 403
            assert visitor.post(f"{root}{API}/run/predict", body)[0] == 404
        (session,) = page.sessions._sessions.values()
        assert len(session.turns) == 2
        assert visitor.get(f"/talk{API}/file={session.turns[0].reply_audio}")[0] == 200
