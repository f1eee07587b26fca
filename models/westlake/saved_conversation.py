"""Conversations as files: each turn's columns, and which checkpoint spoke."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..conversations import check_signature, signature, write_conversation
from ..errors import UserError
from .checkpoint import Checkpoint


def write_turns(
    path: str | os.PathLike,
    columns: Sequence[Tensor],
    prompt_lengths: Sequence[int],
    checkpoint: Checkpoint,
) -> None:
    """Write turns to a safetensors file.

    Args:
        path: of the file; one that is there is replaced.
        columns: [1+K, T] long of each turn.
        prompt_lengths: how many of a turn's columns are the user's.
        checkpoint: that spoke.

    Raises:
        UserError: the file can't be written.
    """
    tensors = {f"turn.{i:04d}": turn.contiguous() for i, turn in enumerate(columns)}
    lengths = {"prompt_lengths": ",".join(map(str, prompt_lengths))}
    write_conversation(path, save(tensors, signature(checkpoint) | lengths))


def read_turns(path: str | os.PathLike, checkpoint: Checkpoint) -> list[tuple[Tensor, int]]:
    """Read what `write_turns` wrote.

    Returns:
        For each turn its columns [1+K, T] long, and how many of them are the user's.

    Raises:
        UserError: no such file, a damaged one, or one of another checkpoint.
    """
    name = Path(path).name
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            check_signature(metadata, checkpoint, name)
            keys = sorted(file.keys())
            lengths = list(map(int, re.findall(r"\d{1,9}", metadata.get("prompt_lengths", ""))))
            num_columns = sum(_num_columns(file.get_slice(key).get_shape()) for key in keys)
            if len(keys) != len(lengths) or num_columns > checkpoint.model.config.max_seq_len:
                raise UserError("error_conversation_damaged", name=name)
            turns = [(file.get_tensor(key), length) for key, length in zip(keys, lengths)]
    except (OSError, SafetensorError) as error:
        raise UserError("error_no_conversation", name=name) from error
    if not all(_fits(*turn, checkpoint) for turn in turns):
        raise UserError("error_conversation_damaged", name=name)
    return turns


def _num_columns(shape: Sequence[int]) -> int:
    return shape[-1] if shape else 0


def _fits(columns: Tensor, prompt_length: int, checkpoint: Checkpoint) -> bool:
    config = checkpoint.model.config
    return bool(
        columns.dtype == torch.long
        and columns.dim() == 2
        and len(columns) == 1 + config.num_codebooks
        and 0 < prompt_length < columns.shape[1]
        and columns.min() >= 0
        and columns[0].max() < config.vocab_size
        and columns[1:].max() < config.codebook_size
    )
