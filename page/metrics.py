"""What can be measured of the page while it runs, for Prometheus; of all pages of a process."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from threading import Event

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from models.contract import ReplyChunk
from models.errors import UserError

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
RATES = (5.0, 10.0, 15.0, 20.0, 21.5, 25.0, 30.0, 40.0, 60.0, 100.0, 200.0, 400.0)

FIRST_SOUND = Histogram(
    "westlake_first_sound_seconds",
    "From a complete turn, its wait for a free place included, to the reply's first samples.",
    buckets=SECONDS,
)
FRAME_RATE = Histogram(
    "westlake_reply_frames_per_second", "Frames of speech a second of each reply.", buckets=RATES
)
FRAMES = Counter("westlake_frames", "Frames of speech that were made.")
REPLIES = Counter("westlake_replies", "Replies by how they ended.", ["end"])
ERRORS = Counter("westlake_errors", "What users were told went wrong, by its code.", ["kind"])
REFUSED = Counter("westlake_refused_requests", "Requests that went no further.", ["status"])
QUEUE = Gauge("westlake_queue_length", "Replies that wait for their turn.")
SPEAKING = Gauge("westlake_replies_under_way", "Replies that are being made.")
SESSIONS = Gauge("westlake_sessions", "Conversations that are kept.")


def measured(
    chunks: Generator[ReplyChunk, None, None], since: float, stop: Event | None = None
) -> Generator[ReplyChunk, None, None]:
    """Pass a reply on, and measure it.

    Args:
        chunks: from `generate_long`.
        since: `time.monotonic()` when the turn was complete.
        stop: of `generate_long`: if it is set before the reply is whole, it was left.
    """
    started, num_frames, end = time.monotonic(), 0, "error"
    is_silent, is_whole, seconds = True, False, 0.0
    try:
        with SPEAKING.track_inprogress(), closing(chunks):
            before = started
            for chunk in chunks:
                now = time.monotonic()
                seconds += now - before
                if is_silent and len(chunk.new_audio):
                    FIRST_SOUND.observe(now - since)
                    is_silent = False
                FRAMES.inc(chunk.total_frames - num_frames)
                num_frames, is_whole = chunk.total_frames, chunk.is_whole
                yield chunk
                before = time.monotonic()  # who takes the chunks may take their time
        end = "left" if stop and stop.is_set() and not is_whole else "whole"
    except GeneratorExit:
        end = "left"
        raise
    finally:
        REPLIES.labels(end).inc()
        if num_frames and seconds:
            FRAME_RATE.observe(num_frames / seconds)


def count_error(error: Exception) -> None:
    """Count what a user is told: by its code, or as "internal" if it was no fault of theirs."""
    ERRORS.labels(error.code if isinstance(error, UserError) else "internal").inc()


def exposition() -> bytes:
    """All figures, and those of the process, in Prometheus' text format."""
    return generate_latest()
