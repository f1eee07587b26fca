"""Generation: replies column by column, any number of them in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..transformer import KVCache
from .config import NUM_CODEBOOKS, NUM_ROWS
from .engine import Engine
from .model import MiniOmniTransformer

DELAY = NUM_CODEBOOKS  # columns from a frame's first to its last: row i of the codes is i + 1 late


@dataclass(frozen=True)
class Prompt:
    """What the model reads before it answers.

    Fields:
        x: [T, dim], the embedded columns before the last.
        speech: [8] long, the last column of the sequence that answers with speech.
        text: [8] long, of the one that answers with text.
    """

    x: Tensor
    speech: Tensor
    text: Tensor


def prompt_of_text(model: MiniOmniTransformer, tokens: Sequence[int]) -> Prompt:
    """The prompt for what a user wrote."""
    ids = model.config.text
    written = [ids.input, *tokens, ids.end]
    columns = _pads(model).repeat(1, len(written))
    columns[0] = torch.tensor(written)
    return _prompt(model, model.embed(columns[None].to(model.device))[0])


def prompt_of_speech(model: MiniOmniTransformer, features: Tensor) -> Prompt:
    """The prompt for what a user said, as the ear gives it: [T, dim]."""
    first, last = _pads(model), _pads(model)
    first[0], first[1:] = model.config.text.input, model.config.audio.input
    last[0], last[1:] = model.config.text.end, model.config.audio.end
    ends = model.embed(torch.stack([first, last]).to(model.device))[:, 0]
    x = torch.cat([ends[:1], model.embed_heard(features.to(model.device)), ends[1:]])
    return _prompt(model, x)


def _prompt(model: MiniOmniTransformer, x: Tensor) -> Prompt:
    text = _pads(model)[:, 0]
    text[0] = model.config.text.answer
    speech = text.clone()
    speech[1:] = model.config.audio.answer
    return Prompt(x, speech, text)


def _pads(model: MiniOmniTransformer) -> Tensor:
    """A column [8, 1] of pads."""
    column = torch.full((NUM_ROWS, 1), model.config.audio.pad)
    column[0] = model.config.text.pad
    return column


class Reply:
    """A reply in the making: all that one row of `next_columns` keeps between its columns.

    Two sequences go side by side in its cache: one gives the codes, the other the text, which
    both read. They differ from the prompt's last column on.

    Args:
        model: the model that will make the reply.
        prompt: what it answers.
        max_columns: the reply ends after that many.

    Raises:
        ValueError: the context has no room for so much.
    """

    def __init__(self, model: MiniOmniTransformer, prompt: Prompt, max_columns: int) -> None:
        used = len(prompt.x) + max_columns
        if not 1 <= max_columns <= model.config.block_size - len(prompt.x):
            raise ValueError(
                f"a prompt of {len(prompt.x) + 1} and a reply of {max_columns} columns: the model "
                f"has room for {model.config.block_size}, of which the reply needs one or more"
            )
        self.config = model.config
        self.max_columns = max_columns
        self.prompt = prompt
        self.cache: KVCache | None = None  # until the prompt is read
        self.max_len = used
        self.unread = torch.stack([prompt.speech, prompt.text])[..., None]  # [2, 8, 1]
        self.columns: list[Tensor] = []  # [8] long
        self.ended = False
        self.text_ended = False

    @property
    def num_frames(self) -> int:
        """Frames whose codes are all there."""
        return max(0, len(self.columns) - DELAY)

    def snapshot(self) -> Callable[[], None]:
        """Returns what brings the reply back to where it is now, after a step that failed."""
        length, num_columns = self.cache.length if self.cache else 0, len(self.columns)
        kept = {
            "cache": self.cache,
            "unread": self.unread,
            "ended": self.ended,
            "text_ended": self.text_ended,
        }

        def restore() -> None:
            vars(self).update(kept)
            if self.cache is not None:
                self.cache.truncate(min(length, self.cache.length))
            del self.columns[num_columns:]

        return restore

    def codes(self, frame: int) -> Tensor:
        """A frame's codes [7] long, which stand in one column after another."""
        rows = range(1, NUM_ROWS)
        return torch.stack([self.columns[frame + row][row] for row in rows])

    def add(self, text: Tensor, codes: Tensor) -> Tensor | None:
        """Take the next column: a text token [] and codes [7].

        Returns:
            The column [8], or None where the last row of codes says that the speech is over.
        """
        if int(codes[-1]) == self.config.audio.end:
            self.ended = True
            return None
        self.text_ended |= int(text) == self.config.text.end
        column = torch.cat([text[None], codes])
        silent = torch.cat([text[None], torch.full_like(codes, self.config.audio.pad)])
        self.unread = torch.stack([column, silent])[..., None]
        self.columns.append(column)
        self.ended = len(self.columns) == self.max_columns
        return column


@torch.inference_mode()
def next_columns(engine: Engine, replies: Sequence[Reply]) -> list[Tensor | None]:
    """Make the next column of each reply, reading each weight once for all of them.

    Prompts are read one by one, before their first column.

    Args:
        engine: of the model that the replies were made for.
        replies: none of which has ended.

    Returns:
        For each reply its column [8] long, or None where the speech is over, which ends it.
    """
    assert not any(reply.ended for reply in replies), "an ended reply cannot be stepped"
    caches = [reply.cache or _read_prompt(engine, reply) for reply in replies]
    unread = torch.cat([reply.unread for reply in replies]).to(engine.model.device)
    hidden = engine.read(engine.model.embed(unread), caches)[:, 0]
    codes, texts = engine.codes(hidden[0::2]).cpu(), _texts(engine, hidden[1::2], replies)
    return [reply.add(*tokens) for reply, *tokens in zip(replies, texts, codes, strict=True)]


def _texts(engine: Engine, hidden: Tensor, replies: Sequence[Reply]) -> Tensor:
    """The next text token of each reply; the head, a quarter of all weights, is read only where a
    text goes on."""
    tokens = torch.full((len(replies),), engine.model.config.text.pad)
    if going := [row for row, reply in enumerate(replies) if not reply.text_ended]:
        tokens[going] = engine.text(hidden[going]).cpu()
    return tokens


def _read_prompt(engine: Engine, reply: Reply) -> KVCache:
    """What both sequences read is read once."""
    x = reply.prompt.x
    cache = engine.model.new_cache(len(x))
    engine.read(x[None], [cache])
    reply.cache = cache.repeated(2, reply.max_len)
    return reply.cache
