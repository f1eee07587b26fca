"""A turn answered once more: by which model, and from where in the conversation."""

from __future__ import annotations

from dataclasses import dataclass

from models.contract import Conversation, SpeechModel, SystemPrompts
from models.errors import UserError

from .turn import ShownTurn


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


def once_more(
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
