"""What one tab of the page holds: its conversation, its turns as shown, its microphone."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Event, Lock, Thread
from uuid import uuid4

import numpy as np
import soundfile

from generate import generate_long
from models.audio import load_audio, to_pcm16
from models.contract import Conversation, ReplyChunk, SpeechModel, UserTurn

REPEATED_LINES = 4  # of the speech, at its end: a page that skipped a value finds them there
API_FRAMES = 32  # a chunk of the API: each comes as a file with all speech so far


@dataclass
class ShownTurn:
    """A user's turn and the reply to it, as the page shows them.

    Fields:
        text, audio: what the user gave; the audio is a file.
        reply: the reply's text so far.
        reply_audio: its wav file, once the reply has ended or was stopped.
        pcm: int16 pieces; joined they are what stands in `reply_audio`.
        last: the last chunk that came.
        ended: nothing more will come.
    """

    text: str
    audio: str | None
    sample_rate: int
    name: str = field(default_factory=lambda: uuid4().hex[:8])
    reply: str = ""
    reply_audio: str | None = None
    pcm: list[np.ndarray] = field(default_factory=list)
    last: ReplyChunk | None = None
    stream: str = ""
    ended: bool = False

    @property
    def cut_off(self) -> bool:
        """True if the reply ended at its longest length."""
        return not self.last.ended and self.last.total_frames >= self.last.max_frames

    def add(self, chunk: ReplyChunk) -> None:
        """Take the next chunk of the reply."""
        self.reply += chunk.new_text
        self.last = chunk
        if len(chunk.new_audio):
            self.pcm.append(to_pcm16(chunk.new_audio))
            self.stream = (self.stream or f"{self.name}\n") + self._line(len(self.pcm) - 1)

    @property
    def stream_end(self) -> str:
        """What ends `stream` for the page's player: short, as it is sent once more."""
        num_lines = len(self.pcm)
        lines = map(self._line, range(max(0, num_lines - REPEATED_LINES), num_lines))
        return f"{self.name}\n{''.join(lines)}END {num_lines}\n"

    def _line(self, index: int) -> str:
        pcm = self.pcm[index].astype("<i2").tobytes()
        return f"{index} {base64.b64encode(pcm).decode()}\n"

    def write(self, path: Path) -> None:
        """Write what was said of the reply as a wav file, if anything was."""
        if self.pcm:
            soundfile.write(path, np.concatenate(self.pcm), self.sample_rate, subtype="PCM_16")
            self.reply_audio = str(path)


class Listener:
    """Reads the user's speech into the conversation while it is spoken, or before it is sent.

    A thread of its own does it: pieces of sound arrive faster than a busy machine reads them, and
    none may be lost. It takes the session's lock, and `finish` hands the lock on to its caller.
    """

    def __init__(self, conversation: Conversation, lock: Lock) -> None:
        self._conversation = conversation
        self._lock = lock
        self._heard: list[str | tuple[int, np.ndarray]] = []
        self._turn: UserTurn | None = None
        self._error: Exception | None = None
        self._cancelled = False
        self._pieces: Queue[str | tuple[int, np.ndarray] | None] = Queue()
        self._thread = Thread(target=self._listen, daemon=True)
        self._thread.start()

    def push(self, piece: str | tuple[int, np.ndarray]) -> None:
        """Hear the next piece, a file or (rate, int16 [n] or [n, channels]); returns at once."""
        self._pieces.put(piece)

    def finish(self) -> UserTurn:
        """The user's turn, all of it read; the caller has the session's lock from now on.

        Raises:
            ValueError: nothing was heard, or more than the model's context holds. The lock is
                free then.
        """
        self._pieces.put(None)
        self._thread.join()
        if self._error:
            raise self._error
        return self._turn

    def cancel(self) -> None:
        """Forget what was heard."""
        self._cancelled = True
        self._pieces.put(None)

    def write(self, path: Path) -> str:
        """Write what the microphone heard as a wav file; returns its path."""
        soundfile.write(path, np.concatenate([s for _, s in self._heard]), self._heard[0][0])
        return str(path)

    def _listen(self) -> None:
        with ExitStack() as lock:
            lock.enter_context(self._lock)
            try:
                while (piece := self._pieces.get()) is not None:
                    self._hear(piece)
                if self._turn is None:
                    raise ValueError("nothing was heard: speak for at least half a second")
            except Exception as error:  # raised again where the turn is asked for
                self._error = error
            if not (self._error or self._cancelled):
                lock.pop_all()  # `finish` hands it on
            elif self._turn:
                self._turn.abandon()

    def _hear(self, piece: str | tuple[int, np.ndarray]) -> None:
        clip = load_audio(piece)
        self._heard.append(piece)
        if self._turn is None:
            self._turn = self._conversation.begin_turn(sample_rate=clip.sample_rate)
        self._turn.push(clip.samples)


class Session:
    """One user's conversation; only one of its turns is under way at a time.

    A new turn ends the reply before it, as in talking. Files lie in a folder of its own.
    """

    def __init__(self, model: SpeechModel, cache_folder: str) -> None:
        Path(cache_folder).mkdir(parents=True, exist_ok=True)
        self.model = model
        self.conversation = model.new_conversation()
        self.turns: list[ShownTurn] = []
        self.folder = Path(tempfile.mkdtemp(prefix="session-", dir=cache_folder))
        self._lock = Lock()  # held while a turn is under way, from whichever thread
        self._stop = Event()
        self._listener: Listener | None = None
        self._recording: tuple[str, Listener] | None = None  # what `prepare` reads

    def interrupt(self) -> None:
        """Let the reply or the listening that is under way end; returns at once."""
        self._stop.set()
        listener, self._listener = self._listener, None
        if listener:
            listener.cancel()
        self.prepare(None)

    def wait(self) -> None:
        """Return when no turn is under way any more; call `interrupt` before."""
        with self._lock:
            pass

    def reset(self) -> None:
        """Begin a new conversation."""
        self.interrupt()
        with self._lock:
            self.conversation.reset()
            self.turns.clear()
            for path in self.folder.iterdir():
                path.unlink()

    def close(self) -> None:
        """Free what the session holds."""
        self.reset()
        shutil.rmtree(self.folder, ignore_errors=True)

    def listen(self) -> None:
        """The microphone was opened."""
        self.interrupt()
        self._listener = Listener(self.conversation, self._lock)

    def hear(self, sample_rate: int, samples: np.ndarray) -> None:
        """The next sound of the microphone; dropped when nobody listens any more."""
        if self._listener:
            self._listener.push((sample_rate, samples))

    def prepare(self, audio: str | None) -> None:
        """Read a recording before it is sent, as soon as no reply is under way; returns at once.

        Only the last one is kept; None forgets it. One that was sent already is not read again.
        """
        if audio and any(turn.audio == audio for turn in self.turns):
            return
        if self._recording:
            self._recording[1].cancel()
        self._recording = (audio, Listener(self.conversation, self._lock)) if audio else None
        if audio:
            self._recording[1].push(audio)

    def is_prepared(self, audio: str | None, text: str) -> bool:
        """Whether this turn has been read, or is being read, by `prepare`."""
        return bool(audio and not text and self._recording and self._recording[0] == audio)

    def answer(self, audio: str | None, text: str, **options) -> Iterator[ShownTurn]:
        """Answer a complete turn; yields it each time it has grown.

        Args:
            audio: the user's sound file.
            text: what the user wrote.
            options: further arguments of `generate_long`.

        Raises:
            ValueError: as `generate_long`; the conversation is as before.
        """
        source = audio
        if self.is_prepared(audio, text):
            _, listener = self._recording
            self._recording = None
            self.interrupt()
            source = listener.finish()
        else:
            self.interrupt()
            self._lock.acquire()
        yield from self._reply(source, text, audio, **options)

    def answer_heard(self, **options) -> Iterator[ShownTurn]:
        """Answer what the microphone heard, if it is open; like `answer`."""
        listener, self._listener = self._listener, None
        if listener:
            turn = listener.finish()
            audio = listener.write(self.folder / f"heard-{uuid4().hex[:8]}.wav")
            yield from self._reply(turn, "", audio, **options)

    def _reply(self, source, text: str, audio: str | None, **options) -> Iterator[ShownTurn]:
        """Holds the lock when it begins, and releases it."""
        try:
            self._stop = Event()
            chunks = generate_long(
                self.model,
                audio=source,
                text=text,
                conversation=self.conversation,
                stop=self._stop,
                **options,
            )
            turn = ShownTurn(text, audio, self.model.sample_rate)
            self.turns.append(turn)
            try:
                yield turn
                for chunk in chunks:
                    turn.add(chunk)
                    yield turn
            finally:
                self._stop.set()
                for chunk in chunks:  # the page went on before the end: the last frames
                    turn.add(chunk)
                turn.write(self.folder / f"reply-{len(self.turns)}.wav")
                turn.ended = True
            yield turn
        finally:
            self._lock.release()


def speak(
    model: SpeechModel, audio: str | None, text: str, max_new_tokens: int
) -> Iterator[ShownTurn]:
    """Answer a single turn, with no session; `reply_audio` holds the speech so far.

    The files exist until the next one is asked for.
    """
    turn = ShownTurn(text, audio, model.sample_rate)
    chunks = generate_long(
        model,
        audio=audio,
        text=text,
        max_new_tokens=max_new_tokens,
        chunk_frames=API_FRAMES,
    )
    with tempfile.TemporaryDirectory() as folder:
        for chunk in chunks:
            turn.add(chunk)
            turn.write(Path(folder) / "reply.wav")
            yield turn
