"""Speech and text in, speech and text out: `generate_long`, and the command line around it."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, starmap, zip_longest
from pathlib import Path
from threading import Event

import numpy as np
import torch
from loguru import logger
from tqdm import tqdm

from models.audio import AudioClip, load_audio, to_pcm16
from models.westlake.checkpoint import Checkpoint, load_checkpoint
from models.westlake.conversation import Conversation, Turn, UserTurn
from models.westlake.dual_ar import Reply, SamplingConfig, Stepper
from models.westlake.speech import ReplyChunk, Speech

FIRST_CHUNK_FRAMES = 2
CHUNK_FRAMES = 16


def generate_long(
    checkpoint: Checkpoint,
    *,
    audio: str | Path | tuple[int, np.ndarray] | AudioClip | UserTurn | None = None,
    text: str | None = None,
    conversation: Conversation | None = None,
    sampling: SamplingConfig | None = None,
    style: str | None = None,
    max_new_tokens: int | None = None,
    max_seconds: float = 60.0,
    first_chunk_frames: int = FIRST_CHUNK_FRAMES,
    chunk_frames: int = CHUNK_FRAMES,
    stop: Event | None = None,
    stepper: Stepper | None = None,
) -> Iterator[ReplyChunk]:
    """Answer a user's speech, text, or both.

    The text stands on the first frames of the speech, as the model was trained; text of more
    tokens than the speech has frames stands in front of the speech instead, so nothing is cut.

    Args:
        checkpoint: from `load_checkpoint`.
        audio: the user's speech: a file, (sample rate, samples), a clip, or a turn that was
            listened to while it was spoken (its text was given to it, and its conversation is
            the one that goes on).
        text: what the user wrote.
        conversation: the conversation to go on with; None for a single turn. What is said of the
            reply is kept in it, also when the caller stops early.
        sampling: how tokens are drawn; None for the checkpoint's own settings.
        style: the style the reply shall have, one of `checkpoint.style_ids`; None leaves it to
            the model.
        max_new_tokens: frames at most; None for as many as the model's context has room for.
        max_seconds: the longest speech allowed.
        first_chunk_frames: frames in the first chunk; few give an early first sound.
        chunk_frames: frames in the others at most: each has twice as many as the one before, so
            that the next one is there before a chunk has been played.
        stop: when set, the reply ends within one frame.
        stepper: shared by replies that are made at the same time, in threads of their own, so that
            the model's weights are read once for all of them.

    Yields:
        ReplyChunk; at least one, which is empty if the reply is.

    Raises:
        ValueError: neither speech nor text, bad speech, an unknown style, a value out of range, a
            `text` or another `conversation` beside a turn that was listened to. The conversation
            is then as it was before.
    """
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("first_chunk_frames", first_chunk_frames),
        ("chunk_frames", chunk_frames),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1")
    forced = _forced_tokens(checkpoint, style)
    if isinstance(audio, UserTurn):
        if text or conversation not in (None, audio.conversation):
            raise ValueError("a turn that was listened to has its own text and conversation")
        turn = audio
    else:
        turn = _hear(conversation or Conversation(checkpoint), audio, text, max_seconds)
    turn.finish()
    return _reply(
        _input_line(turn, audio),
        turn.conversation,
        turn.conversation.open_turn,
        sampling or checkpoint.sampling,
        forced,
        max_new_tokens,
        first_chunk_frames,
        chunk_frames,
        stop or Event(),
        stepper or Stepper(checkpoint.model),
    )


def _forced_tokens(checkpoint: Checkpoint, style: str | None) -> Sequence[int | None]:
    if style is None:
        return ()
    if style not in checkpoint.style_ids:
        allowed = ", ".join(checkpoint.style_ids) or "none, this checkpoint has no styles"
        raise ValueError(f"unknown style {style!r}: allowed are {allowed}")
    return (None, checkpoint.style_ids[style])


def _hear(conversation: Conversation, audio, text: str | None, max_seconds: float) -> UserTurn:
    """Put a user turn into the conversation, up to its closing."""
    if audio is None and not (text or "").strip():
        raise ValueError("there is neither speech nor text: record or upload speech, or write text")
    if audio is None:
        return UserTurn(conversation, text)
    clip = audio if isinstance(audio, AudioClip) else load_audio(audio, max_seconds)
    turn = UserTurn(conversation, text, clip.sample_rate)
    turn.push(clip.samples)
    return turn


def _input_line(turn: UserTurn, audio) -> str:
    source = str(audio) if isinstance(audio, (str, Path)) else "recording"
    heard = [("audio", source)] if turn.num_samples else []
    parts = heard + ([("text", turn.text)] if turn.text else [])
    kinds = "+".join(kind for kind, _ in parts)
    return " ".join([">> Input:", *(content for _, content in parts), kinds])


def _reply(
    input_line: str,
    conversation: Conversation,
    turn: Turn,
    sampling: SamplingConfig,
    forced: Sequence[int | None],
    max_new_tokens: int | None,
    chunk_size: int,
    largest_chunk: int,
    stop: Event,
    stepper: Stepper,
) -> Iterator[ReplyChunk]:
    if conversation.open_turn is not turn:
        raise ValueError("the conversation went on before this reply began: ask again")
    logger.info(input_line)
    checkpoint, cache, prompt = conversation.checkpoint, conversation.cache, conversation.unread
    room = cache.max_len - cache.length - prompt.shape[1] - 1
    max_frames = min(room, max_new_tokens or room)
    speech = Speech(checkpoint, max_frames)
    bar = tqdm(total=max_frames)
    started = time.perf_counter()
    reply = None
    try:
        reply = Reply(
            checkpoint.model,
            prompt,
            max_frames,
            sampling,
            checkpoint.end_id,
            cache=cache,
            forced=forced,
        )
        frame = None
        while not reply.ended:
            frame = stepper.next_frame(reply)
            if frame is None:
                break
            if not speech.columns:
                logger.info(f"First Token: {time.perf_counter() - started:.4f}")
            bar.update()
            speech.add(frame, reply.unread[:, 0])
            if len(speech.waiting) == chunk_size:
                stepper.leave(reply)  # until the chunk is out
                yield speech.chunk()
                chunk_size = min(2 * chunk_size, largest_chunk)
            # While the chunk was out, the conversation may have gone on without this reply.
            if stop.is_set() or conversation.open_turn is not turn:
                break
        stepper.leave(reply)
        yield speech.chunk(last=True, ended=frame is None)
    except Exception:
        if not speech.num_said and conversation.open_turn is turn:
            conversation.abandon_turn()
        raise
    finally:
        stepper.leave(reply)
        bar.close()
        if conversation.open_turn is turn:
            said = speech.columns[: speech.num_said]
            conversation.end_turn(torch.stack(said, dim=1).cpu() if said else prompt[:, :0])
        logger.info(f"generated: {speech.num_said} tokens")
        logger.info(f"Gen text: {speech.text}")


def warm_up(checkpoint: Checkpoint) -> None:
    """Make the process ready for its first user, whose reply would else be slower."""
    if not checkpoint.is_large:
        # A second thread gains it little, and the browser or another user waits for that core.
        torch.set_num_threads(1)
    for _ in generate_long(checkpoint, text="你好", max_new_tokens=1):
        pass
    codec = checkpoint.codec
    for num_frames in (1 << n for n in range(CHUNK_FRAMES.bit_length())):  # the chunks' sizes
        codes = torch.zeros(1, codec.config.num_codebooks, num_frames, dtype=torch.long)
        codec.decode_chunk(codes.to(checkpoint.device), codec.new_state())


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that the command line and the page share."""
    parser.add_argument(
        "--checkpoint",
        default="tiny",
        help="tiny (embedded), a folder, or a hub id such as xinchen-ai/Westlake-Omni",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, int8 or int4")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answer speech and text with speech and text.")
    parser.add_argument("--user-audio", action="append", default=[], help="repeat for more turns")
    parser.add_argument("--user-text", action="append", default=[], help="repeat for more turns")
    parser.add_argument("--output", default="reply.wav", help="a wav file, or - for PCM on stdout")
    parser.add_argument("--stream", action="store_true", help="write the wav while it grows")
    add_model_arguments(parser)
    parser.add_argument("--style", help="the reply's style; the model chooses if not given")
    parser.add_argument("--seed", type=int, help="the same seed gives the same reply")
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--repetition-penalty", type=float)
    parser.add_argument("--max-new-tokens", type=int, help="frames of the reply at most")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="longest speech allowed")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Answer every turn that was given, and write the replies one after another."""
    try:
        checkpoint = load_checkpoint(options.checkpoint, options.device, options.dtype)
    except RuntimeError as error:  # the download failed
        raise ValueError(error) from error
    given = {
        name: value
        for name in ("temperature", "top_p", "repetition_penalty", "seed")
        if (value := getattr(options, name)) is not None
    }
    sampling = dataclasses.replace(checkpoint.sampling, **given)
    conversation = Conversation(checkpoint)

    def answer(audio: str | None, text: str | None) -> Iterator[ReplyChunk]:
        return generate_long(
            checkpoint,
            audio=audio,
            text=text,
            conversation=conversation,
            sampling=sampling,
            style=options.style,
            max_new_tokens=options.max_new_tokens,
            max_seconds=options.max_seconds,
        )

    first, *others = list(zip_longest(options.user_audio, options.user_text)) or [(None, None)]
    for audio, _ in others:
        if audio is not None:
            load_audio(audio, options.max_seconds)  # a bad one shows now, not after long replies
    replies = chain([answer(*first)], starmap(answer, others))
    with open_output(options.output, checkpoint.codec.config.sample_rate, options.stream) as write:
        for chunk in chain.from_iterable(replies):
            write(chunk.audio)


@contextmanager
def open_output(path: str, sample_rate: int, stream: bool) -> Iterator[Callable]:
    """Where speech goes: int16 PCM on stdout for -, else a wav file.

    Args:
        path: - or the wav file's.
        sample_rate: in Hz.
        stream: the wav file is a whole one after every write, not only at the end.

    Raises:
        ValueError: the file can't be written.
    """
    if path == "-":

        def pipe(audio: np.ndarray) -> None:
            sys.stdout.buffer.write(to_pcm16(audio).tobytes())
            sys.stdout.buffer.flush()

        yield pipe
        return
    try:
        with open(path, "wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)

            def write(audio: np.ndarray) -> None:
                samples = to_pcm16(audio).tobytes()
                if stream:
                    file.writeframes(samples)  # and their number into the header
                    raw.flush()
                else:
                    file.writeframesraw(samples)

            yield write
    except OSError as error:
        raise ValueError(
            f"can't write {path} ({error.strerror or error}): give a file in a folder you own"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except ValueError as error:
        print("generate.py:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except BrokenPipeError:  # who listened has left: what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
