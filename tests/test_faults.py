"""What breaks while people talk, and what they then see: see docs/faults.md."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import resource
import signal
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_model import FakeModel
from page_client import API, Visitor, function, served
from replying import COLD, log_lines, meet
from small import rigged, small_model

import app
from generate import generate_long
from models.stepping import Stepper
from models.westlake.dual_ar import SamplingConfig
from strings import say

ROOT = Path(app.__file__).parent


def written(text: str) -> list:
    return [{"text": text, "audio": None}, "", 5, 0.7, -1]


def files_in(page: app.Page) -> list[Path]:
    """What visitors left: neither the lock nor the store of the listening tests."""
    paths = page.files.folder.glob("*/*")
    return [path for path in paths if path.is_file() and path.parent.name != "data"]


def replies_at_once(model, texts: list[str]) -> list[np.ndarray | Exception]:
    """Each text's reply, made beside the others with the same seed, or what it ended with."""
    results = [None] * len(texts)

    def answer(index: int) -> None:
        try:
            sampling = SamplingConfig(seed=index, temperature=COLD)
            chunks = generate_long(model, text=texts[index], sampling=sampling, max_new_tokens=12)
            results[index] = np.concatenate([chunk.new_audio for chunk in chunks])
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=answer, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


@pytest.fixture
def model(small_codec) -> Iterator:
    yield small_model(small_codec)


@pytest.mark.parametrize("fault", ["raises", "NaN"])
def test_a_fault_in_a_shared_step_ends_only_the_reply_whose_it_is(
    model, fault: str, monkeypatch: pytest.MonkeyPatch
):
    """The third of four replies breaks in the middle, in whatever step it is just then."""
    texts = ["你好", "我很累", "出错", "再见"]
    alone = [
        np.concatenate([chunk.new_audio for chunk in generate_long(
            model, text=text, sampling=SamplingConfig(seed=index, temperature=COLD),
            max_new_tokens=12)])
        for index, text in enumerate(texts)
    ]  # fmt: skip
    step = model.stepper.step

    def step_with_a_fault(replies):
        broken = [reply for reply in replies if reply.sampling.seed == 2 and reply.num_spoken == 5]
        if not broken:
            return step(replies)
        if fault == "raises":
            step(replies)  # what it has done to the others must not count
            raise RuntimeError("one user's fault")
        language_model = model.checkpoint.model
        row, right = replies.index(broken[0]), language_model.text_logits

        def text_logits(hidden):
            logits = right(hidden).clone()
            logits[row] = float("nan")
            return logits

        language_model.text_logits = text_logits
        try:
            return step(replies)
        finally:
            del language_model.text_logits

    model.stepper.step = step_with_a_fault
    sizes = meet(monkeypatch, model.stepper, len(texts))
    results = replies_at_once(model, texts)
    assert sizes[0] == 4  # they were stepped together
    assert isinstance(results[2], RuntimeError if fault == "raises" else FloatingPointError)
    for index in (0, 1, 3):
        np.testing.assert_array_equal(results[index], alone[index])


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_fault_that_replies_have_only_together_is_told_once(is_alone: bool):
    def step(replies: list[str]) -> list[torch.Tensor]:
        if len(replies) > 1 or is_alone and replies == ["b"]:
            raise RuntimeError("what a user said")
        return [torch.zeros(9)]

    stepper = Stepper(step, lambda reply: lambda: None)
    with log_lines() as lines:
        for _ in range(2):
            if is_alone:
                with pytest.raises(RuntimeError, match="said"):
                    stepper.next_frames(["a", "b"])
            else:
                assert len(stepper.next_frames(["a", "b"])) == 2
    told = [line for line in lines if "2 replies are stepped one by one" in line]
    assert len(told) == (not is_alone)
    assert all("RuntimeError at" in line and "said" not in line for line in told)


def test_a_conversation_goes_on_after_numbers_that_are_not_finite(model):
    conversation, sampling = model.new_conversation(), SamplingConfig(seed=1)

    def say_in(conversation, text: str) -> np.ndarray:
        given = {"conversation": conversation, "sampling": sampling, "max_new_tokens": 6}
        return np.concatenate([c.new_audio for c in generate_long(model, text=text, **given)])

    say_in(conversation, "你好")
    expected = model.new_conversation()
    say_in(expected, "你好")
    for layer in conversation.cache._layers:
        layer.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        say_in(conversation, "再来")
    np.testing.assert_array_equal(say_in(conversation, "再来"), say_in(expected, "再来"))


def test_logits_that_are_not_finite_are_no_token(model):
    broken = rigged(model, text_logits=lambda hidden: torch.full((len(hidden), 3000), torch.nan))
    with pytest.raises(FloatingPointError, match="not finite"):
        list(generate_long(broken, text="你好", max_new_tokens=3))


def test_a_full_disk_loses_no_reply(monkeypatch: pytest.MonkeyPatch):
    """The reply is heard and shown; its file is not there, and nothing half-written is."""
    with served(FakeModel()) as (page, url):
        visitor, index = Visitor(url), function(page, "answer")

        def full(*arguments: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(wave.Wave_write, "writeframes", full)
            patch.setattr(Path, "write_text", full)  # as the fake conversation is saved
            assert visitor.run(index, written("你好"))["success"]
            answer = visitor.call([None, "你好"])[1]
            assert "event: error" in answer and say("error_no_room", "en") in answer
        assert files_in(page) == []
        assert visitor.run(index, written("再来"))["success"]
        restored = visitor.run(function(page, "restore"), [])["output"]["data"][0]
        turns = json.loads(restored)["turns"]
        assert [turn["user"]["text"] for turn in turns] == ["你好", "再来"]
        assert len(list(page.files.folder.rglob("*.wav"))) == 1


def test_a_folder_that_can_not_be_written_is_told(monkeypatch: pytest.MonkeyPatch):
    with served(FakeModel()) as (page, url):
        visitor = Visitor(url)

        def closed(*arguments: object, **options: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", closed)
            assert visitor.upload(b"x") == (507, say("error_no_room", "en"))
            assert visitor.run(function(page, "answer"), written("你好"))["success"]
        assert visitor.upload(b"x")[0] == 200


def test_an_upload_to_a_full_disk_is_told_and_leaves_nothing():
    """A file that the system really does not let grow."""
    with served(FakeModel()) as (page, url):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
            answer = Visitor(url).upload(b"x" * (4 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, old)
        assert answer == (507, say("error_no_room", "en"))
        assert files_in(page) == []


def test_a_client_that_is_killed_ends_its_reply_alone():
    model = FakeModel(num_frames=100, frame_seconds=0.02)
    with served(model) as (page, url):
        index = function(page, "answer")
        killed, other = Visitor(url), Visitor(url)
        killed.join(index, written("你好"))
        stream = killed.open("GET", f"{API}/queue/data?session_hash={killed.session}")
        stream.read(500)
        stream.close()  # the socket is gone in the middle of the stream
        assert other.run(index, written("你好"))["success"]
        end = time.monotonic() + 30
        while model.num_running and time.monotonic() < end:
            time.sleep(0.05)
        assert model.num_running == 0
        sessions = [page.sessions.get(name) for name in list(page.sessions._sessions)]
        ended = [turn.last.ended for session in sessions for turn in session.turns]
        assert sorted(ended) == [False, True]
        assert killed.run(index, written("我回来了"))["success"]


def test_two_turns_raced_in_one_session():
    """The one that came later is answered whole; the other ends where it was, or has not begun."""
    model = FakeModel(num_frames=100, frame_seconds=0.02)
    with served(model) as (page, url):
        visitor, index = Visitor(url), function(page, "answer")
        together, ended = threading.Barrier(4), []

        def race(number: int) -> None:
            racer = Visitor(url, name=visitor.name)
            together.wait(60)
            ended.append(racer.run(index, written(f"第{number}句"))["success"])

        threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert ended == [True] * 4
        session = page.sessions.get(next(iter(page.sessions._sessions)))
        turns = session.turns
        assert all(turn.ended for turn in turns) and not session.is_busy
        assert [turn.stopped for turn in turns] == [True] * (len(turns) - 1) + [False]
        assert turns[-1].last.ended


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_changes_nothing(jump: float, monkeypatch: pytest.MonkeyPatch):
    with served(FakeModel()) as (page, url):
        visitor, index = Visitor(url), function(page, "answer")
        assert visitor.get("/here")[0] == 204
        assert visitor.run(index, written("你好"))["success"]
        upload = visitor.upload_path(b"x")
        right = time.time
        monkeypatch.setattr(time, "time", lambda: right() + jump)
        page.sessions.sweep()
        assert len(page.sessions) == 1 and Path(upload).exists()
        (session,) = page.sessions._sessions.values()
        assert page.sessions._is_here(session.owner)
        assert visitor.run(index, written("再来"))["success"]


def test_waits_are_measured_by_the_clock_that_does_not_jump():
    files = [ROOT / "app.py", ROOT / "generate.py"]
    files += [path for folder in ("models", "page") for path in (ROOT / folder).rglob("*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert not re.fullmatch(r"time\.time|(datetime\.)?datetime\.(utc)?now", name), path
