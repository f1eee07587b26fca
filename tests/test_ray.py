"""The page on Ray: a replica that is killed in the middle of many conversations costs no reply."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gradio_client import Client
from gradio_client.exceptions import AppError
from page_client import free_port, served

from models.errors import UserError
from models.load import load_model
from models.transformer.native import load_library
from page.limits import Limits
from page.options import parse_arguments

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]
NUM_CONVERSATIONS, NUM_TURNS = 8, 5
KILLED_AFTER = 12  # replies
DTYPES = ("int8", "float32")
TEXTS = ("最近心情不好，能聊聊吗？", "我并不喜欢现在的工作。", "家里人不同意我去当电竞选手。")


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    if request.param == "int8" and load_library() is None:
        pytest.skip("native.c can't be compiled here")
    return request.param


@pytest.fixture
def cluster(dtype: str) -> Iterator[tuple]:
    """The address of a page with two replicas of the model, and a handle to them."""
    from ray import serve

    from deploy.ray_serve import build

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    port = free_port()  # none that Ray has taken
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    limits = ["--reply-seconds", "1", "--max-replies", "8"]
    options = parse_arguments(["--dtype", dtype, *limits], {})
    serve.run(build(options, 2, 2), route_prefix="/")
    yield f"http://127.0.0.1:{port}/", serve.get_deployment_handle("model", "default")
    serve.shutdown()
    ray.shutdown()


def reply(client: Client, text: str, seed: int) -> np.ndarray:
    """One that a busy machine did not begin is asked for again, as its user would."""
    while True:
        try:
            asked = {"text": text, "seed": seed, "conversation": "kept"}
            return soundfile.read(client.predict(**asked, api_name="/speak")[1], dtype="int16")[0]
        except AppError as error:
            if "busy" not in str(error) and "not made" not in str(error):
                raise
            time.sleep(0.2)


def talk(url: str, number: int, done: list[int]) -> list[np.ndarray]:
    """One conversation; each reply's samples."""
    client, replies = Client(url, verbose=False, httpx_kwargs={"timeout": 300}), []
    for turn in range(NUM_TURNS):
        text, seed = TEXTS[(number + turn) % len(TEXTS)], 1000 * number + turn
        replies.append(reply(client, text, seed))
        done.append(number)
    client.close()
    return replies


def processes(handle) -> set[int]:
    """Of the replicas that answer."""
    asked = [handle.about.remote() for _ in range(20)]
    return {answer.result()["process"] for answer in asked}


def test_a_killed_replica_costs_no_reply(cluster: tuple, dtype: str, tmp_path: Path):
    url, handle = cluster
    before, done, killed = processes(handle), [], []
    assert len(before) == 2

    def kill() -> None:
        while len(done) < KILLED_AFTER:
            time.sleep(0.01)
        killed.append(min(before))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with ThreadPoolExecutor(NUM_CONVERSATIONS) as pool:
        made = list(pool.map(lambda number: talk(url, number, done), range(NUM_CONVERSATIONS)))
    assert len(done) == NUM_CONVERSATIONS * NUM_TURNS
    assert killed and killed[0] not in processes(handle)
    model = load_model("tiny", dtype=dtype)
    model.warm_up()
    with served(model, Limits(reply_seconds=1), tmp_path) as (_, alone):
        for number, replies in enumerate(made):
            expected = talk(alone, number, [])
            same = [np.array_equal(*pair) for pair in zip(replies, expected, strict=True)]
            assert same == [True] * NUM_TURNS, number


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_what_is_no_conversation_is_told_by_its_name(cluster: tuple, tmp_path: Path):
    from deploy.remote_model import RemoteModel

    _, handle = cluster
    model = RemoteModel(handle, None, handle.about.remote().result())
    with pytest.raises(UserError, match="talk.westlake"):
        model.load_conversation(tmp_path / "talk.westlake")
    (tmp_path / "other.westlake").write_bytes(b"none")
    with pytest.raises(UserError, match="other.westlake"):
        model.load_conversation(tmp_path / "other.westlake")
