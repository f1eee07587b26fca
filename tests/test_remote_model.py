"""deploy/ without Ray: its replicas are called here, and die when a test wants it."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
from fake_model import FakeModel

from models.contract import ReplyOptions
from page.options import parse_arguments

NAMES = ("deploy.ray_serve", "deploy.remote_model")


class RayError(Exception):
    """A replica was lost."""


@pytest.fixture
def ray_serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """deploy/ray_serve.py, over a Ray that does nothing."""
    ray = MagicMock(get=lambda answer: answer)
    ray.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=type("Fault", (RayError,), {}))
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with monkeypatch.context() as patched:
        modules = {"": ray, ".exceptions": ray.exceptions, ".serve": ray.serve}
        for name, module in (modules | {".serve.handle": ray.serve.handle}).items():
            patched.setitem(sys.modules, f"ray{name}", module)
        yield importlib.import_module(NAMES[0])
        for name in NAMES:
            del sys.modules[name]


class Replicas:
    """A handle to some of which the first dies after so many pieces of its reply."""

    def __init__(self, ray_serve: ModuleType, num_pieces: int) -> None:
        stopped = ray_serve.Stopped()
        self.stopped = SimpleNamespace(
            add=SimpleNamespace(remote=stopped.add), has=SimpleNamespace(remote=stopped.has)
        )
        self.replica = ray_serve.Replica(parse_arguments([], {}), self.stopped)
        self.kept, self.num_pieces, self.num_tries = ray_serve.Kept, num_pieces, 0
        self.reply = SimpleNamespace(remote=self._reply)

    def options(self, **options: object) -> Replicas:
        return self

    def _reply(self, asked) -> Iterator:
        self.num_tries += 1
        for number, piece in enumerate(self.replica._pieces(self.kept(), asked)):
            if self.num_tries == 1 and number == self.num_pieces:
                raise RayError
            yield piece


def by_event(chunks: Iterator, options: ReplyOptions) -> list:
    options.stop.set()
    return list(chunks)


def by_leaving(chunks: Iterator, options: ReplyOptions) -> list:
    chunks.close()
    return []


@pytest.mark.parametrize("stop", [by_event, by_leaving])
def test_a_stopped_turn_whose_replica_dies_is_kept(
    ray_serve: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[Iterator, ReplyOptions], list],
):
    model, remote, made = FakeModel(num_frames=20), sys.modules[NAMES[1]], []
    model.on_frame = made.append
    monkeypatch.setattr(ray_serve, "load_model", lambda *options: model)
    monkeypatch.setattr(remote, "PAUSE", 0)
    replicas = Replicas(ray_serve, 5)
    page = remote.RemoteModel(replicas, replicas.stopped, replicas.replica.about())
    conversation, options = page.new_conversation(), ReplyOptions()
    turn = conversation.begin_turn("hello")
    turn.finish()
    chunks = conversation.reply(turn, options)
    given = [*islice(chunks, 5), *stop(chunks, options)]
    assert json.loads(conversation.state) == [["hello", 0.0]]
    numbers = [chunk.total_frames for chunk in given]
    assert numbers == list(range(1, len(numbers) + 1))
    assert replicas.num_tries == 2 and made.count(5) == 2, "what was heard is not said again"
    assert len(made) <= 12, "it is not stopped"


REFUSED = [
    (["--mcp"], "pip install"),
    (["--auth", "nobody"], "--auth"),
    (["--max-replies", "0"], "--max-replies"),
]


@pytest.mark.parametrize("arguments, told", REFUSED)
def test_what_can_not_be_is_told_before_the_cluster_starts(
    ray_serve: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys, arguments: list[str], told: str
):
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert ray_serve.main(arguments) == 2
    assert told in capsys.readouterr().err
    ray_serve.serve.start.assert_not_called()


def test_its_options_are_the_pages_and_its_own(
    ray_serve: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("WESTLAKE_PORT", "7000")
    assert ray_serve.main(["--replicas", "2", "--host", "0.0.0.0"]) == 0
    ray_serve.serve.start.assert_called_with(http_options={"host": "0.0.0.0", "port": 7000})
    with pytest.raises(SystemExit):
        ray_serve.main(["--help"])
    assert {"--replicas", "--max-replicas", "--max-sessions"} <= set(
        re.findall(r"--[a-z-]+", capsys.readouterr().out)
    )
