"""What is to be said: the dialogues as lines for the teacher."""

from __future__ import annotations

import numpy as np

from ..dialogues import EMOTIONS, STYLE_FOR_EMOTION, STYLES, Dialogues, Intent
from .recordings import Line

PLAUSIBLE_EMOTION = 0.7  # share of utterances spoken in an emotion that their words suggest


def user_lines(dialogues: Dialogues, rounds: int, seed: int, heldout: bool = False) -> list[Line]:
    """Every user line, `rounds` times in voices and emotions of their own, in a random order."""
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
            emotion = draw_emotion(intent, rng)
            lines.append(
                Line(source=source, text=text, manner=emotion, seed=voice, heldout=heldout)
            )
    return lines


def draw_emotion(intent: Intent | None, rng: np.random.Generator) -> str:
    """A user emotion, mostly one that the intent's words suggest; any for a follow-up."""
    if intent is not None and rng.random() < PLAUSIBLE_EMOTION:
        return str(rng.choice(intent.emotions))
    return str(rng.choice(EMOTIONS))


def reply_lines(dialogues: Dialogues, seed: int) -> list[Line]:
    """Every reply in the styles it may be asked for; first each in the one it was written for."""
    rng = np.random.default_rng(seed)
    written, styled = [], []
    for intent in dialogues.intents:
        for style, texts in styled_replies(intent).items():
            lines = [Line(source=intent.name, text=text, manner=style) for text in texts]
            (written if style in intent.replies else styled).extend(lines)
        first, *others = followup_styles(intent)
        for text in intent.then.values():
            written.append(Line(source=intent.name, text=text, manner=first))
            styled += [Line(source=intent.name, text=text, manner=style) for style in others]
    return [lines[i] for lines in (written, styled) for i in rng.permutation(len(lines))]


def styled_replies(intent: Intent) -> dict[str, tuple[str, ...]]:
    """What is replied in each style: what was written for it, else a reply of a near style."""
    everything = {style: intent.replies.get(style, ()) for style in STYLES}
    nearest = {
        "warm": ("calm", "comforting", "encouraging", "cheerful"),
        "cheerful": ("warm", "encouraging", "calm", "comforting"),
        "comforting": ("warm", "calm", "encouraging", "cheerful"),
        "calm": ("warm", "comforting", "encouraging", "cheerful"),
        "encouraging": ("warm", "cheerful", "calm", "comforting"),
    }
    return {
        style: texts or next(everything[other] for other in nearest[style] if everything[other])[:1]
        for style, texts in everything.items()
    }


def followup_styles(intent: Intent) -> tuple[str, ...]:
    """The styles in which a follow-up to this intent is answered."""
    return tuple(dict.fromkeys((STYLE_FOR_EMOTION[intent.emotions[0]], "warm")))
