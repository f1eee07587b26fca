"""An attack on the running page, bounded and on this machine alone; afterwards all is as before."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attacks import (
    MIB,
    Server,
    assistants,
    bodies,
    bombs,
    direct_calls,
    private_calls,
    replies,
    streams,
    traversal,
)
from page_client import Visitor, free_port

import app

pytestmark = pytest.mark.slow
ROOT = Path(app.__file__).parent
OPTIONS = {"LINGER_SECONDS": "4", "UPLOAD_SECONDS": "4", "SILENT_SECONDS": "3", "MCP": "1"}
NUM_ATTACKERS = 16
LANDED = 0.5  # of each flood at least, or it was no test
PHASE_SECONDS = 12  # after which what is left of a flood is not sent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked")
    port = free_port()
    options = {f"WESTLAKE_{name}": value for name, value in OPTIONS.items()}
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, **options, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    visitor = Visitor(f"http://127.0.0.1:{port}/")
    try:
        for _ in range(900):
            assert process.poll() is None
            with contextlib.suppress(OSError):
                config = json.loads(visitor.get("/config")[1])
                break
            time.sleep(0.1)
        events = {
            event["api_name"]: event["id"]
            for event in config["dependencies"]
            if event["backend_fn"]
        }
        yield Server(process, visitor.url, folder, events)
    finally:
        process.terminate()
        process.wait(30)


def flood(attacks: list[Callable[[], object]]) -> float:
    """Run attacks from many threads at once; returns the share that was sent and answered."""
    end = time.monotonic() + PHASE_SECONDS
    random.Random(0).shuffle(attacks)

    def run(attack: Callable[[], object]) -> object:
        if time.monotonic() > end:
            return None
        try:
            return attack()
        except (OSError, http.client.HTTPException):
            return None

    with ThreadPoolExecutor(NUM_ATTACKERS) as pool:
        return sum(answer is not None for answer in pool.map(run, attacks)) / len(attacks)


def test_after_an_attack_all_is_as_before(server: Server):
    own = server.files
    server.turn()
    usual = statistics.median(server.turn() for _ in range(3))
    memory, num_threads = server.memory, server.num_threads
    attacks = (
        private_calls,
        direct_calls,
        replies,
        traversal,
        streams,
        assistants,
        bodies,
        bombs,
    )
    for attack in attacks:
        share = flood(attack(server))
        print(f"{attack.__name__}: {share:.0%} answered")
        assert share > LANDED, attack.__name__
        assert server.process.poll() is None
    end = time.monotonic() + 60
    calm = False
    while not calm and time.monotonic() < end:
        time.sleep(2)
        left = [path for path in server.files if path not in own]
        calm = not left and server.num_threads <= num_threads + 4
        if not calm and not left:
            server.turn()  # idle threads of the server's pool end when it is used
    assert left == []
    assert server.num_threads <= num_threads + 4
    assert min(server.turn() for _ in range(3)) <= 2 * usual
    assert server.memory - memory < 300 * MIB
