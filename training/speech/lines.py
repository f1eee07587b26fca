"""What is to be said: the dialogues as lines for the teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..dialogues import EMOTIONS, NEAR_STYLES, STYLE_FOR_EMOTION, STYLES, UNCLEAR, Dialogues, Intent
from .recordings import Line
from .speakers import PLAIN

FOREIGN = Path(__file__).parent / "foreign.txt"
PLAUSIBLE_EMOTION = 0.7  # share of utterances spoken in an emotion that their words suggest
UNRELATED_SHARE = 0.5  # of those in all of Kokoro's voices: in any, which the voice alone tells


def user_lines(
    dialogues: Dialogues,
    rounds: int,
    seed: int,
    heldout: bool = False,
    plain: bool = False,
    other: bool = False,
) -> list[Line]:
    """Every user line, `rounds` times in voices and emotions of their own, in a random order.

    Args:
        plain: no emotions, and no voices but the teacher's own; see `speakers.PLAIN`.
        other: in blends of all of Kokoro's voices, half of them in any emotion whatever the words
            say; see `speakers.draw_other_user`.
    """
    rng = np.random.default_rng(seed)
    texts = [
        (intent.name, text, intent)
        for intent in dialogues.intents
        for text in (intent.held if heldout else intent.users)
    ]
    for kind, (users, held) in dialogues.followups.items():
        texts += [(f"follow.{kind}", text, None) for text in (held if heldout else users)]
    lines = []
    for _ in range(rounds):
        for index in rng.permutation(len(texts)):
            source, text, intent = texts[index]
            voice = int(rng.integers(2**31))
            tells = not other or rng.random() >= UNRELATED_SHARE
            manner = PLAIN if plain else draw_emotion(intent if tells else None, rng)
            lines.append(
                Line(
                    source=source,
                    text=text,
                    manner=manner,
                    seed=voice,
                    heldout=heldout,
                    other=other,
                )
            )
    return lines


def foreign_lines(rounds: int, seed: int, heldout: bool = False) -> list[Line]:
    """Every line of foreign.txt as phonemes, `rounds` times, in a random order."""
    rng = np.random.default_rng(seed)
    mark = "held" if heldout else "user"
    rows = FOREIGN.read_text(encoding="utf-8").splitlines()
    texts = [row.split(" | ")[-1] for row in rows if row.startswith(f"{mark} ")]
    return [
        Line(
            source=UNCLEAR,
            text=texts[index],
            manner=str(rng.choice(EMOTIONS)),
            seed=int(rng.integers(2**31)),
            heldout=heldout,
        )
        for _ in range(rounds)
        for index in rng.permutation(len(texts))
    ]


def draw_emotion(intent: Intent | None, rng: np.random.Generator) -> str:
    """A user emotion, mostly one that the intent's words suggest; any for a follow-up."""
    if intent is not None and rng.random() < PLAUSIBLE_EMOTION:
        return str(rng.choice(intent.emotions))
    return str(rng.choice(EMOTIONS))


def reply_lines(dialogues: Dialogues, seed: int) -> list[Line]:
    """Every reply in the styles it may be asked for, the most needed ones of all intents first."""
    rng = np.random.default_rng(seed)
    rows = [_reply_lines(intent) for intent in dialogues.intents]
    lines = []
    for rank in range(max(map(len, rows))):
        ranked = [row[rank] for row in rows if rank < len(row)]
        lines += [ranked[index] for index in rng.permutation(len(ranked))]
    return lines


def _reply_lines(intent: Intent) -> list[Line]:
    """First one reply to each likely emotion, and what follow-ups ask for; then all others."""
    styled = styled_replies(intent)
    likely = dict.fromkeys(STYLE_FOR_EMOTION[emotion] for emotion in intent.emotions)
    styles = [*likely, *(style for style in STYLES if style not in likely)]
    follow = [(text, style) for style in followup_styles(intent) for text in intent.then.values()]
    first = [(styled[style][0], style) for style in styles]
    others = [(text, style) for style in styles for text in styled[style][1:]]
    written = [pair for pair in others if pair[1] in intent.replies]
    num_followups = len(intent.then)
    order = [*first[:1], *follow[:num_followups], *first[1:3], *written, *follow[num_followups:]]
    order += [pair for pair in (*first[3:], *others) if pair not in order]
    return [
        Line(source=intent.name, text=text, manner=style) for text, style in dict.fromkeys(order)
    ]


def styled_replies(intent: Intent) -> dict[str, tuple[str, ...]]:
    """What is replied in each style: what was written for it, else a reply of a near style."""
    return {
        style: intent.replies.get(style)
        or next(intent.replies[near] for near in NEAR_STYLES[style] if near in intent.replies)[:1]
        for style in STYLES
    }


def followup_styles(intent: Intent) -> tuple[str, ...]:
    """The styles in which a follow-up to this intent is answered."""
    return tuple(dict.fromkeys((STYLE_FOR_EMOTION[intent.emotions[0]], "warm")))
