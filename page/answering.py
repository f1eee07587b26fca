"""A turn's reply: from the wait for a slot to what is kept of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING

from generate import generate_long
from models.audio import AudioClip
from models.contract import ReplyChunk, UserTurn

from .metrics import measured
from .shelf import label_of
from .transcript import Transcript
from .turn import ShownTurn

if TYPE_CHECKING:
    from .once_more import OnceMore
    from .session import Session


def reply_to(
    session: Session,
    source: AudioClip | UserTurn | None,
    text: str,
    audio: str | None,
    stop: Event,
    *,
    again: OnceMore | None = None,
    patient: bool = False,
    since: float | None = None,
    asked: tuple[str, int] = ("", 0),
    shown: Mapping[str, str] | None = None,
    **options,
) -> Generator[ShownTurn | None]:
    """Answer a turn; the caller has the floor, and the end of the reply gives it.

    Args:
        source: what was said; a turn that was listened to holds what goes with it.
        text, audio: as of `Session.answer`.
        stop: of the turn, see `Hearing.take_floor`.
        again: where the turn was answered before.
        patient: wait long for a slot; None comes while it waits.
        since: when the turn was complete, by time.monotonic; None for now.
        asked: see `ShownTurn`.
        shown: paths of what a `source` that is a turn already holds, by kind.
    """
    turn, model, conversation = None, session.model, session.conversation
    if again:
        model, conversation = again.model, again.conversation
    since = time.monotonic() if since is None else since
    with session.turn_under_way():
        try:
            with ExitStack() as slot:
                if not (yield from session.limiter.reply_when_free(slot, stop, patient)):
                    return
                if not session.hearing.settle(stop):
                    return
                reply = generate_long(
                    model,
                    audio=source,
                    text=text or None,
                    conversation=conversation,
                    stop=stop,
                    log_content=session.log_content,
                    **options,
                )
                chunks = measured(reply, since, stop)
                turn = ShownTurn(text, audio, model.sample_rate, _seconds(source))
                seen = shown or options
                turn.image, turn.video = seen.get("image"), seen.get("video")
                turn.asked = asked
                turn.settings, turn.model = _settings(options), label_of(model)
                if again:
                    again.mark(turn)
                session.transcript.add(turn, again.turn if again else None)
                for path in turn.given:
                    session.files.keep(path)
                yield from _grow(session.transcript, turn, chunks, stop)
                yield turn
        finally:
            if turn:
                turn.forget_sound()
            if turn is None and isinstance(source, UserTurn):  # no slot became free, perhaps
                source.abandon()
            if turn and session.transcript.goes_on_from(turn):
                session.floor.conversation = conversation
                session.transcript.keep_state(conversation)


def _grow(
    transcript: Transcript, turn: ShownTurn, chunks: Generator[ReplyChunk], stop: Event
) -> Generator[ShownTurn]:
    """Let a turn grow by its reply; whatever ends it, what was said of it is kept."""
    is_left = False
    try:
        try:
            yield turn
            for chunk in chunks:
                turn.add(chunk)
                yield turn
        except GeneratorExit:  # the page went on
            is_left = True
            raise
        finally:
            is_left = is_left or stop.is_set()
            stop.set()
            for chunk in chunks:  # the last frames of a reply that is left
                turn.add(chunk)
    except Exception:
        if turn.last is None:
            transcript.turns.remove(turn)
        raise
    finally:
        turn.stopped = is_left and not (turn.last and turn.last.is_whole)
        try:
            transcript.keep_sound(turn)
        finally:
            turn.ended = True


def _settings(options: dict) -> dict:
    """The options of a reply as they are kept with it."""
    return {
        "style": options.get("style"),
        "voice": options.get("voice"),
        "max_frames": options.get("max_new_tokens"),
        **(dataclasses.asdict(options["sampling"]) if options.get("sampling") else {}),
    }


def _seconds(source: AudioClip | UserTurn | None) -> float:
    if source is None:
        return 0.0
    return source.seconds if isinstance(source, AudioClip) else source.seconds_heard
