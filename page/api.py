"""The page's API: `speak` answers a turn, `encode` and `decode` turn sounds into codes and back."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

import gradio as gr
import numpy as np

from generate import generate_long
from models.audio import AudioClip, to_pcm16
from models.audio_output import write_pcm16
from models.contract import SpeechCodec, SystemPrompts
from models.errors import UserError, shown
from models.hub import public_name

from .calls import NAME, called_at, visitor_of
from .checks import check_text, reply_options
from .limiter import READER_SECONDS, Readers
from .listener import read_speech
from .metrics import measured
from .once_more import new_conversation
from .sessions import Sessions
from .told import told
from .turn import ShownTurn

CHUNK_FRAMES = 1024  # at most; chunks double until then
FILES = ("audio", "image", "video")  # among what `speak` takes


class Api:
    """The functions that other programs may call.

    Args:
        sessions: what they share with the page: its limits, its files, its limiter.
    """

    def __init__(self, sessions: Sessions, readers: Readers) -> None:
        self.sessions, self.readers = sessions, readers

    def speak(
        self,
        request: gr.Request,
        audio: gr.FileData | None = None,
        text: str = "",
        style: str = "",
        seed: int = -1,
        sampling: dict | None = None,
        conversation: str = "",
        voice: str = "",
        image: gr.FileData | None = None,
        video: gr.FileData | None = None,
        text_only: bool = False,
        system: str = "",
    ) -> Iterator[tuple[str, gr.FileData | None]]:
        """Answer a sound file, a text, or both, and what is shown with it. Each answer has the text
        so far and the speech so far, as a wav file; the last one has all.

        Args:
            audio: the user's speech, as /upload answered.
            text: what the user wrote.
            style: how the reply is said, one of the model's; empty lets it choose.
            seed: the same one gives the same reply; -1 draws one.
            sampling: the model's settings by name, as {"temperature": 0.7}; null leaves them.
            conversation: any name that you choose: calls with the same one are one conversation.
                Empty is a single turn.
            voice: one of the model's, where it has several; empty is its usual one.
            image: a picture that the user shows, as /upload answered, where the model sees any.
            video: a video likewise.
            text_only: true answers without speech, where the model can.
            system: how the model shall be, where it can be told; it counts from a conversation's
                first turn on. Later turns leave it out, or repeat it.
        """
        given = {
            "audio": audio, "text": text, "style": style, "seed": seed, "sampling": sampling,
            "conversation": conversation, "voice": voice, "image": image, "video": video,
            "text_only": text_only, "system": system,
        }  # fmt: skip
        yield from told(self._speak(request, given))

    def encode(self, request: gr.Request, audio: gr.FileData) -> list[list[int]]:
        """The codec's codes of a sound file: a list for each codebook, a code for each frame.

        Args:
            audio: the sound, as /upload answered.
        """
        return list(told(self._encode(request, audio)))[-1]

    def decode(self, request: gr.Request, codes: list[list[int]]) -> gr.FileData:
        """The sound of codes, as a wav file.

        Args:
            codes: as /encode gives them.
        """
        return list(told(self._decode(request, codes)))[-1]

    def turns(
        self, request: gr.Request, given: Mapping[str, Any], since: float
    ) -> Generator[ShownTurn]:
        """Answer a turn, as `speak` does; yields it each time it has grown, the last time whole.

        Args:
            given: what `speak` takes, by name.
            since: when it was called, by time.monotonic.

        Raises:
            UserError: something is wrong with it, or nobody reads the answer.
        """
        limits, visitor = self.sessions.limits, visitor_of(request.session_hash)
        text = check_text("" if given["text"] is None else given["text"], limits)
        paths = {
            kind: self._path(given[kind], visitor) for kind in FILES if given[kind] is not None
        }
        if not (paths or text):
            raise UserError("error_nothing_given")
        options = self._options(given)
        name, system = self._name(given["conversation"]), self._system(given["system"])
        self._check_read(request)
        path = paths.pop("audio", None)
        clip = read_speech(path, limits) if path else None
        options |= paths  # what is shown
        if name:
            session = self.sessions.open(f"{visitor}.{name}")
            turns = session.answer_clip(clip, text, system=system, since=since, **options)
        else:
            turns = self._single_turn(clip, text, system, since, options)
        with closing(turns):
            yield from (turn for turn in turns if turn is not None and turn.last is not None)

    def _speak(self, request: gr.Request, given: Mapping[str, Any]) -> Generator[tuple]:
        visitor, num_written, written = visitor_of(request.session_hash), 0, None
        with closing(self.turns(request, given, called_at(request))) as turns:
            for turn in turns:
                num_frames = turn.last.total_frames if turn.last else 0
                grown = turn.num_pieces, len(turn.reply)  # the end may have no frames of its own
                if grown != written and (num_frames >= 2 * num_written or turn.ended):
                    num_written, written = num_frames, grown
                    yield turn.reply, self.write(turn, visitor)

    def _single_turn(
        self, clip: AudioClip | None, text: str, system: str, since: float, options: dict
    ) -> Generator[ShownTurn]:
        conversation = new_conversation(self.sessions.model, system)
        with self.sessions.limiter.reply():
            chunks = generate_long(
                self.sessions.model,
                audio=clip,
                text=text or None,
                conversation=conversation,
                log_content=self.sessions.log_content,
                **options,
            )
            turn = ShownTurn(text, None, self.sessions.model.sample_rate)
            for chunk in measured(chunks, since):
                turn.add(chunk)
                yield turn
            turn.ended = True
            yield turn

    def write(self, turn: ShownTurn, visitor: str) -> dict | None:
        """The speech so far as a file of its own, since a client may still read the one before.

        One is written when the speech has doubled, so that all take twice the reply's size.
        """
        if not turn.has_sound:
            return None
        return self._file(turn.write, visitor)

    def _file(self, write, visitor: str) -> dict:
        path = self.sessions.files.make("reply.wav", write, visitor)
        return gr.FileData(path=path).model_dump()

    def _encode(self, request: gr.Request, audio: object) -> Generator[list]:
        path = self._path(audio, visitor_of(request.session_hash))
        clip = read_speech(path, self.sessions.limits)
        with self.sessions.limiter.reply():
            yield self._codec().encode(clip.samples, clip.sample_rate).tolist()

    def _decode(self, request: gr.Request, codes: object) -> Generator[dict]:
        codec, model = self._codec(), self.sessions.model
        limit = self.sessions.limits.max_reply_seconds
        try:
            grid = np.atleast_1d(np.asarray(codes))
        except ValueError:  # lists of several lengths
            grid = np.empty(0)
        if grid.dtype.kind not in "iu":
            grid = np.empty(0)
        if (seconds := grid.shape[-1] / model.frame_rate) > limit:
            raise UserError("error_codes_long", seconds=seconds, limit=limit)
        with self.sessions.limiter.reply():
            wave = codec.decode(grid)
        visitor = visitor_of(request.session_hash)
        pcm = to_pcm16(wave)
        yield self._file(lambda path: write_pcm16(path, pcm, model.sample_rate), visitor)

    def _path(self, audio: object, visitor: str) -> str:
        if not isinstance(audio, dict):
            raise UserError("error_file_kind", kind=type(audio).__name__)
        return self.sessions.files.check(audio.get("path"), visitor)

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        model, limits = self.sessions.model, self.sessions.limits
        settings = self._settings(given["sampling"], given["seed"])
        options = reply_options(
            model, limits, given["style"], limits.reply_seconds, settings,
            voice=given["voice"], text_only=given["text_only"],
        )  # fmt: skip
        return options | {"chunk_frames": CHUNK_FRAMES}

    def _settings(self, sampling: object, seed: object) -> dict[str, Any]:
        if sampling is not None and not isinstance(sampling, dict):
            raise UserError("error_sampling_kind", kind=type(sampling).__name__)
        known = {field.name for field in self.sessions.model.sampling_fields}
        for name in sampling or {}:
            if name not in known:
                raise UserError("error_no_setting", name=shown(name))
        return {**(sampling or {}), "seed": seed}

    def _name(self, conversation: object) -> str:
        name = conversation or ""
        if not isinstance(name, str) or (name and not NAME.fullmatch(name)):
            raise UserError("error_conversation_name")
        return name

    def _system(self, given: object) -> str:
        system = check_text("" if given is None else given, self.sessions.limits)
        if system and not isinstance(self.sessions.model, SystemPrompts):
            raise UserError("error_no_systems")
        return system

    def _check_read(self, request: gr.Request) -> None:
        if not self.readers.is_read(request.session_hash or ""):
            raise UserError("error_not_read", seconds=READER_SECONDS)

    def _codec(self) -> SpeechCodec:
        model = self.sessions.model
        if not isinstance(model, SpeechCodec):
            raise UserError("error_no_codec", name=shown(public_name(model.name)))
        return model
