"""A sound or a turn looked at: what inspect.js draws, as JSON values."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from generate import generate_long
from models.audio import AudioClip
from models.contract import FramedTurn, Frames, ReplyChunk, SpeechCodec, SpeechModel
from models.errors import UserError
from models.level import level_speech
from models.prosody import liveliness, mel_picture, outline, prosody

from .metrics import measured

OUTLINE_POINTS = 900
MAX_CURVE = 1500  # values of a curve that are sent
MAX_COLUMNS = 240  # of a token grid that are shown

Keep = Callable[[np.ndarray, int], str]  # samples and their rate -> the path of a wav file


def look(
    model: SpeechModel,
    clip: AudioClip | None,
    text: str,
    options: dict[str, Any],
    keep: Keep,
    *,
    answers: bool,
    since: float,
    log_content: bool,
) -> Iterator[dict[str, Any]]:
    """Look at a sound and its copy by the codec, and at the turn that it makes.

    Args:
        clip: the sound, if there is one.
        options: of `generate_long`.
        keep: writes a sound where the page may read it.
        answers: the model answers, which makes a turn of it.
        since: when it was asked for, by time.monotonic.

    Yields:
        Pieces named "sound", "copy", "turn", "progress" and "reply", as they are ready.
    """
    if clip is not None:
        samples = clip.samples.numpy()
        yield {"sound": _shown(samples, clip.sample_rate, keep)}
        if isinstance(model, SpeechCodec):
            yield {"copy": _copy(model, model.sample_rate, clip, keep)}
        elif not answers:
            yield {"no_codec": True}
    if answers:
        yield from _turn(model, clip, text, options, keep, since, log_content)


def _copy(codec: SpeechCodec, sample_rate: int, clip: AudioClip, keep: Keep) -> dict[str, Any]:
    codes = codec.encode(clip.samples, clip.sample_rate)
    wave = codec.decode(codes)
    semantic = np.ones(codes.shape[1], bool)
    frames = Frames(text=("<|semantic|>",) * codes.shape[1], codes=codes, semantic=semantic)
    return _shown(wave, sample_rate, keep) | {"grid": grid([frames])}


def _turn(
    model: SpeechModel,
    clip: AudioClip | None,
    text: str,
    options: dict,
    keep: Keep,
    since: float,
    log: bool,
) -> Iterator[dict[str, Any]]:
    if clip is None and not text:
        raise UserError("error_nothing_given")
    conversation = model.new_conversation()
    turn = conversation.begin_turn(text or None, clip.sample_rate if clip else None)
    if clip is not None:
        turn.push(level_speech(clip).samples)
    started = time.perf_counter()
    chunks: list[ReplyChunk] = []
    arrived: list[float] = []
    chunks_made = generate_long(model, audio=turn, log_content=log, **options)
    with closing(measured(chunks_made, since)) as reply:
        if isinstance(turn, FramedTurn):
            yield {"turn": {"grid": grid([turn.frames])}}
        for chunk in reply:
            chunks.append(chunk)
            arrived.append(time.perf_counter() - started)
            yield {"progress": {"done": chunk.total_seconds, "total": chunk.max_seconds}}
    wave = np.concatenate([chunk.new_audio for chunk in chunks])
    shown = _shown(wave, model.sample_rate, keep) if len(wave) else {}
    frames = [chunk.new_frames for chunk in chunks if chunk.new_frames is not None]
    last = chunks[-1]
    yield {
        "reply": shown
        | {
            "text": "".join(chunk.new_text for chunk in chunks),
            "emotion": last.emotion,
            "style": last.style,
            "heard": last.heard,
            "seed": last.seed,
            "grid": grid(frames) if frames else None,
            "timings": timings(chunks, arrived),
        }
    }


def timings(chunks: list[ReplyChunk], arrived: list[float]) -> dict[str, Any]:
    """When a reply's frames and its sound came, in seconds since it was asked for.

    From frame to frame counts what is spoken: `allowed` is how long that sounds.

    Args:
        arrived: when each chunk was there.
    """
    last = chunks[-1]
    first_sound = next((at for chunk, at in zip(chunks, arrived) if len(chunk.new_audio)), None)
    frames = [at for chunk in chunks for at in _when_spoken(chunk)]
    intervals = np.diff(frames).tolist()
    return {
        "first_frame": last.first_frame_seconds,
        "first_sound": first_sound,
        "total": arrived[-1],
        "frames": last.total_frames,
        "factor": arrived[-1] / last.total_seconds if last.total_seconds else None,
        "allowed": last.total_seconds / last.total_frames if last.total_frames else None,
        "intervals": [round(value, 5) for value in intervals],
        "median": float(np.median(intervals)) if intervals else None,
        "slowest": max(intervals, default=None),
    }


def _when_spoken(chunk: ReplyChunk) -> list[float]:
    if chunk.new_frames is None:
        return list(chunk.frame_seconds)
    columns = chunk.new_frames.codes.T.tolist()
    return [at for at, codes in zip(chunk.frame_seconds, columns, strict=True) if max(codes) >= 0]


def grid(parts: list[Frames]) -> dict[str, Any]:
    """Columns for inspect.js: the first ones, and how many there are."""
    text = [token for part in parts for token in part.text]
    codes = np.concatenate([part.codes for part in parts], axis=1)[:, :MAX_COLUMNS]
    semantic = np.concatenate([part.semantic for part in parts])
    return {
        "text": text[:MAX_COLUMNS],
        "codes": codes.tolist(),
        "semantic": semantic[:MAX_COLUMNS].tolist(),
        "count": len(text),
        "num_semantic": int(semantic.sum()),
    }


def _shown(samples: np.ndarray, sample_rate: int, keep: Keep) -> dict[str, Any]:
    """A sound's pictures, and where it can be heard."""
    curves = prosody(samples, sample_rate)
    mel = mel_picture(samples, sample_rate)
    found = liveliness(curves)
    every = -(-len(curves.pitch) // MAX_CURVE)
    return {
        "path": keep(samples, sample_rate),
        "seconds": len(samples) / sample_rate,
        "sample_rate": sample_rate,
        "outline": outline(samples, OUTLINE_POINTS).round(4).tolist(),
        "mel": {
            "bands": mel.shape[0],
            "columns": mel.shape[1],
            "data": base64.b64encode(mel.tobytes()).decode(),
        },
        "pitch": [round(float(hz), 1) if np.isfinite(hz) else None for hz in curves.pitch[::every]],
        "loudness": curves.loudness[::every].round(1).tolist(),
        "liveliness": vars(found) if found else None,
    }
