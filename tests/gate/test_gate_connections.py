"""Connections on which nothing is asked hold neither room nor time."""

import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

from fake_model import FakeModel
from page_client import API, Visitor, function, served
from strangers import wait_until, written

from page.connections import Idle
from page.limits import Limits

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connected(url: str, *pieces: bytes) -> socket.socket:
    """A connection on which so much was sent."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    for piece in pieces:
        connection.sendall(piece)
    return connection


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1 << 16) == b""
    except TimeoutError:
        return False


def test_they_end_in_time():
    model = FakeModel(num_frames=100, frame_seconds=0.04)
    with served(model, Limits(receive_seconds=1)) as (page, url):
        silent, slow = connected(url), connected(url, b"GET / HTTP/1.1\r\nHost: loc")
        used = connected(url, HEALTH)
        assert used.recv(1 << 16).startswith(b"HTTP/1.1 200")
        used.sendall(HEALTH[:5])  # by which uvicorn's own limit, of those kept alive, is put off
        visitor = Visitor(url)
        visitor.join(function(page, "answer"), written("你好"))
        stream = visitor.open("GET", f"{API}/queue/data?session_hash={visitor.session}")
        wait_until(lambda: is_closed(silent))
        wait_until(lambda: is_closed(slow))
        wait_until(lambda: is_closed(used))
        assert b"process_completed" in stream.read(), "what is asked goes on for longer"


def test_a_crowd_of_them_leaves_room_for_others():
    with served(FakeModel(), Limits(max_connections=8)) as (_, url):
        crowd = [connected(url) for _ in range(30)]
        wait_until(lambda: sum(map(is_closed, crowd)) >= 22)
        assert Visitor(url).get("/healthz")[0] == 200
        assert not is_closed(crowd[-1])
        for connection in crowd:
            connection.close()


class Connection:
    """One that is closed or not."""

    def __init__(self) -> None:
        self.closed = False
        self.transport = SimpleNamespace(close=lambda: setattr(self, "closed", True))


def test_who_holds_the_most_gives_one_up():
    idle = Idle(4)
    single, crowd = Connection(), [Connection() for _ in range(6)]
    idle.add("192.0.2.1", single)
    for connection in crowd:
        idle.add("192.0.2.2", connection)
    assert [connection.closed for connection in crowd] == [True] * 3 + [False] * 3
    assert not single.closed and len(idle) == 4
    for address, connection in (("192.0.2.1", single), ("192.0.2.2", crowd[0])):
        idle.remove(address, connection)
        idle.remove(address, connection)  # is nothing
    assert len(idle) == 3
