"""The conversation as chat.js shows it: one JSON object, whose size does not grow with it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .glosses import gloss_of
from .session import Session
from .turn import ShownTurn
from .words import each, next_number

SHOWN_TURNS = 2  # always sent; a page that skipped a value finds the last one there


def chat_value(
    session: Session, turns: Sequence[ShownTurn] = (), *, all_turns: bool = False
) -> str:
    """Turns as chat.js shows them.

    Args:
        turns: that have changed; the last of the conversation are sent with them.
        all_turns: they are all there are, in order, and what is shown goes.
    """
    shown = [turn for turn in turns if turn in session.turns[:-SHOWN_TURNS]]
    shown += session.turns[-SHOWN_TURNS:]
    value = {"conversation": session.transcript.name, "turns": [_shown(turn) for turn in shown]}
    return _json(value | ({"cleared": True} if all_turns else {}))


def cleared_value(name: str) -> str:
    """A new conversation, which the user has asked for."""
    return _json({"conversation": name, "cleared": True, "turns": []})


def nothing_value() -> str:
    """There is no conversation to restore."""
    return _json({"conversation": None, "turns": [], "restored": True})


def _shown(turn: ShownTurn) -> dict:
    perceived = "perceived_spoken" if turn.audio else "perceived_written"
    return {
        "name": turn.name,
        "again": turn.again_of,
        "beside": turn.beside,
        "user": {
            "text": turn.text,
            "gloss": gloss_of(turn.text),
            "sound": turn.audio,
            "seconds": turn.audio_seconds,
            "image": turn.image,
            "video": turn.video,
            "badge": turn.emotion and {"kind": perceived, "word": each(turn.emotion)},
        },
        "reply": {
            "text": turn.reply,
            "gloss": gloss_of(turn.reply) if turn.ended else None,
            "sound": turn.reply_audio,
            "seconds": turn.seconds,
            "badge": turn.style and {"kind": "tone", "word": each(turn.style)},
            "heard": turn.heard,
            "growing": not turn.ended,
            "stopped": turn.stopped,
            "marks": [[end, round(seconds, 3)] for end, seconds in turn.marks],
            "seed": None if turn.seed is None else str(turn.seed),
            "rating": turn.rating,
            "can_repeat": turn.can_repeat and not turn.beside,
            "model": turn.model,
            "settings": _settings(turn),
            "knows_before": turn.knows_before,
        },
    }


def _settings(turn: ShownTurn) -> dict:
    """The settings that another reply may have other values of."""
    kept = {key: value for key, value in turn.settings.items() if key not in ("seed", "max_frames")}
    return {key: value for key, value in kept.items() if isinstance(value, (int, float, str))}


def _json(value: dict) -> str:
    """As JSON with its number, in which nothing looks like a tag, whatever was said."""
    return json.dumps({**value, "number": next_number()}, allow_nan=False).replace("<", "\\u003c")
