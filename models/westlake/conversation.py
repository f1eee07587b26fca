"""A conversation: its turns, and how far the language model has read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..audio import StreamResampler
from .checkpoint import Checkpoint
from .dual_ar.prompt import PromptTokens, TurnStream, text_columns

REPLY_SHARE = 0.25  # of the context, kept free for the reply to come


@dataclass
class Turn:
    """One user turn and its reply, as the model reads them: columns [1+K, T] long.

    The first `prompt_length` columns are the user's; 0 as long as the user has not finished.
    """

    columns: Tensor
    prompt_length: int


class Conversation:
    """What was said so far; it belongs to one user, and the model keeps nothing of it.

    The KV cache holds the first `cache.length` columns of `columns`; what lies beyond has still
    to be read. So a further turn costs only its own columns, and after a change of the past
    (dropped turns, a restored file) everything is simply read again.

    `open_turn` is the last of `turns` from its beginning to the end of its reply, else None.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.tokens = PromptTokens.from_encode(checkpoint.tokenizer.encode)
        self.cache = checkpoint.model.new_cache()
        self.turns: list[Turn] = []
        self.open_turn: Turn | None = None
        self._before: list[Turn] = []  # the turns when the open one began

    @property
    def columns(self) -> Tensor:
        """All that was said, [1+K, T] long."""
        return torch.cat([self._text_columns([]), *(turn.columns for turn in self.turns)], dim=1)

    @property
    def unread(self) -> Tensor:
        """The columns that the cache does not hold yet, [1+K, T] long."""
        return self.columns[:, self.cache.length :]

    def reset(self) -> None:
        """Begin anew."""
        self.turns, self.open_turn = [], None
        # A reply that still runs goes on in the cache it began with, and so disturbs nothing.
        self.cache = self.checkpoint.model.new_cache()

    def add(self, columns: Tensor) -> None:
        """Append columns [1+K, T] to the turn that is under way."""
        self.turns[-1].columns = torch.cat([self.turns[-1].columns, columns], dim=1)

    @torch.no_grad()
    def read(self) -> None:
        """Bring the cache up to the last column."""
        unread = self.unread
        if unread.shape[1]:
            model = self.checkpoint.model
            model.forward_hidden(unread[None].to(model.device), [self.cache])

    def begin_turn(self) -> Turn:
        """A user turn begins; one that is still open is forgotten."""
        if self.open_turn is not None:
            self.abandon_turn()
            self.cache = self.checkpoint.model.new_cache()  # as in reset
        self._before = list(self.turns)
        self.open_turn = Turn(self._text_columns([]), 0)
        self.turns.append(self.open_turn)
        return self.open_turn

    def make_room(self, num_columns: int) -> None:
        """Drop the oldest turns until that many more columns and a reply fit.

        Raises:
            ValueError: the turn under way alone is too long.
        """
        limit = int(self.cache.max_len * (1 - REPLY_SHARE))
        length = self.turns[-1].columns.shape[1] + num_columns
        if length > limit:
            raise ValueError(
                f"the input takes {length} positions, but at most {limit} of the model's "
                f"{self.cache.max_len} are for it: use a shorter recording or text"
            )
        dropped = 0
        while self.columns.shape[1] + num_columns > limit:
            self.turns.pop(0)
            dropped += 1
        if dropped:
            self.cache.reset()
            logger.info(
                f"the context of {self.cache.max_len} positions is nearly full: "
                f"dropped the {dropped} oldest turn(s), reading {len(self.turns)} again"
            )

    def end_turn(self, reply: Tensor) -> None:
        """Keep what was said, [1+K, n], as the reply of the turn under way."""
        turn = self.turns[-1]
        end = self._text_columns([self.checkpoint.end_id])
        turn.columns = torch.cat([turn.columns[:, : turn.prompt_length], reply, end], dim=1)
        self.open_turn = None
        said = self.columns.shape[1] - 1  # the end token is always unread
        self.cache.truncate(min(self.cache.length, said))

    def abandon_turn(self) -> None:
        """Forget the open turn, if there is one, as if it had not begun."""
        if self.open_turn is None:
            return
        if len(self.turns) <= len(self._before):
            self.cache.reset()  # turns were dropped for it, and come back
        self.turns, self.open_turn = self._before, None
        self.cache.truncate(min(self.cache.length, self.columns.shape[1]))

    def _text_columns(self, ids: list[int]) -> Tensor:
        return text_columns(ids, self.checkpoint.codec.config.num_codebooks)

    def save(self, path: str | Path) -> None:
        """Write the conversation to a safetensors file, without a turn that is still open."""
        turns = self.turns if self.open_turn is None else self._before
        tensors = {f"turn.{i:04d}": turn.columns for i, turn in enumerate(turns)}
        lengths = ",".join(str(turn.prompt_length) for turn in turns)
        metadata = {"checkpoint": self.checkpoint.name, "prompt_lengths": lengths}
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path, checkpoint: Checkpoint) -> Conversation:
        """Restore a saved conversation; it goes on as the saved one would have.

        Raises:
            ValueError: not such a file, or one of another checkpoint.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = [file.get_tensor(key) for key in sorted(file.keys())]
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{path} is no saved conversation ({error}): give a file that save() wrote"
            ) from error
        saved_by = metadata.get("checkpoint")
        if saved_by != checkpoint.name:
            raise ValueError(
                f"{path} was saved with checkpoint {saved_by}, but {checkpoint.name} is loaded: "
                "load the one it was saved with"
            )
        conversation = cls(checkpoint)
        conversation.turns = _restored_turns(tensors, metadata, checkpoint, path)
        return conversation


def _restored_turns(
    tensors: Sequence[Tensor], metadata: Mapping[str, str], checkpoint: Checkpoint, path: str | Path
) -> list[Turn]:
    config = checkpoint.model.config
    lengths = re.findall(r"\d+", metadata.get("prompt_lengths", ""))
    turns = [Turn(columns, int(length)) for columns, length in zip(tensors, lengths)]
    fits = len(tensors) == len(lengths) and all(
        turn.columns.dtype == torch.long
        and turn.columns.dim() == 2
        and len(turn.columns) == 1 + config.num_codebooks
        and 0 < turn.prompt_length < turn.columns.shape[1]
        and turn.columns.min() >= 0
        and turn.columns[0].max() < config.vocab_size
        and turn.columns[1:].max() < config.codebook_size
        for turn in turns
    )
    if not fits:
        raise ValueError(f"{path} is a damaged conversation: give a file as save() wrote it")
    return turns


def _text_tokens(checkpoint: Checkpoint, text: str) -> list[int]:
    """A user's text as tokens; what looks like a control token in it is text as well."""
    tokenizer = checkpoint.tokenizer
    control = tokenizer.get_added_vocab()
    pieces: list[str] = []
    for part in re.split(f"({'|'.join(map(re.escape, control))})", text):
        pieces += [part[:1], part[1:]] if part in control else [part]
    return [id for piece in pieces if piece for id in tokenizer.encode(piece)]


class UserTurn:
    """A user's turn while it is spoken: what was heard is encoded and read at once.

    What is left to do at the end does not depend on how long the user spoke. The text must be
    known at the start, as it stands on the first frames: its columns are read immediately, the
    speech beneath them is held back until it is longer than the text (see `TurnStream`).

    Args:
        conversation: the conversation that this turn continues; one turn at a time.
        text: what the user wrote, if anything.
        sample_rate: of the samples to come, in Hz.
    """

    def __init__(
        self, conversation: Conversation, text: str | None = None, sample_rate: int | None = None
    ) -> None:
        codec = conversation.checkpoint.codec
        self.conversation = conversation
        self.text = (text or "").strip()
        self.num_samples = 0
        text_tokens = _text_tokens(conversation.checkpoint, self.text)
        self._resampler = StreamResampler(
            sample_rate or codec.config.sample_rate, codec.config.sample_rate
        )
        self._codec_state = codec.new_state()
        self._stream = TurnStream(conversation.tokens, text_tokens, codec.config.num_codebooks)
        self._turn = conversation.begin_turn()
        self._append(self._stream.start())

    def push(self, samples: Tensor) -> None:
        """Hear the next samples, [n] float32 in -1..1.

        Raises:
            ValueError: the turn has become too long for the model's context, which ends it as if
                it had not begun; or it was over already.
        """
        self._check_open()
        self._encode(self._resampler.push(samples), last=False)
        self.conversation.read()

    def finish(self) -> None:
        """The user has finished: complete the prompt, leaving its last columns to be read.

        Raises:
            ValueError: the turn has neither speech nor text, or has become too long; either ends
                it as if it had not begun.
        """
        self._check_open()
        if self.num_samples or self._resampler.pending:
            tail = self._resampler.finish()
            config = self.conversation.checkpoint.codec.config
            missing = config.samples_per_frame - self.num_samples - len(tail)
            self._encode(torch.cat([tail, tail.new_zeros(max(0, missing))]), last=True)
        try:
            closing = self._stream.finish()
        except ValueError:
            self.conversation.abandon_turn()
            raise
        self._append(closing)
        self._turn.prompt_length = self._turn.columns.shape[1]

    def _check_open(self) -> None:
        if self.conversation.open_turn is not self._turn or self._turn.prompt_length:
            raise ValueError("this turn is over: begin a new one")

    @torch.no_grad()
    def _encode(self, samples: Tensor, last: bool) -> None:
        codec, device = self.conversation.checkpoint.codec, self.conversation.checkpoint.device
        self.num_samples += len(samples)
        codes = codec.encode_chunk(samples[None, None].to(device), self._codec_state, last=last)
        self._append(self._stream.push(codes[0].cpu()))

    def _append(self, columns: Tensor) -> None:
        try:
            self.conversation.make_room(columns.shape[1])
        except ValueError:
            self.conversation.abandon_turn()
            raise
        self.conversation.add(columns)
