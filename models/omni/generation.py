"""The two language models, stepped in turn: the thinker's text, and the talker's codes behind it.

The talker never needs text ahead: for its code t it reads the thinker's tokens up to t. So it
speaks while the thinker still writes, a code a token, and faster when the text has ended.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from .cache import KVCache
from .checkpoint import Checkpoint, Tokens
from .prompt import embeddings
from .sampling import Draw, OmniSampling
from .segment import Segment

MAX_READ = 2048  # positions read at once: what they need for a moment is bounded


class Reader:
    """How far both language models have read a conversation.

    Where the parts that speak are not loaded, what the talker has to read waits until they are.

    Fields:
        num_segments: read so far.
        position: of the next token.
        hidden: [1, C] the thinker's, of the last token read.

    Args:
        checkpoint: that reads.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.thinker, self.talker = checkpoint.new_caches()
        self.num_segments = self.position = 0
        self.hidden: Tensor | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []  # talker inputs [n, C], positions [3, n]

    @torch.no_grad()
    def read(self, segments: list[Segment]) -> None:
        """Read the next segments; what is read is never computed again."""
        if not segments:
            return
        starts = [self.position]
        for segment in segments:
            starts.append(starts[-1] + segment.extent)
        positions = torch.cat([s.positions + start for s, start in zip(segments, starts)], dim=1)
        embedded = torch.cat([embeddings(self.checkpoint, segment) for segment in segments])
        is_media = torch.cat([segment.is_media for segment in segments])
        for part in torch.arange(len(embedded)).split(MAX_READ):
            part = slice(int(part[0]), int(part[-1]) + 1)
            inputs, places = embedded[part], positions[:, part]
            out = self._step(self.checkpoint.language_model, self.thinker, inputs, places)
            is_text = ~is_media[part, None].to(inputs.device)
            self._waiting.append((out + inputs * is_text, places))
        self.hidden, self.position = out[-1:], starts[-1]
        self.num_segments += len(segments)
        if self.checkpoint.talker_is_loaded:
            self.read_as_talker()

    @torch.no_grad()
    def read_as_talker(self) -> None:
        """The talker reads what the thinker has read."""
        waiting, self._waiting = self._waiting, []
        for inputs, positions in waiting:
            self.talker_step(inputs, positions)

    @torch.no_grad()
    def think(self, token: int) -> Tensor:
        """The thinker reads a token of its reply; returns what the talker reads for it, [1, C]."""
        embedded = self.checkpoint.embed(torch.tensor([token]))
        position = torch.full((3, 1), self.position)
        self.hidden = self._step(self.checkpoint.language_model, self.thinker, embedded, position)
        self.position += 1
        return self.hidden + embedded

    @torch.no_grad()
    def talker_step(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """The talker reads inputs [n, C] at positions [3, n]; returns its last state [1, C]."""
        talker = self.checkpoint.talker
        inputs = talker.thinker_to_talker_proj(inputs)
        return self._step(talker.model, self.talker, inputs, positions)[-1:]

    def end_reply(self, length: int, parts: list[Tensor], positions: Tensor) -> None:
        """The talker forgets its codes, and will read the reply's text as a prompt's.

        Args:
            length: positions in front of the reply.
            parts: as `think` gave them.
            positions: of those, [3, n].
        """
        self.talker.truncate(min(self.talker.length, length))
        if parts:
            self._waiting.append((torch.cat(parts), positions))
            self.num_segments += 1

    def truncate(self, num_segments: int, length: int, position: int) -> None:
        """Forget what stands behind the first segments, which have so many positions."""
        self.num_segments, self.position, self.hidden = num_segments, position, None
        self.thinker.truncate(length)
        if self.talker.length > length:
            self.talker.truncate(length)
            self._waiting = []
        room, kept = length - self.talker.length, []
        for inputs, positions in self._waiting:
            kept.append((inputs[:room], positions[:, :room]))
            room -= len(kept[-1][0])
        self._waiting = [part for part in kept if len(part[0])]

    def _step(self, model, cache: KVCache, inputs: Tensor, positions: Tensor) -> Tensor:
        """A language model's states [n, C] for inputs [n, C]."""
        return self.checkpoint.step(model, inputs, positions, cache)


class TextSteps:
    """The thinker's reply, a token a step.

    Fields:
        ids: drawn so far, an end token among them.
        parts: what the talker reads for those that were read, all but the last.

    Args:
        reader: that has read the prompt.
        tokens: those that end a reply.
        sampling: how tokens are drawn.
        seed: of the draws.
        max_tokens: at most.
    """

    def __init__(
        self, reader: Reader, tokens: Tokens, sampling: OmniSampling, seed: int, max_tokens: int
    ) -> None:
        self.reader, self.ends, self.max_tokens = reader, tokens.ends, max_tokens
        self.start = reader.position
        self.ids: list[int] = []
        self.parts: list[Tensor] = []
        self._draw = Draw(
            temperature=sampling.text_temperature, top_p=sampling.text_top_p, seed=seed
        )

    @property
    def has_ended(self) -> bool:
        """The model ended the text itself."""
        return bool(self.ids) and self.ids[-1] in self.ends

    @property
    def is_over(self) -> bool:
        return self.has_ended or len(self.ids) >= self.max_tokens

    @property
    def positions(self) -> Tensor:
        """Of the tokens read, [3, n]."""
        return (torch.arange(len(self.parts)) + self.start).expand(3, -1)

    @torch.no_grad()
    def step(self) -> Tensor | None:
        """Draw a token, and read it if another follows; returns its part [1, C] then."""
        logits = self.reader.checkpoint.lm_head(self.reader.hidden)
        self.ids.append(self._draw(logits))
        if self.is_over:
            return None
        self.parts.append(self.reader.think(self.ids[-1]))
        return self.parts[-1]


class CodeSteps:
    """The talker's codes, a step each.

    Fields:
        codes: drawn so far.
        has_ended: the model ended the speech itself.

    Args:
        reader: that has read the prompt, as talker too.
        voice: of `Checkpoint.voices`.
        sampling: how codes are drawn.
        seed: of the draws.
        max_codes: at most.
    """

    def __init__(
        self, reader: Reader, voice: dict, sampling: OmniSampling, seed: int, max_codes: int
    ) -> None:
        talker = reader.checkpoint.talker
        self.reader, self.talker, self.max_codes = reader, talker, max_codes
        self.codes: list[int] = []
        self.has_ended = False
        self._voice_token, self._position = voice["bos_token"], reader.position
        self._embed = talker.get_input_embeddings()
        self._parts: deque[Tensor] = deque()
        self._text_is_over = False
        self._ends = {talker.codec_pad_token, talker.codec_eos_token}
        # The flow embeds codes up to `num_embeds`; the talker's vocabulary goes on behind them.
        num_codes = reader.checkpoint.config.token2wav_config.dit_config.num_embeds + 1
        beyond = set(range(num_codes, talker.codebook_size)) - self._ends
        history = {talker.codec_pad_token, talker.codec_bos_token}
        if reader.talker.length:
            history.add(talker.codec_mask_token)
        self._draw = Draw(
            temperature=sampling.temperature,
            top_k=min(sampling.top_k, talker.codebook_size),
            top_p=sampling.top_p,
            penalty=sampling.repetition_penalty,
            history=sorted(history),
            suppressed=sorted({talker.codec_bos_token, *beyond}),
            seed=seed,
        )

    @property
    def is_over(self) -> bool:
        return self.has_ended or len(self.codes) >= self.max_codes

    @property
    def can_step(self) -> bool:
        """There is text to say, or none will follow."""
        return not self.is_over and (bool(self._parts) or self._text_is_over)

    def add_text(self, part: Tensor | None) -> None:
        """Take what `TextSteps.step` gave; None once the text is over."""
        if part is None:
            self._text_is_over = True
            part = self._text_embedding(self.talker.text_eos_token)
        self._parts.append(part)

    @torch.no_grad()
    def step(self) -> int | None:
        """Draw a code; None at the end."""
        if self._parts:
            part = self._parts.popleft()
        else:
            part = self._text_embedding(self.talker.text_pad_token)
        if self.codes:
            inputs = part + self._code_embedding(self.codes[-1])
        else:
            voice = self._text_embedding(self._voice_token)
            pad = self._code_embedding(self.talker.codec_pad_token)
            begin = self._code_embedding(self.talker.codec_bos_token)
            inputs = torch.cat([voice + pad, part + begin])
        positions = (torch.arange(len(inputs)) + self._position).expand(3, -1)
        self._position += len(inputs)
        code = self._draw(self.talker.codec_head(self.reader.talker_step(inputs, positions)))
        if code in self._ends:
            self.has_ended = True
            return None
        self.codes.append(code)
        return code

    def _text_embedding(self, token: int) -> Tensor:
        return self.reader.checkpoint.embed(torch.tensor([token]))

    def _code_embedding(self, code: int) -> Tensor:
        return self._embed(torch.tensor([code], device=self.reader.checkpoint.device))
