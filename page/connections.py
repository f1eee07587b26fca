"""Connections on which nothing is asked, which no middleware sees: they end in time, and have a
limit beyond which whoever holds the most gives one up."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from uvicorn.config import Config

from .limits import Limits
from .server import network_of


class Idle:
    """The connections of a server that wait for a request's head.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: defaultdict[str, dict[Any, None]] = defaultdict(dict)  # the oldest first

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def add(self, address: str, connection: Any) -> None:
        """One more; where there are too many, the oldest of the address that has most is closed."""
        self._held[address][connection] = None
        if len(self) > self.most:
            crowded = max(self._held, key=lambda one: len(self._held[one]))
            oldest = next(iter(self._held[crowded]))
            self.remove(crowded, oldest)
            oldest.transport.close()

    def remove(self, address: str, connection: Any) -> None:
        """A request has begun on it, or it is over."""
        self._held[address].pop(connection, None)
        if not self._held[address]:
            del self._held[address]


def bound_idle(config: Config, limits: Limits) -> None:
    """Let a server's idle connections end after `receive_seconds`, and be `max_connections`.

    Args:
        config: of a server of uvicorn's; what is connected already is left as it is.
    """
    protocol: Any = config.http_protocol_class
    idle = Idle(limits.max_connections)

    class Bounded(protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.network = network_of((self.client or ("",))[0])
            self.end: asyncio.TimerHandle | None = None
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._is_idle():
                self._forget()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and self._is_idle():
                self._wait()

        def connection_lost(self, error: Exception | None) -> None:
            self._forget()
            super().connection_lost(error)

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait(self) -> None:
            """For the head of the next request, which pieces that come slowly don't put off."""
            self._forget()
            self.end = self.loop.call_later(limits.receive_seconds, self._give_up)
            idle.add(self.network, self)

        def _give_up(self) -> None:
            self._forget()
            self.transport.close()

        def _forget(self) -> None:
            if self.end is not None:
                self.end.cancel()
                self.end = None
            idle.remove(self.network, self)

    config.http_protocol_class = Bounded
