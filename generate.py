"""Speech and text in, speech and text out: `generate_long`, and the command line around it."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import sys
import unicodedata
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, starmap, zip_longest
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from loguru import logger
from tqdm import tqdm

from models.audio import MAX_FILE_BYTES, AudioClip, check_max_seconds, load_audio
from models.audio_output import check_output, open_output
from models.contract import (
    Conversation,
    ReplyChunk,
    ReplyOptions,
    SpeechModel,
    SystemPrompts,
    UserTurn,
)
from models.errors import UserError, shown
from models.level import level_speech
from models.load import load_model

FIRST_CHUNK_FRAMES = ReplyOptions.first_chunk_frames
CHUNK_FRAMES = ReplyOptions.chunk_frames


def generate_long(
    model: SpeechModel,
    *,
    audio: str | Path | tuple[int, np.ndarray] | AudioClip | UserTurn | None = None,
    text: str | None = None,
    image: Any = None,
    video: Any = None,
    voice: str | None = None,
    conversation: Conversation | None = None,
    sampling: Any = None,
    style: str | None = None,
    max_new_tokens: int | None = None,
    max_seconds: float = 60.0,
    first_chunk_frames: int = FIRST_CHUNK_FRAMES,
    chunk_frames: int = CHUNK_FRAMES,
    stop: Event | None = None,
    log_content: bool = True,
) -> Generator[ReplyChunk, None, None]:
    """Answer what a user says, writes or shows.

    What the user gave is heard by the call itself; the reply is made as its chunks are asked for.

    Args:
        model: from `load_model`.
        audio: the user's speech: a file, (sample rate, samples), a clip, or a turn that was
            listened to while it was spoken (its text was given to it, and its conversation is
            the one that goes on). Quiet speech of a file or of samples is raised first.
        text: what the user wrote.
        image, video: what the user shows, where `model.accepts` has it.
        voice: of `model.voices`; None leaves it to the model.
        conversation: the conversation to go on with; None for a single turn. What is said of the
            reply is kept in it, also when the caller stops early.
        sampling: how tokens are drawn, as `model.sampling` is; None for that.
        style: of `model.styles`; None leaves it to the model.
        max_new_tokens: frames at most; None for as many as the model's context has room for.
        max_seconds: the longest speech allowed.
        first_chunk_frames: frames in the first chunk; few give an early first sound.
        chunk_frames: frames in the others at most: each has twice as many as the one before, so
            that the next one is there before a chunk has been played.
        stop: when set, the reply ends within one frame.
        log_content: False logs numbers only: no words, no names of files.

    Yields:
        ReplyChunk; at least one, which is empty if the reply is.

    Raises:
        UserError: nothing to answer, or what the model does not accept; bad speech; an unknown
            style or voice; a value of another type or out of range; a `text` or another
            `conversation` beside a turn that was listened to. The conversation is then as it was
            before.
    """
    options = ReplyOptions(
        sampling=sampling,
        style=known("style", style, model.styles),
        voice=known("voice", voice, model.voices),
        max_frames=None if max_new_tokens is None else _count("max_new_tokens", max_new_tokens),
        first_chunk_frames=_count("first_chunk_frames", first_chunk_frames),
        chunk_frames=_count("chunk_frames", chunk_frames),
        stop=stop or Event(),
    )
    given = {"audio": audio, "text": text or None, "image": image, "video": video}
    for kind in (kind for kind, value in given.items() if value is not None):
        if kind not in model.accepts:
            allowed = ", ".join(sorted(model.accepts))
            raise UserError("error_not_accepted", kind=kind, allowed=allowed)
    seen = {kind: given[kind] for kind in ("image", "video") if given[kind] is not None}
    if isinstance(audio, UserTurn):
        if text or seen or conversation not in (None, audio.conversation):
            raise UserError("error_turn_has_its_own")
        turn = audio
    else:
        turn = _hear(conversation or model.new_conversation(), audio, text, max_seconds, seen)
    with _forgotten_at_a_fault(turn):
        turn.finish()
    is_path = isinstance(audio, (str, Path))
    source = str(audio) if is_path else getattr(audio, "source", AudioClip.source)
    return _logged(turn, turn.conversation.reply(turn, options), source, log_content)


def known(kind: str, name: Any, names: Sequence[str]) -> str | None:
    """A name of a model's; None leaves it to the model.

    Args:
        kind: "style" or "voice".
        names: the model's own, of this kind.

    Raises:
        UserError: it is none of them.
    """
    if name is not None and name not in names:
        code = f"error_unknown_{kind}" if names else f"error_no_{kind}s"
        raise UserError(code, name=shown(name), allowed=", ".join(names))
    return name


def num_frames(model: SpeechModel, seconds: float) -> int:
    """The frames of so many seconds of speech, at least one."""
    return max(1, round(seconds * model.frame_rate))


def _count(name: str, value: int) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UserError("error_not_whole", name=name, value=shown(value))
    if value < 1:
        raise UserError("error_not_positive", name=name, value=shown(value))
    return int(value)


def _hear(
    conversation: Conversation, audio, text: str | None, max_seconds: float, seen: dict[str, Any]
) -> UserTurn:
    """Put a user turn into the conversation, up to its closing."""
    if not isinstance(text, str | None):
        raise UserError("error_text_type", type=type(text).__name__)
    if audio is None and not seen and not (text or "").strip():
        raise UserError("error_nothing_given")
    if audio is None:
        return conversation.begin_turn(text, **seen)
    is_clip = isinstance(audio, AudioClip)
    clip = audio if is_clip else level_speech(load_audio(audio, max_seconds))
    turn = conversation.begin_turn(text, clip.sample_rate, **seen)
    with _forgotten_at_a_fault(turn):
        turn.push(clip.samples)
    return turn


@contextmanager
def _forgotten_at_a_fault(turn: UserTurn) -> Iterator[None]:
    """A refusal has ended the turn already, or is of one that is over, whose reply goes on."""
    try:
        yield
    except UserError:
        raise
    except BaseException:
        turn.abandon()
        raise


def _logged(
    turn: UserTurn, chunks: Generator[ReplyChunk, None, None], source: str, log_content: bool
) -> Generator[ReplyChunk, None, None]:
    """Pass a reply on, with the published log lines."""
    logger.info(_input_line(turn, source, log_content))
    texts, bar, num_frames, heard = [], None, 0, None
    try:
        with closing(chunks):
            for chunk in chunks:
                if bar is None:
                    bar = tqdm(total=chunk.max_frames)
                    if chunk.total_frames:
                        logger.info(f"First Token: {chunk.first_frame_seconds:.4f}")
                if chunk.is_whole:
                    bar.total = chunk.total_frames
                bar.update(chunk.total_frames - num_frames)
                num_frames = chunk.total_frames
                texts.append(chunk.new_text)
                heard = chunk.heard
                yield chunk
    finally:
        if bar is not None:
            bar.close()
        logger.info(f"generated: {num_frames} tokens")
        if log_content:
            if heard is not None:
                logger.info(f"Heard: {printable(heard)}")
            logger.info(f"Gen text: {printable(''.join(texts))}")


def _input_line(turn: UserTurn, source: str, log_content: bool) -> str:
    heard = [("audio", source)] if turn.seconds_heard else []
    parts = heard + ([("text", turn.text)] if turn.text else [])
    contents = [printable(content) for _, content in parts] if log_content else []
    return " ".join([">> Input:", *contents, "+".join(kind for kind, _ in parts)])


def printable(text: str) -> str:
    """A user's words as one line of a log: control characters become escapes, as in \\n."""
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that the command line and the page share."""
    parser.add_argument(
        "--checkpoint",
        default="tiny",
        help="tiny (embedded), a folder, or a hub id such as xinchen-ai/Westlake-Omni",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, int8 or int4")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answer speech and text with speech and text.")
    parser.add_argument(
        "--user-audio",
        action="append",
        default=[],
        help="a sound file, or - for one on stdin; repeat for more turns",
    )
    parser.add_argument("--user-text", action="append", default=[], help="repeat for more turns")
    parser.add_argument("--user-image", action="append", default=[], help="likewise, a picture")
    parser.add_argument("--user-video", action="append", default=[], help="likewise, a video")
    parser.add_argument("--output", default="reply.wav", help="a wav file, or - for PCM on stdout")
    parser.add_argument("--stream", action="store_true", help="write the wav while it grows")
    add_model_arguments(parser)
    parser.add_argument("--style", help="the reply's style; the model chooses if not given")
    parser.add_argument("--voice", help="of the model's voices, where it has some")
    parser.add_argument("--system", help="how the model shall be, where it can be told")
    parser.add_argument(
        "--text-only", action="store_true", help="answer without speech, where the model can"
    )
    parser.add_argument(
        "--euler-evaluations",
        type=int,
        help="make speech by so many evaluations of Euler's method: fewer are faster and coarser",
    )
    parser.add_argument("--seed", type=int, help="the same seed gives the same reply")
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--repetition-penalty", type=float)
    parser.add_argument("--max-new-tokens", type=int, help="frames of the reply at most")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="longest speech allowed")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Answer every turn that was given, and write the replies one after another.

    What can be refused without the model is refused before it is loaded.
    """
    check_output(options.output, options.user_audio)
    check_max_seconds(options.max_seconds)
    if options.max_new_tokens is not None:
        _count("max_new_tokens", options.max_new_tokens)
    recordings = [_recording(path, options.max_seconds) for path in options.user_audio]
    given = (recordings, options.user_text, options.user_image, options.user_video)
    turns = list(zip_longest(*given))
    if not turns:
        raise UserError("error_nothing_given")
    try:
        model = load_model(options.checkpoint, options.device, options.dtype, options.revision)
    except RuntimeError as error:  # the download failed
        raise ValueError(error) from error
    sampling = _sampling(model, options)
    conversation = _conversation(model, options.system)

    def answer(
        audio: AudioClip | None, text: str | None, image: str | None, video: str | None
    ) -> Generator[ReplyChunk, None, None]:
        return generate_long(
            model,
            audio=audio,
            text=text,
            image=image,
            video=video,
            voice=options.voice,
            conversation=conversation,
            sampling=sampling,
            style=options.style,
            max_new_tokens=options.max_new_tokens,
            max_seconds=options.max_seconds,
        )

    first, *others = turns
    replies = chain([answer(*first)], starmap(answer, others))
    with open_output(options.output, model.sample_rate, options.stream) as write:
        for reply in replies:
            with closing(reply):
                for chunk in reply:
                    write(chunk.new_audio)


def _conversation(model: SpeechModel, system: str | None) -> Conversation:
    if system is None:
        return model.new_conversation()
    if not isinstance(model, SystemPrompts):
        raise UserError("error_no_systems")
    return model.new_conversation_with(system)


def _sampling(model: SpeechModel, options: argparse.Namespace) -> Any:
    """The model's own settings, changed as the options say."""
    names = ("temperature", "top_p", "repetition_penalty", "seed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.text_only:
        given["speaks"] = False
    if options.euler_evaluations is not None:
        given["euler_evaluations"] = _count("euler_evaluations", options.euler_evaluations)
    for name in given:
        if not hasattr(model.sampling, name):
            raise UserError("error_no_setting", name=name)
    return dataclasses.replace(model.sampling, **given)


def _recording(path: str, max_seconds: float) -> AudioClip:
    """The speech of a file; - is stdin."""
    if path == "-":
        sound = io.BytesIO(sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
        return level_speech(load_audio(sound, max_seconds))
    return dataclasses.replace(level_speech(load_audio(path, max_seconds)), source=path)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except ValueError as error:
        print("generate.py:", printable(" ".join(str(error).split())), file=sys.stderr)
        _drop_stdout()
        return 2
    except BrokenPipeError:  # who listened has left
        _drop_stdout()
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _drop_stdout() -> None:
    """Let what is still buffered go nowhere where it can't be written: else Python's exit fails."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
