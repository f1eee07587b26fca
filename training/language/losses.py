"""What the language model is trained by: its errors in words and in codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.westlake.dual_ar import DualARTransformer

from ..codec.config import TINY_CODEC
from .batch import Batch
from .heads import Heads

# Of the codes that the model reads in training, some are replaced by any others: of a reply's own
# as many that it learns to tell its speech from the words, and does not stumble over its errors.
CORRUPTED_SHARE, CORRUPTED_REPLY_SHARE, CORRUPTED_FRAME_SHARE = 0.02, 0.5, 0.5
VOICE_SPREAD = 0.8  # most that a voice's levels are moved, in standard deviations of whole levels
# Of the user's speech whole codebooks and frames are left out (as SpecAugment does: Park et al.,
# 2019), so that no voice is told by a few of them.
MASKED_CODEBOOK_SHARE, MASKED_FRAME_SHARE = 0.06, 0.04
JITTERED_SHARE = 0.1  # of all codes that it reads, off by one level, as another voice might be


def words_loss(model: DualARTransformer, heads: Heads, batch: Batch) -> Tensor:
    """Cross-entropy of the replies' words, which are known to be no `<|semantic|>`, and the
    heads' loss."""
    hidden = _read(model, batch, CORRUPTED_SHARE)
    return _text_loss(model, hidden, batch, spoken=False) + heads.loss(batch)


def losses(model: DualARTransformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the replies' text tokens, and of their codes."""
    share = torch.where(batch.replies, CORRUPTED_REPLY_SHARE, CORRUPTED_SHARE)[:, None]
    hidden = _read(model, batch, share)
    text_loss = _text_loss(model, hidden, batch, spoken=True)
    heard = _corrupt(batch.codes[:, :-1], model.config.codebook_size, CORRUPTED_FRAME_SHARE)
    logits = model.forward_fast(hidden[batch.code_places], heard)
    return text_loss, F.cross_entropy(logits.float().flatten(0, 1), batch.codes.flatten())


def _read(model: DualARTransformer, batch: Batch, corrupted: Tensor | float) -> Tensor:
    """Hidden [B * T, dim] after a batch's columns, of whose codes some are not what they were."""
    heard = _jitter(_change_voice(batch.grid.long(), batch.users))
    heard = _mask(_corrupt(heard, model.config.codebook_size, corrupted), batch.users)
    return model.forward_hidden(heard).flatten(0, 1)


def _text_loss(model: DualARTransformer, hidden: Tensor, batch: Batch, spoken: bool) -> Tensor:
    """Cross-entropy of the text after hidden [B * T, dim], per token of words, not of speech.

    Args:
        spoken: else no speech is expected between the words.
    """
    logits = model.text_logits(hidden[batch.word_places]).float()
    if not spoken:
        logits[:, model.semantic_id] = -torch.inf
    losses = F.cross_entropy(logits, batch.words, reduction="none") * batch.word_weights
    return losses.sum() / (batch.words != model.semantic_id).sum()


def _corrupt(tokens: Tensor, codebook_size: int, share: Tensor | float) -> Tensor:
    """Replace a share of the codes by any others, so that the model bears errors.

    Args:
        tokens: grid [B, 1+K, T], whose text row stays as it is, or codes [N, K'].
    """
    wrong = torch.rand(tokens.shape, device=tokens.device) < share
    if tokens.dim() == 3:
        wrong[:, 0] = False
    return torch.where(wrong, torch.randint_like(tokens, 1, codebook_size), tokens)


def _mask(grid: Tensor, users: Tensor) -> Tensor:
    """Leave some codebooks and some frames of a conversation's user out, as the pad code.

    Args:
        grid: [B, 1+K, T].
        users: [B, T] bool, the user's columns.
    """
    batch_size, num_rows, length = grid.shape
    codebooks = torch.rand(batch_size, num_rows - 1, 1, device=grid.device) < MASKED_CODEBOOK_SHARE
    frames = torch.rand(batch_size, 1, length, device=grid.device) < MASKED_FRAME_SHARE
    masked = (codebooks | frames) & users[:, None]
    return torch.cat([grid[:, :1], grid[:, 1:].masked_fill(masked, 0)], dim=1)


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
