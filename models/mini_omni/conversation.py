"""A conversation: what was said; the model answers each turn alone."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from .. import contract
from ..contract import ReplyChunk, ReplyOptions
from ..conversations import check_signature, refuse_shown, signature, write_conversation
from ..errors import UserError
from .reply import stream_reply
from .user_turn import UserTurn

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .speech_model import MiniOmniModel

MAX_SECONDS = 86_400  # of speech, more than any turn has


@dataclasses.dataclass(frozen=True)
class Turn:
    """One user turn and its reply.

    Fields:
        text: what the user wrote.
        seconds: of speech that the user said.
        reply: the reply's text.
    """

    text: str
    seconds: float
    reply: str


class Conversation:
    """What was said so far. The published model knows one turn: it reads none of those before.

    Args:
        model: that speaks in it.
        turns: what was said before.
    """

    def __init__(self, model: MiniOmniModel, turns: list[Turn] | None = None) -> None:
        self.model = model
        self.turns = list(turns or ())
        self.open_turn: UserTurn | None = None  # until its reply has ended

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
        self.open_turn = UserTurn(self, text, sample_rate)
        return self.open_turn

    def reply(
        self, turn: contract.UserTurn, options: ReplyOptions
    ) -> Generator[ReplyChunk, None, None]:
        """Answer a finished turn; see `contract.Conversation.reply`."""
        assert isinstance(turn, UserTurn), f"a {type(turn).__name__} is no turn of this family"
        return stream_reply(turn, options)

    def end_turn(self, reply: str) -> None:
        """Keep the open turn and what was said in reply to it."""
        assert self.open_turn is not None, "no turn is open"
        turn = self.open_turn
        self.turns.append(Turn(turn.text, turn.seconds_heard, reply))
        self.open_turn = None

    def reset(self) -> None:
        """Begin anew."""
        self.turns, self.open_turn = [], None

    def save(self, path: str | os.PathLike) -> None:
        """Write the conversation to a file, without a turn that is still open.

        Raises:
            UserError: the file can't be written.
        """
        turns = [dataclasses.asdict(turn) for turn in self.turns]
        content = signature(self.model.checkpoint) | {"turns": turns}
        write_conversation(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())


def read_turns(path: str | os.PathLike, checkpoint: Checkpoint) -> list[Turn]:
    """Read what `Conversation.save` wrote.

    Raises:
        UserError: no such file, a damaged one, or one of another checkpoint.
    """
    name = Path(path).name
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("error_no_conversation", name=name) from error
    if not isinstance(content, dict):
        raise UserError("error_no_conversation", name=name)
    check_signature(content, checkpoint, name)
    try:
        turns = [Turn(**turn) for turn in content["turns"]]
    except (KeyError, TypeError) as error:
        raise UserError("error_conversation_damaged", name=name) from error
    if not all(map(_fits, turns)):
        raise UserError("error_conversation_damaged", name=name)
    return turns


def _fits(turn: Turn) -> bool:
    """Whether a turn is one that can be saved again."""
    if type(turn.seconds) not in (int, float) or not 0 <= turn.seconds < MAX_SECONDS:
        return False
    try:
        for text in (turn.text, turn.reply):
            str.encode(text)
    except (TypeError, UnicodeEncodeError):
        return False
    return True
