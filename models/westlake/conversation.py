"""A conversation: its turns, and how far the language model has read them."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from loguru import logger
from torch import Tensor

from .. import contract
from ..contract import ReplyChunk, ReplyOptions
from ..conversations import num_dropped, refuse_shown
from ..errors import UserError
from .dual_ar.prompt import text_columns
from .reply import stream_reply
from .saved_conversation import write_turns
from .user_turn import UserTurn

if TYPE_CHECKING:
    from .speech_model import WestlakeModel


@dataclass
class Turn:
    """One user turn and its reply, as the model reads them: columns [1+K, T] long.

    The first `prompt_length` columns are the user's; 0 as long as the user has not finished.
    """

    columns: Tensor
    prompt_length: int


class Conversation:
    """What was said so far; it belongs to one user, and the model keeps nothing of it.

    The KV cache holds the first `cache.length` columns of `columns`; what lies beyond has still
    to be read. So a further turn costs only its own columns, and after a change of the past
    (dropped turns, a restored file) everything is simply read again.

    `open_turn` is the last of `turns` from its beginning to the end of its reply, else None.

    Args:
        model: that speaks in it.
        turns: what was said before.
    """

    def __init__(self, model: WestlakeModel, turns: list[Turn] | None = None) -> None:
        self.model = model
        self.turns = list(turns or ())
        self.open_turn: Turn | None = None
        self.cache = model.checkpoint.model.new_cache()
        self._before: list[Turn] = []  # the turns when the open one began

    @property
    def columns(self) -> Tensor:
        """All that was said, [1+K, T] long."""
        return torch.cat([self._text_columns([]), *(turn.columns for turn in self.turns)], dim=1)

    @property
    def unread(self) -> Tensor:
        """The columns that the cache does not hold yet, [1+K, T] long."""
        return self.columns[:, self.cache.length :]

    def begin_turn(
        self,
        text: str | None = None,
        sample_rate: int | None = None,
        *,
        image: object = None,
        video: object = None,
    ) -> UserTurn:
        """A user's turn begins; one that is still open is forgotten.

        Args: see `contract.Conversation.begin_turn`.

        Raises:
            UserError: text that is too long or no text, an image or a video. The conversation is
                then as it was before.
        """
        refuse_shown(image, video)
        return UserTurn(self, text, sample_rate)

    def reply(
        self, turn: contract.UserTurn, options: ReplyOptions
    ) -> Generator[ReplyChunk, None, None]:
        """Answer a finished turn; see `contract.Conversation.reply`."""
        assert isinstance(turn, UserTurn), f"a {type(turn).__name__} is no turn of this family"
        return stream_reply(turn, options)

    def reset(self) -> None:
        """Begin anew."""
        self.turns, self.open_turn = [], None
        # A reply that still runs goes on in the cache it began with, and so disturbs nothing.
        self.cache = self.model.checkpoint.model.new_cache()

    def save(self, path: str | os.PathLike) -> None:
        """Write the conversation to a file, without a turn that is still open.

        Raises:
            UserError: the file can't be written.
        """
        turns = self.turns if self.open_turn is None else self._before
        write_turns(
            path,
            [turn.columns for turn in turns],
            [turn.prompt_length for turn in turns],
            self.model.checkpoint,
        )

    def add(self, columns: Tensor) -> None:
        """Append columns [1+K, T] to the turn that is under way."""
        self.turns[-1].columns = torch.cat([self.turns[-1].columns, columns], dim=1)

    @torch.no_grad()
    def read(self) -> Tensor:
        """Bring the cache up to the last column; returns hidden [T, dim] of those read now."""
        engine, unread = self.model.checkpoint.engine, self.unread
        if not unread.shape[1]:
            return torch.zeros(0, engine.model.config.dim)
        return engine.read(unread[None].to(engine.model.device), [self.cache])[0]

    def open(self) -> Turn:
        """Put a new turn at the end; one that is still open is forgotten."""
        if self.open_turn is not None:
            self.cache = self.model.checkpoint.model.new_cache()  # as in reset
            self.abandon_turn()
        self._before = list(self.turns)
        self.open_turn = Turn(self._text_columns([]), 0)
        self.turns.append(self.open_turn)
        return self.open_turn

    def make_room(self, num_columns: int) -> None:
        """Where that many more columns and a reply do not fit, drop the oldest turns.

        Raises:
            UserError: the turn under way alone is too long.
        """
        limit = self.model.max_input_columns
        lengths = [turn.columns.shape[1] for turn in self.turns]
        if lengths[-1] + num_columns > limit:
            rate = self.model.frame_rate
            raise UserError(
                "error_input_too_long",
                seconds=f"{(lengths[-1] + num_columns) / rate:.1f}",
                limit=f"{limit / rate:.1f}",
            )
        dropped = num_dropped(lengths, num_columns, limit)
        if not dropped:
            return
        del self.turns[:dropped]
        self.cache.reset()
        logger.info(
            f"the context of {self.cache.max_len} positions is nearly full: "
            f"dropped the {dropped} oldest turn(s), reading {len(self.turns)} again"
        )

    def end_turn(self, reply: Tensor) -> None:
        """Keep what was said, [1+K, n], as the reply of the turn under way."""
        turn = self.turns[-1]
        end = self._text_columns([self.model.checkpoint.end_id])
        turn.columns = torch.cat([turn.columns[:, : turn.prompt_length], reply, end], dim=1)
        self.open_turn = None
        said = self.columns.shape[1] - 1  # the end token is always unread
        self.cache.truncate(min(self.cache.length, said))

    def abandon_turn(self) -> None:
        """Forget the open turn, if there is one, as if it had not begun."""
        if self.open_turn is None:
            return
        if len(self.turns) <= len(self._before):
            self.cache.reset()  # turns were dropped for it, and come back
        self.turns, self.open_turn = self._before, None
        self.cache.truncate(min(self.cache.length, self.columns.shape[1]))

    def _text_columns(self, ids: list[int]) -> Tensor:
        return text_columns(ids, self.model.checkpoint.codec.config.num_codebooks)
