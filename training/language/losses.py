"""What the language model is trained by: its errors in words and in codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.westlake.dual_ar import DualARTransformer

from ..codec.config import TINY_CODEC
from .example import Example, collate
from .heads import Heads

MAX_CODE_FRAMES = 1200  # frames a step whose codes are learned, drawn from the batch's replies
# Of the codes that the model reads in training, some are replaced by any others: of a reply's own
# as many that it learns to tell its speech from the words, and does not stumble over its errors.
CORRUPTED_SHARE, CORRUPTED_REPLY_SHARE, CORRUPTED_FRAME_SHARE = 0.02, 0.5, 0.5
VOICE_SPREAD = 0.8  # most that a voice's levels are moved, in standard deviations of whole levels
JITTERED_SHARE = 0.1  # of all codes that it reads, off by one level, as another voice might be


def words_loss(
    model: DualARTransformer, heads: Heads, examples: Sequence[Example], device: str
) -> Tensor:
    """Cross-entropy of the replies' words, which are known to be no `<|semantic|>`, and the
    heads' loss."""
    grid, learn_text, _, users = (x.to(device) for x in collate(examples))
    heard = _jitter(_change_voice(grid[:, :, :-1], users[:, :-1]))
    heard = _corrupt(heard, model.config.codebook_size, CORRUPTED_SHARE)
    text_loss = _text_loss(
        model, model.forward_hidden(heard), grid, learn_text, (model.semantic_id,)
    )
    return text_loss + heads.loss(examples)


def losses(
    model: DualARTransformer,
    examples: Sequence[Example],
    device: str,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the replies' text tokens, and of their codes."""
    grid, learn_text, learn_codes, users = (x.to(device) for x in collate(examples))
    codebook_size = model.config.codebook_size
    share = torch.where(learn_codes, CORRUPTED_REPLY_SHARE, CORRUPTED_SHARE)[:, None, :-1]
    heard = _jitter(_change_voice(grid[:, :, :-1], users[:, :-1]))
    heard = _corrupt(heard, codebook_size, share)
    hidden = model.forward_hidden(heard)
    text_loss = _text_loss(model, hidden, grid, learn_text)

    learn_codes = learn_codes[:, 1:]
    targets = grid[:, :, 1:].transpose(1, 2)  # [B, T, 1+K]
    rows, columns = learn_codes.nonzero(as_tuple=True)
    if len(rows) > MAX_CODE_FRAMES:
        kept = torch.from_numpy(rng.choice(len(rows), MAX_CODE_FRAMES, replace=False)).to(device)
        rows, columns = rows[kept], columns[kept]
    codes = targets[rows, columns, 1:]
    heard = _corrupt(codes[:, :-1], codebook_size, CORRUPTED_FRAME_SHARE)
    logits = model.forward_fast(hidden[rows, columns], heard)
    return text_loss, F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())


def _text_loss(
    model: DualARTransformer,
    hidden: Tensor,
    grid: Tensor,
    learn_text: Tensor,
    excluded: Sequence[int] = (),
) -> Tensor:
    """Cross-entropy of the text after hidden [B, T-1, dim], per token of words, not of speech.

    Args:
        learn_text: [B, T] float32, the tokens' weights.
    """
    learned = learn_text[:, 1:] > 0
    targets = grid[:, 0, 1:][learned]
    logits = model.text_logits(hidden[learned]).float()
    logits[:, excluded] = -torch.inf
    losses = F.cross_entropy(logits, targets, reduction="none") * learn_text[:, 1:][learned]
    return losses.sum() / (targets != model.semantic_id).sum()


def _corrupt(tokens: Tensor, codebook_size: int, share: Tensor | float) -> Tensor:
    """Replace a share of the codes by any others, so that the model bears errors.

    Args:
        tokens: grid [B, 1+K, T], whose text row stays as it is, or codes [N, K'].
    """
    wrong = torch.rand(tokens.shape, device=tokens.device) < share
    if tokens.dim() == 3:
        wrong[:, 0] = False
    return torch.where(wrong, torch.randint_like(tokens, 1, codebook_size), tokens)


def _change_voice(grid: Tensor, users: Tensor) -> Tensor:
    """Move some levels of all codes of a conversation's user alike, as in another voice.

    Args:
        grid: [B, 1+K, T].
        users: [B, T] bool, the user's columns.
    """
    sizes = torch.tensor(TINY_CODEC.fsq_levels, device=grid.device)
    strides = sizes.cumprod(0) // sizes
    codes = grid[:, 1:] - 1
    spread = VOICE_SPREAD * torch.rand(len(grid), 1, 1, 1, device=grid.device)
    shape = (len(grid), codes.shape[1], 1, len(sizes))
    offsets = (spread * torch.randn(shape, device=grid.device)).round().long()
    levels = codes[..., None] // strides % sizes
    moved = ((levels + offsets).clamp(min=0).minimum(sizes - 1) * strides).sum(-1)
    codes = torch.where(users[:, None] & (codes >= 0), moved, codes)
    return torch.cat([grid[:, :1], codes + 1], dim=1)


def _jitter(grid: Tensor, share: float = JITTERED_SHARE) -> Tensor:
    """Move one level of a share of a grid's codes up or down by one, where there is one."""
    codes = grid[:, 1:] - 1
    sizes = torch.tensor(TINY_CODEC.fsq_levels, device=grid.device)
    strides = sizes.cumprod(0) // sizes
    which = torch.randint_like(codes, len(sizes))
    level = codes // strides[which] % sizes[which]
    step = 2 * torch.randint_like(codes, 2) - 1
    moved = level + step
    valid = (codes >= 0) & (moved >= 0) & (moved < sizes[which])
    chosen = valid & (torch.rand(codes.shape, device=grid.device) < share)
    codes = torch.where(chosen, codes + step * strides[which], codes)
    return torch.cat([grid[:, :1], codes + 1], dim=1)
