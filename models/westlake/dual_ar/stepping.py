"""Replies made to their ends, alone or in steps that many users share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ... import stepping
from ...transformer.native import at_work
from .engines import EagerEngine
from .generation import Reply, next_frames


class Stepper(stepping.Stepper[Reply]):
    """Steps the replies of several threads together; see `models.stepping`.

    Args:
        engine: of all the replies' model.
    """

    def __init__(self, engine: EagerEngine) -> None:
        super().__init__(self._next_frames, Reply.snapshot)
        self.engine = engine

    def _next_frames(self, replies: Sequence[Reply]) -> list[Tensor | None]:
        with at_work():
            return next_frames(self.engine, replies)


def make_frames(
    step: stepping.Step[Reply], replies: Sequence[Reply]
) -> Iterator[tuple[Reply, Tensor | None]]:
    """Make replies to their ends, side by side: the one loop in which frames are made.

    Args:
        step: `partial(next_frames, engine)`, or `Stepper.next_frames` to share steps with other
            threads.
        replies: of one model; those that have not ended yet are stepped together.

    Yields:
        A reply and its next frame [1+K] long, or None where its end token came.
    """
    while going := [reply for reply in replies if not reply.ended]:
        yield from zip(going, step(going), strict=True)
