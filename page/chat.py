"""The conversation as chat.js shows it: one JSON object, whose size does not grow with it."""

from __future__ import annotations

import json

from .session import Session
from .turn import ShownTurn
from .words import each

SHOWN_TURNS = 2  # sent at each step; a page that skipped a value finds the last one there


def chat_value(session: Session, num_turns: int = SHOWN_TURNS) -> str:
    """The last turns, as chat.js shows them."""
    turns = [_shown(turn) for turn in session.turns[-num_turns:]]
    return _json({"conversation": session.name, "turns": turns})


def cleared_value(name: str) -> str:
    """A new conversation, which the user has asked for."""
    return _json({"conversation": name, "cleared": True, "turns": []})


def nothing_value() -> str:
    """There is no conversation to restore."""
    return _json({"conversation": None, "turns": [], "restored": True})


def _shown(turn: ShownTurn) -> dict:
    last = turn.last
    emotion, style = (last.emotion, last.style) if last else (None, None)
    return {
        "name": turn.name,
        "user": {
            "text": turn.text,
            "sound": turn.audio,
            "seconds": turn.audio_seconds,
            "badge": emotion and {"kind": "perceived", "word": each(emotion)},
        },
        "reply": {
            "text": turn.reply,
            "sound": turn.reply_audio,
            "seconds": last.total_seconds if last else 0,
            "badge": style and {"kind": "tone", "word": each(style)},
            "growing": not turn.ended,
            "stopped": turn.stopped,
        },
    }


def _json(value: dict) -> str:
    """As JSON in which nothing looks like a tag, whatever was said."""
    return json.dumps(value).replace("<", "\\u003c")
