"""Places among the calls that Gradio's queue lets begin, for calls that don't come through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from gradio.block_function import BlockFunction
from gradio.queueing import EventQueue, Queue

PAUSE = 0.02  # seconds between two looks at whether a place is free


class Places:
    """Who takes one counts for Gradio as one of its own calls that are under way.

    Fields:
        num_taken: by calls under way.
    """

    def __init__(self) -> None:
        self.num_taken = 0
        self._order = asyncio.Lock()  # who is the next

    @asynccontextmanager
    async def one(self, queue: Queue, function: BlockFunction) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Args:
            queue: calls already in it go first, later ones after.
            function: whose places they are.
        """
        queue.create_event_queue_for_fn(function)
        calls = queue.event_queue_per_concurrency_id[function.concurrency_id]
        limit, before = calls.concurrency_limit or 1, list(calls.queue)
        with ExitStack() as held:
            async with self._order:
                while any(call in calls.queue for call in before):
                    await asyncio.sleep(PAUSE)
                calls.current_concurrency += 1  # from here on Gradio lets no later one begin
                held.callback(_give, calls)
                while calls.current_concurrency > limit:
                    await asyncio.sleep(PAUSE)
            self.num_taken += 1
            try:
                yield
            finally:
                self.num_taken -= 1


def _give(calls: EventQueue) -> None:
    calls.current_concurrency -= 1
