"""A conversation: its turns, and how far the language model has read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .audio import StreamResampler
from .checkpoint import Checkpoint
from .dual_ar.prompt import PromptTokens, TurnStream, text_columns

REPLY_SHARE = 0.25  # of the context, kept free for the reply to come


@dataclass
class Turn:
    """One user turn and its reply, as the model reads them: columns [1+K, T] long."""

    columns: Tensor
    prompt_length: int


class Conversation:
    """What was said so far; it belongs to one user, and the model keeps nothing of it.

    The KV cache holds the first `cache.length` columns of `columns`; what lies beyond has still
    to be read. So a further turn costs only its own columns, and after a change of the past
    (dropped turns, a restored file) everything is simply read again.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.tokens = PromptTokens.from_encode(checkpoint.tokenizer.encode)
        self.cache = checkpoint.model.new_cache()
        self.turns: list[Turn] = []

    @property
    def columns(self) -> Tensor:
        """All that was said, [1+K, T] long."""
        return torch.cat([turn.columns for turn in self.turns], dim=1)

    @property
    def unread(self) -> Tensor:
        """The columns that the cache does not hold yet, [1+K, T] long."""
        return self.columns[:, self.cache.length :]

    def reset(self) -> None:
        """Begin anew."""
        self.turns.clear()
        self.cache.reset()

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

    def begin_turn(self) -> None:
        """A user turn begins."""
        self.turns.append(Turn(self._text_columns([]), 0))

    def make_room(self, num_columns: int) -> None:
        """Drop the oldest turns until that many more columns and a reply fit.

        Raises:
            ValueError: the turn under way alone is too long.
        """
        limit = int(self.cache.max_len * (1 - REPLY_SHARE))
        length = sum(turn.columns.shape[1] for turn in self.turns) + num_columns
        dropped = 0
        while length > limit and len(self.turns) > 1:
            length -= self.turns.pop(0).columns.shape[1]
            dropped += 1
        if dropped:
            self.cache.reset()
            logger.info(
                f"the context of {self.cache.max_len} positions is nearly full: "
                f"dropped the {dropped} oldest turn(s), reading {len(self.turns)} again"
            )
        if length > limit:
            raise ValueError(
                f"the input takes {length} positions, but at most {limit} of the model's "
                f"{self.cache.max_len} are for it: use a shorter recording or text"
            )

    def end_turn(self, reply: Tensor) -> None:
        """Keep what was said, [1+K, n], as the reply of the turn under way."""
        turn = self.turns[-1]
        end = self._text_columns([self.checkpoint.end_id])
        turn.columns = torch.cat([turn.columns[:, : turn.prompt_length], reply, end], dim=1)
        said = sum(t.columns.shape[1] for t in self.turns) - 1  # the end token is always unread
        self.cache.truncate(min(self.cache.length, said))

    def abandon_turn(self) -> None:
        """Forget the turn under way, as if it had not begun."""
        self.turns.pop()
        self.cache.truncate(min(self.cache.length, sum(t.columns.shape[1] for t in self.turns)))

    def _text_columns(self, ids: list[int]) -> Tensor:
        return text_columns(ids, self.checkpoint.codec.config.num_codebooks)

    def save(self, path: str | Path) -> None:
        """Write the conversation to a safetensors file."""
        tensors = {f"turn.{i:04d}": turn.columns for i, turn in enumerate(self.turns)}
        lengths = ",".join(str(turn.prompt_length) for turn in self.turns)
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
                metadata = file.metadata()
                tensors = [file.get_tensor(key) for key in sorted(file.keys())]
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{path} is no saved conversation ({error}): give a file that save() wrote"
            ) from error
        saved_by = (metadata or {}).get("checkpoint")
        if saved_by != checkpoint.name:
            raise ValueError(
                f"{path} was saved with checkpoint {saved_by}, but {checkpoint.name} is loaded: "
                "load the one it was saved with"
            )
        conversation = cls(checkpoint)
        lengths = metadata["prompt_lengths"].split(",") if tensors else []
        conversation.turns = [Turn(t, int(n)) for t, n in zip(tensors, lengths, strict=True)]
        return conversation


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
        self.num_samples = 0
        text_tokens = conversation.checkpoint.tokenizer.encode(text) if text else []
        self._resampler = StreamResampler(
            sample_rate or codec.config.sample_rate, codec.config.sample_rate
        )
        self._codec_state = codec.new_state()
        self._stream = TurnStream(conversation.tokens, text_tokens, codec.config.num_codebooks)
        conversation.begin_turn()
        try:
            self._append(self._stream.start())
        except ValueError:
            conversation.abandon_turn()
            raise

    def push(self, samples: Tensor) -> None:
        """Hear the next samples, [n] float32 in -1..1.

        Raises:
            ValueError: the turn has become too long for the model's context.
        """
        self._encode(self._resampler.push(samples), last=False)
        self.conversation.read()

    def finish(self) -> None:
        """The user has finished: complete the prompt, leaving its last columns to be read.

        Raises:
            ValueError: the turn has neither speech nor text.
        """
        if self.num_samples or self._resampler.pending:
            tail = self._resampler.finish()
            config = self.conversation.checkpoint.codec.config
            missing = config.samples_per_frame - self.num_samples - len(tail)
            self._encode(torch.cat([tail, tail.new_zeros(max(0, missing))]), last=True)
        self._append(self._stream.finish())
        turn = self.conversation.turns[-1]
        turn.prompt_length = turn.columns.shape[1]

    @torch.no_grad()
    def _encode(self, samples: Tensor, last: bool) -> None:
        codec, device = self.conversation.checkpoint.codec, self.conversation.checkpoint.device
        self.num_samples += len(samples)
        codes = codec.encode_chunk(samples[None, None].to(device), self._codec_state, last=last)
        self._append(self._stream.push(codes[0].cpu()))

    def _append(self, columns: Tensor) -> None:
        self.conversation.make_room(columns.shape[1])
        self.conversation.add(columns)
