"""What strangers try on the running page: calls, bodies, bombs, ways to its files, and leaving."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import soundfile
from page_client import API, Visitor, asked_tool

SETTINGS = ["", 1, 0.7, 0.7, 1.2, -1]
MIB = 1 << 20


@dataclass
class Server:
    """The page in a process of its own, and what can be seen of it from outside."""

    process: subprocess.Popen
    url: str
    folder: Path
    events: dict[str, int]

    @property
    def num_threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    @property
    def memory(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def files(self) -> list[Path]:
        """What visitors left: not the locks, nor what is kept beside the page's own folder."""
        # os.walk passes over folders that go meanwhile, as pathlib's glob does not.
        walks = map(os.walk, self.folder.glob("westlake-omni-*"))
        found = ((folder, name) for walk in walks for folder, _, names in walk for name in names)
        return [Path(folder, name) for folder, name in found if name != ".lock"]

    @property
    def seconds_worked(self) -> float:
        """Of all processors, which tests beside this one change little."""
        times = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def turn(self) -> float:
        """The seconds that the server works for a real user's turn."""
        before, visitor = self.seconds_worked, Visitor(self.url, timeout=120)
        assert visitor.run(self.events["answer"], written("你好"))["success"]
        return self.seconds_worked - before


def written(text: str) -> list:
    return [{"text": text, "audio": None}, *SETTINGS]


def speech() -> bytes:
    samples = np.random.default_rng(0).integers(-6000, 6000, 16_000)
    samples[np.arange(len(samples)) % 4000 > 2500] = 0
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.int16), 16_000, format="WAV")
    return file.getvalue()


def bomb() -> bytes:
    """A small flac of 60 s, eight channels and 192 kHz: 92 million samples."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 192_000, 8, format="FLAC") as writer:
        for _ in range(60):
            writer.write(np.zeros((192_000, 8), np.int16))
    return file.getvalue()


def stranger(server: Server) -> Visitor:
    return Visitor(server.url, timeout=5)


def private_calls(server: Server) -> list[Callable[[], object]]:
    data = {
        "answer": written(" "),
        "restore": [],
        "hear": [{"number": 0, "rate": 8000, "pcm": "AA"}],
    }
    known = Visitor(server.url).name

    def call(name: str, visitor: str) -> object:
        caller = Visitor(server.url, name=visitor, timeout=5)
        return caller.join(server.events[name], data.get(name, [{}]))[0]

    names = ["stop", "reset", "open_microphone", "prepare", "cut", "rate", "load", *data]
    return [
        lambda name=name, visitor=visitor: call(name, visitor)
        for name in names
        for visitor in [known, *(f"made-up {number}" for number in range(25))]
    ]


def direct_calls(server: Server) -> list[Callable[[], object]]:
    def call(path: str) -> object:
        body = {"data": written("你好"), "fn_index": server.events["answer"], "session_hash": "a"}
        status = stranger(server).post(f"{API}/{path}", body)[0]
        assert status == 404
        return status

    paths = ("run/predict", "api/predict", "api/_answer", "call/_answer", "call/answer")
    return [lambda path=path: call(path) for path in paths * 10]


def replies(server: Server) -> list[Callable[[], object]]:
    """Of made-up visitors, unread or left in the middle."""

    def unread() -> object:
        return stranger(server).post(f"{API}/call/speak", {"data": [None, "你好"]})[0]

    def left() -> object:
        visitor = stranger(server)
        status = visitor.join(server.events["answer"], written("你好"))[0]
        if status != 200:
            return status
        stream = visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}")
        stream.read(200)
        stream.close()
        return status

    return [unread, left] * 60


def bodies(server: Server) -> list[Callable[[], object]]:
    def text() -> object:
        body = json.dumps({"data": [None, "好" * (20 * MIB)]})
        status = stranger(server).open("POST", f"{API}/call/speak", body).status
        assert status == 413
        return status

    def upload(size: int) -> object:
        return Visitor(server.url, timeout=20).upload(b"x" * size)[0]

    def lie() -> object:
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=5) as client:
            head = f"POST {API}/call/speak HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            client.sendall(f"{head}Content-Length: 90000000000\r\n\r\n{{".encode())
            return client.recv(20)

    def slow() -> object:
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=1) as client:
            head = f"POST {API}/upload HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 1000\r\n"
            client.sendall(f"{head}\r\n-".encode())
            time.sleep(0.5)
        return 0

    large = [lambda: upload(49 * MIB), lambda: upload(60 * MIB)]
    return [text, text, *large * 3, lie, *[slow] * 30]


def bombs(server: Server) -> list[Callable[[], object]]:
    sound = bomb()
    assert len(sound) < MIB

    def answered() -> object:
        visitor = Visitor(server.url, timeout=30)
        return visitor.call([{"path": visitor.upload_path(sound)}, ""])[0]

    def prepared() -> object:
        visitor = Visitor(server.url, timeout=30)
        file = {"path": visitor.upload_path(sound)}
        return visitor.join(server.events["prepare"], [{"audio": file, "alone": True}])[0]

    return [answered, prepared] * 8


def traversal(server: Server) -> list[Callable[[], object]]:
    """Of every endpoint that takes a file, a name or a handle."""
    secret = server.folder / "secret.wav"
    secret.write_bytes(speech())
    (server.folder / "link.wav").symlink_to(secret)
    lock = next(server.folder.glob("westlake-omni-*/.lock"))
    upload = Visitor(server.url).upload_path(speech())
    names = [
        str(secret),
        str(server.folder / "link.wav"),
        f"{Path(upload).parent}/../../../{secret.name}",
        f"file://{secret}",
        server.url + "secret.wav",
        "/etc/passwd",
        str(lock),
        upload,
    ]

    def given(name: str) -> object:
        visitor, file = stranger(server), {"path": name, "meta": {"_type": "gradio.FileData"}}
        answers = [
            visitor.call([file, ""])[0],
            visitor.call([{"path": name}, ""])[0],
            visitor.join(server.events["answer"], [{"text": "", "audio": file}, *SETTINGS])[0],
            visitor.join(server.events["prepare"], [{"audio": file, "alone": True}])[0],
            visitor.join(server.events["load"], [{"file": file}])[0],
        ]
        assert set(answers) == {403}
        return name

    def fetched(path: str) -> object:
        status, answer = stranger(server).get(path)
        assert status in (400, 403, 404), path
        return answer

    fetches = [
        f"{API}/{door}{quote(name)}"
        for name in names[:-1]
        for door in ("file=", "file/", "proxy=", "stream/", "custom_component/", "call/speak/")
    ]
    fetches += [f"/{door}/..%2f..%2f..%2fetc/passwd" for door in ("static", "assets", "svelte")]
    handles = ["a" * 32, "../../x", "0", "%00"]
    fetches += [f"/here/..%2f{handle}" for handle in handles]
    return [
        *(lambda name=name: given(name) for name in names),
        *(lambda path=path: fetched(path) for path in fetches),
    ]


def assistants(server: Server) -> list[Callable[[], object]]:
    """Wrong calls of the tools: names of files, handles, bombs, bodies, and who leaves."""
    secret = server.folder / "secret.wav"
    sound = base64.b64encode(bomb()).decode()
    foreign = [str(secret), f"file://{secret}", "../secret.wav", "/etc/passwd", server.url]
    refused = [("speak", {"audio": name}) for name in foreign]
    refused += [("speak", {"text": "你好", "conversation": name}) for name in ("a", "0" * 32)]
    refused += [("encode", {"audio": sound}), ("speak", {"audio": sound}), ("decode", {"codes": 5})]

    def told(name: str, given: dict) -> object:
        status, said = Visitor(server.url, timeout=30).tool(name, given)
        assert status != 200 or said["isError"]
        assert "westlake-omni-" not in json.dumps(said)  # the page's own folder
        return status

    def large() -> object:
        status = stranger(server).tool("speak", {"audio": "A" * (5 * MIB)})[0]
        assert status in (413, 429)
        return status

    def many() -> object:
        status = stranger(server).tool("decode", {"codes": [[]] * 500_000})[0]
        assert status in (400, 429)
        return status

    def left() -> object:
        with asked_tool(server.url):
            time.sleep(0.2)
        return 0

    calls = [lambda call=call: told(*call) for call in refused * 3]
    return [*calls, *[large, many, left] * 6]


def streams(server: Server) -> list[Callable[[], object]]:
    def opened(path: str) -> object:
        response = stranger(server).open("GET", path)
        response.read(10)
        response.close()
        return response.status

    paths = [f"{API}/queue/data?session_hash=s{number}" for number in range(40)]
    paths += ["/here"] * 40
    return [lambda path=path: opened(path) for path in paths]
