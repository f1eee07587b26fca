"""A turn answered once more: by which model, and from where in the conversation."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.contract import Conversation, SpeechModel, SystemPrompts
from models.errors import UserError

from .answering import reply_to
from .listener import read_speech
from .turn import ShownTurn

if TYPE_CHECKING:
    from .session import Session


@dataclass(frozen=True)
class OnceMore:
    """How a turn is answered once more.

    Fields:
        turn: that was answered before.
        model: that answers now, in a conversation.
        knows_before: the conversation holds what was said before the turn.
        label: the model's name where the reply is to be compared; None where it takes the place.
    """

    turn: ShownTurn
    model: SpeechModel
    conversation: Conversation
    knows_before: bool
    label: str | None

    def mark(self, turn: ShownTurn) -> None:
        """Note on the new turn what it is."""
        turn.knows_before = self.knows_before
        if self.label is not None:
            turn.model, turn.beside = self.label, self.turn.name


def again(session: Session, name: object, **options) -> Generator[ShownTurn | None]:
    """Answer a turn once more, from where the conversation was then; as `Session.answer`.

    If it is the last turn, the conversation goes on from the new reply.

    Args:
        name: of the turn.

    Raises:
        UserError: as `Session.answer`; there is no such turn, or what was before it is not kept.
    """
    yield from _answer(session, name, session.model, None, options)


def beside(
    session: Session, name: object, model: SpeechModel, label: str, **options
) -> Generator[ShownTurn | None]:
    """Answer a turn once more to compare the replies; the conversation goes on as it was.

    A checkpoint that can't read the conversation answers without what was said before.

    Args:
        name: of the turn.
        model: that answers.
        label: its name, as it is shown.

    Raises:
        UserError: as `again`.
    """
    yield from _answer(session, name, model, label, options)


def _answer(
    session: Session, name: object, model: SpeechModel, label: str | None, options: dict
) -> Generator[ShownTurn | None]:
    """Answer a turn once more, as `again`, or where there is a `label` as `beside`."""
    _repeatable(session, name)  # else the reply under way goes on
    stop = session.hearing.take_floor(session.limits.wait_seconds)
    if stop is None:
        return
    with session.floor.given_at_fault():
        turn = _repeatable(session, name)  # what had the floor may have begun a new conversation
        more = _once_more(turn, model, session.system, session.model, label)
        clip = read_speech(turn.audio, session.limits) if turn.audio else None
    yield from reply_to(
        session, clip, turn.text, turn.audio, stop, image=turn.image, video=turn.video,
        again=more, **options,
    )  # fmt: skip


def _repeatable(session: Session, name: object) -> ShownTurn:
    """The turn of a name, which can be answered once more.

    Raises:
        UserError: there is none, or what was before it is not kept.
    """
    turn = session.transcript.turn(name)
    if not turn.can_repeat:
        raise UserError("error_cannot_repeat")
    return turn


def _once_more(
    turn: ShownTurn, model: SpeechModel, system: str | None, own: SpeechModel, label: str | None
) -> OnceMore:
    """Prepare to answer a turn once more.

    Args:
        system: of the conversation, if it has a system prompt.
        own: the model that speaks in it; another one may not know what was said before.
        label: see `OnceMore`.

    Raises:
        UserError: what was said before can't be read any more.
    """
    if turn.before is None:
        return OnceMore(turn, model, new_conversation(model, system), True, label)
    try:
        return OnceMore(turn, model, model.load_conversation(turn.before), True, label)
    except UserError:
        if model is own:
            raise
        return OnceMore(turn, model, new_conversation(model, system), False, label)


def new_conversation(model: SpeechModel, system: str | None) -> Conversation:
    """A new conversation, with a system prompt where there is one and the model can be told."""
    if system and isinstance(model, SystemPrompts):
        return model.new_conversation_with(system)
    return model.new_conversation()
