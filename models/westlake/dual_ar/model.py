"""DualARTransformer: a slow stack over frames, and a fast one over the codes of a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...transformer import KVCache, LanguageModel, RMSNorm, Stack
from .config import DualARConfig


class DualARTransformer(LanguageModel):
    """The language model (published part `DualARTransformer`).

    A frame is one text token and K codes. The slow stack reads frames and predicts the next text
    token; from its hidden state the fast stack predicts that frame's codes one after another.
    Codes here are codec codes + 1; 0 is the pad.

    Args:
        config: the sizes.
        semantic_id: text token id of `<|semantic|>`, the only token whose codes are read.
    """

    def __init__(self, config: DualARConfig, semantic_id: int):
        super().__init__()
        if not 0 <= semantic_id < config.vocab_size:
            raise ValueError(
                f"semantic_id {semantic_id} is outside of the vocabulary 0..{config.vocab_size - 1}"
            )
        self.config = config
        self.semantic_id = semantic_id
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.codebook_embeddings = nn.Embedding(
            config.codebook_size * config.num_codebooks, config.dim
        )
        self.layers = Stack(config.slow)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.lm_head = None  # tied: the embedding serves as the head
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)

        self.fast_embeddings = nn.Embedding(config.codebook_size, config.dim)
        self.fast_layers = Stack(config.fast)
        self.fast_norm = RMSNorm(config.dim, config.norm_eps)
        self.fast_output = nn.Linear(config.dim, config.codebook_size, bias=False)
        self.apply(self._init_weights)
        self.num_parameters = sum(weight.numel() for weight in self.parameters())

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def new_cache(self, max_len: int | None = None) -> KVCache:
        """An empty cache for one conversation, by default of the model's whole context."""
        max_len = self.config.max_seq_len if max_len is None else max_len
        return KVCache(self.config.slow, max_len, self.dtype, self.device)

    def embed(self, grid: Tensor) -> Tensor:
        """Text embedding plus, only beneath `<|semantic|>`, the sum of the code embeddings.

        Args:
            grid: [B, 1+K, T] long.

        Returns:
            [B, T, dim].
        """
        text, codes = grid[:, 0], grid[:, 1:]
        first_rows = torch.arange(codes.shape[1], device=grid.device) * self.config.codebook_size
        speech = self.codebook_embeddings(codes + first_rows[:, None]).sum(1)
        speech = speech.masked_fill((text != self.semantic_id)[..., None], 0)
        return (self.embed_tokens(text) + speech).to(self.dtype)

    def forward_hidden(self, grid: Tensor, caches: Sequence[KVCache] | None = None) -> Tensor:
        """Run the slow stack alone; see `forward`. Returns hidden [B, T, dim]."""
        return self.layers(self.embed(grid), caches)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Predict the next frame's text token from hidden [..., dim]. Returns [..., vocab_size]."""
        hidden = self.normed(hidden)
        if self.lm_head is None:
            return F.linear(hidden, self.embed_tokens.weight)
        return self.lm_head(hidden)

    def text_head(self, tokens: Tensor) -> Callable[[Tensor], Tensor]:
        """What `text_logits` tells of some tokens alone: hidden [..., dim] -> [..., n].

        Args:
            tokens: [n] long.
        """
        head = self.head_of(tokens)
        return lambda hidden: head(self.normed(hidden))

    def normed(self, hidden: Tensor) -> Tensor:
        """What the text head reads; float32 for one in C, which computes and answers in it: in
        bfloat16 the likeliest tokens often tie."""
        is_native = getattr(self.lm_head, "native", None) is not None
        return self.norm(hidden.float() if is_native else hidden)

    def forward(
        self, grid: Tensor, caches: Sequence[KVCache] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the slow stack over frames.

        Args:
            grid: [B, 1+K, T] long; row 0 text tokens, the others codes + 1.
            caches: None for whole sequences (training). Else one cache per row, each at its own
                position, to which the T columns are appended in place.

        Returns:
            logits [B, T, vocab_size] of the next text token, and hidden [B, T, dim] before the
            final norm, which is what `forward_fast` starts from.

        Raises:
            ValueError: more columns than the model, or a cache, has room for.
        """
        hidden = self.forward_hidden(grid, caches)
        return self.text_logits(hidden), hidden

    def forward_fast(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Predict the codes of a frame, given the true ones before each (teacher-forced).

        Args:
            hidden: [B, dim] of the slow stack, at the position before the frame.
            codes: [B, n] long, the frame's first n < K codes (+ 1).

        Returns:
            logits [B, n+1, codebook_size] of the codes 0..n.
        """
        x = torch.cat([hidden[:, None], self.embed_codes(codes)], dim=1)
        return self.fast_output(self.fast_norm(self.fast_layers(x)))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Embed a frame's codes for the fast stack: [...] long -> [..., dim]."""
        return self.fast_embeddings(codes).to(self.dtype)

    def new_fast_cache(self, num_rows: int) -> KVCache:
        """An empty cache for one frame of `num_rows` conversations."""
        fast = self.config.fast
        return KVCache(fast, fast.max_seq_len, self.dtype, self.device, num_rows)

    def step_fast(self, x: Tensor, cache: KVCache) -> Tensor:
        """Predict the next code of a frame.

        Args:
            x: [B, dim]; the slow stack's hidden state for the first code, then
                `embed_codes` of the code before.
            cache: from `new_fast_cache(B)`, one for each frame.

        Returns:
            logits [B, codebook_size].
        """
        return self.fast_output(self.fast_norm(self.fast_layers(x[:, None], [cache])[:, 0]))
