"""A conversation: its turns, and how far the language models have read them."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loguru import logger

from .. import contract
from ..contract import ReplyChunk, ReplyOptions
from ..conversations import num_dropped
from ..errors import UserError
from .generation import Reader
from .reply import stream_reply
from .saved_conversation import write_turns
from .segment import Segment
from .user_turn import TOKENS_PER_SECOND, UserTurn

if TYPE_CHECKING:
    from .speech_model import OmniModel


@dataclass
class Turn:
    """A user's turn and its reply, as the models read them."""

    segments: list[Segment]


class Conversation:
    """What was said so far; it belongs to one user, and the model keeps nothing of it.

    The reader has read the first `reader.num_segments` segments; what lies beyond has still to be
    read. So a further turn costs only its own positions, and after a change of the past (dropped
    turns, a restored file) everything is read again, but heard and seen only once.

    `open_turn` is the last of `turns` from its beginning to the end of its reply, else None.

    Args:
        model: that speaks in it.
        system: how the model shall be.
        turns: what was said before.
    """

    def __init__(
        self, model: OmniModel, system: str | None = None, turns: list[Turn] | None = None
    ) -> None:
        self.model = model
        self.system = system
        self.turns = list(turns or ())
        self.open_turn: Turn | None = None
        self.reader = Reader(model.checkpoint)
        self._beginning = model.prompt.system(system)
        self._before: list[Turn] = []  # the turns when the open one began

    @property
    def segments(self) -> list[Segment]:
        """All that was said."""
        return [self._beginning, *(part for turn in self.turns for part in turn.segments)]

    def begin_turn(
        self,
        text: str | None = None,
        sample_rate: int | None = None,
        *,
        image: Any = None,
        video: Any = None,
    ) -> UserTurn:
        """A user's turn begins; one that is still open is forgotten.

        Args: see `contract.Conversation.begin_turn`.

        Raises:
            UserError: a text, picture or video that is too long or large, or can't be read. The
                conversation is then as it was before.
        """
        shown = self.model.look(image, video)
        return UserTurn(self, text, sample_rate, shown)

    def reply(
        self, turn: contract.UserTurn, options: ReplyOptions
    ) -> Generator[ReplyChunk, None, None]:
        """Answer a finished turn; see `contract.Conversation.reply`."""
        assert isinstance(turn, UserTurn), f"a {type(turn).__name__} is no turn of this family"
        return stream_reply(turn, options)

    def reset(self) -> None:
        """Begin anew."""
        self.turns, self.open_turn = [], None
        # A reply that still runs goes on with the reader it began with, and so disturbs nothing.
        self.reader = Reader(self.model.checkpoint)

    def save(self, path: str | os.PathLike) -> None:
        """Write the conversation to a file, without a turn that is still open.

        Raises:
            UserError: the file can't be written.
        """
        turns = self.turns if self.open_turn is None else self._before
        segments = [turn.segments for turn in turns]
        write_turns(path, segments, self.system, self.model.checkpoint)

    def read(self) -> None:
        """Bring the reader up to the last segment."""
        self.reader.read(self.segments[self.reader.num_segments :])

    def read_anew(self) -> None:
        """Let all segments be read again."""
        self.reader = Reader(self.model.checkpoint)

    def open(self) -> Turn:
        """Put a new turn at the end; one that is still open is forgotten."""
        if self.open_turn is not None:
            self.reader = Reader(self.model.checkpoint)  # as in reset
            self.abandon_turn()
        self._before = list(self.turns)
        self.open_turn = Turn([])
        self.turns.append(self.open_turn)
        return self.open_turn

    def add(self, segments: list[Segment], reserved: int) -> None:
        """Append to the turn that is under way; the oldest turns are dropped where it is needed.

        Args:
            segments: what comes.
            reserved: positions of it that will still come.

        Raises:
            UserError: the turn under way alone is too long.
        """
        turn = self.turns[-1]
        new = _cost(segments) + reserved
        lengths = [_cost(turn.segments) for turn in self.turns]
        room = self.model.max_input_positions - _cost([self._beginning])
        excess = lengths[-1] + new - room
        if excess > 0:
            limit = self.model.max_input_positions / TOKENS_PER_SECOND
            seconds = f"{limit + excess / TOKENS_PER_SECOND:.1f}"
            raise UserError("error_input_too_long", seconds=seconds, limit=f"{limit:.1f}")
        dropped = num_dropped(lengths, new, room)
        turn.segments = [*turn.segments, *segments]
        if dropped:
            del self.turns[:dropped]
            self.reader = Reader(self.model.checkpoint)
            logger.info(
                f"the context of {self.model.max_positions} positions is nearly full: "
                f"dropped the {dropped} oldest turn(s), reading {len(self.turns)} again"
            )

    def room_for_turn(self, reserved: int) -> int:
        """Positions that the turn under way may still take."""
        taken = _cost([self._beginning, *self.turns[-1].segments]) + reserved
        return max(0, self.model.max_input_positions - taken)

    def end_turn(self, said: list[Segment]) -> None:
        """Keep what was said: the part that was read, if any, and the rest."""
        turn = self.turns[-1]
        turn.segments = [*turn.segments, *said]
        self.open_turn = None

    def abandon_turn(self) -> None:
        """Forget the open turn, if there is one, as if it had not begun."""
        if self.open_turn is None:
            return
        were_dropped = len(self.turns) <= len(self._before)
        self.turns, self.open_turn = self._before, None
        if were_dropped:  # and come back
            self.reader = Reader(self.model.checkpoint)
            return
        kept = self.segments[: min(self.reader.num_segments, len(self.segments))]
        length, position = sum(map(len, kept)), sum(segment.extent for segment in kept)
        self.reader.truncate(len(kept), length, position)


def _cost(segments: list[Segment]) -> int:
    """Positions that segments take of the context, in the caches or as counted."""
    return sum(max(len(segment), segment.extent) for segment in segments)
