"""The page on a cluster, by Ray Serve: python -m deploy.ray_serve --replicas 2

The page, with its queue, its sessions and its limits, is one deployment; the model is another of
several replicas. A conversation goes to the replica that holds its cache. If that one is gone or
busy, another one reads what was said again, from the columns that the page keeps, and goes on: with
the same seed the reply is the same. See docs/scaling.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from ray.serve.handle import DeploymentHandle

import app
from models.contract import ReplyChunk, SpeechCodec
from models.elsewhere import about, beginning_of, conversation_of, state_of
from models.load import load_model
from page import server
from page.login import read_users
from page.options import data_folder, new_parser, parse_arguments, read_limits

from .remote_model import Asked, RemoteCodecModel, RemoteModel

KEPT_CONVERSATIONS = 32  # that a replica holds the caches of
ONGOING = 8  # replies at a replica at once; more go to another one or wait
TARGET = 2  # replies a replica that autoscaling aims at
MAX_STOPPED = 10_000  # turns that are remembered as stopped


class Stopped:
    """Which turns shall end early."""

    def __init__(self) -> None:
        self._turns: deque[str] = deque(maxlen=MAX_STOPPED)

    def add(self, turn: str) -> None:
        self._turns.append(turn)

    def has(self, turn: str) -> bool:
        return turn in self._turns


@dataclass
class Kept:
    """A conversation at a replica, and the name of its state; None if it is not known."""

    conversation: Any = None
    state: str | None = None


class Replica:
    """The model, and the conversations that it has last spoken in."""

    def __init__(self, options: argparse.Namespace, stopped: Any) -> None:
        self.model = load_model(options.checkpoint, options.device, options.dtype, options.revision)
        self.model.warm_up()
        self.stopped = stopped

    def about(self) -> dict[str, Any]:
        """The model's fields, and what a new conversation is like."""
        return about(self.model) | {
            "has_codec": isinstance(self.model, SpeechCodec),
            "process": os.getpid(),
        }

    def check(self, state: bytes, name: str) -> bytes:
        """The beginning of a conversation saved in a file of that name.

        Raises:
            UserError: it is none of this model.
        """
        return beginning_of(conversation_of(self.model, state, name))

    def encode(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        codec: Any = self.model  # which has one, or it is not asked
        return codec.encode(torch.from_numpy(samples), sample_rate)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        codec: Any = self.model
        return codec.decode(codes)

    @serve.multiplexed(max_num_models_per_replica=KEPT_CONVERSATIONS)
    async def kept(self, conversation: str) -> Kept:
        return Kept()  # Ray routes later turns to where this was made, if it can

    async def reply(self, asked: Asked) -> AsyncIterator[ReplyChunk | bytes]:
        """Answer a turn; gives its chunks, and in the end the conversation's new state."""
        pieces = self._pieces(await self.kept(asked.conversation), asked)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    def _pieces(self, kept: Kept, asked: Asked) -> Iterator[ReplyChunk | bytes]:
        if kept.state != asked.before:
            kept.conversation = conversation_of(self.model, asked.state)
        conversation, kept.state = kept.conversation, None
        stop = Event()
        turn = asked.turn.read(conversation)
        chunks = conversation.reply(turn, asked.turn.reply_options(stop))
        for number, chunk in enumerate(chunks, 1):
            yield chunk
            # What was heard is said again first, and so stays in the conversation.
            if number >= asked.num_given and ray.get(self.stopped.has.remote(asked.after)):
                stop.set()
        kept.state = asked.after
        yield state_of(conversation)


class PageDeployment:
    """The page; its queue and sessions live in memory, so there is one."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, replicas: DeploymentHandle, options: argparse.Namespace, stopped: Any
    ) -> None:
        known = await replicas.about.remote()
        kind = RemoteCodecModel if known["has_codec"] else RemoteModel
        self.options = options
        self.page = app.Page(
            kind(replicas, stopped, known),
            read_limits(options),
            log_content=options.log_content,
            users=read_users(options.auth),
            public_metrics=options.public_metrics,
            data_folder=data_folder(options),
            mcp=options.mcp,
        )

    def __serve_build_asgi_app__(self) -> Any:
        return self.page.asgi(server.host_check(self.options), self.options.root_path)

    def __del__(self) -> None:
        self.page.close()


def build(options: argparse.Namespace, min_replicas: int, max_replicas: int) -> serve.Application:
    """The page and its replicas.

    Args:
        options: the page's, as of `page.options.parse_arguments`.
        min_replicas, max_replicas: of the model; in between, as many as the replies need.
    """
    stopped = ray.remote(num_cpus=0)(Stopped).remote()
    scaling = {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "target_ongoing_requests": TARGET,
    }
    replicas = serve.deployment(
        Replica, name="model", max_ongoing_requests=ONGOING, autoscaling_config=scaling,
        ray_actor_options={"num_cpus": 1, "num_gpus": int(options.device == "cuda")},
    )  # fmt: skip
    limits = read_limits(options)
    page = serve.deployment(
        serve.ingress()(PageDeployment), name="page", num_replicas=1,
        max_ongoing_requests=limits.max_connections + ONGOING,
        ray_actor_options={"num_cpus": 1},
    )  # fmt: skip
    return page.bind(replicas.bind(options, stopped), options, stopped)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="The page on a cluster, by Ray Serve.", parents=[new_parser()], add_help=False
    )
    parser.add_argument("--replicas", type=int, default=1, help="of the model, at least")
    parser.add_argument("--max-replicas", type=int, help="to scale up to; else as many as that")
    parser.set_defaults(**vars(parse_arguments([])))  # of the environment
    options = parser.parse_args(arguments)
    try:  # what the page's process would refuse is told here
        server.check_packages(options)
        read_limits(options)
        read_users(options.auth)
    except ValueError as error:
        print("deploy.ray_serve:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    serve.start(http_options={"host": options.host, "port": options.port})
    serve.run(
        build(options, options.replicas, options.max_replicas or options.replicas),
        route_prefix="/",
        blocking=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
