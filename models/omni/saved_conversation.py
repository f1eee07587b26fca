"""Conversations as files: each turn's segments, and which checkpoint spoke."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..conversations import check_signature, signature, write_conversation
from ..errors import UserError
from .checkpoint import Checkpoint
from .segment import Segment

PARTS = ("ids", "positions", "is_media", "media")


def write_turns(
    path: str | os.PathLike,
    turns: Sequence[Sequence[Segment]],
    system: str | None,
    checkpoint: Checkpoint,
) -> None:
    """Write turns to a safetensors file.

    Args:
        path: of the file; one that is there is replaced.
        turns: the segments of each.
        system: how the model shall be.
        checkpoint: that spoke.

    Raises:
        UserError: the file can't be written.
    """
    tensors = {
        f"{turn:04d}.{place:04d}.{name}": getattr(segment, name).contiguous()
        for turn, segments in enumerate(turns)
        for place, segment in enumerate(segments)
        for name in PARTS
        if getattr(segment, name) is not None
    }
    metadata = signature(checkpoint) | {
        "system": json.dumps(system),
        "num_segments": json.dumps([len(segments) for segments in turns]),
    }
    write_conversation(path, save(tensors, metadata))


def read_turns(
    path: str | os.PathLike, checkpoint: Checkpoint, max_positions: int
) -> tuple[list[list[Segment]], str | None]:
    """Read what `write_turns` wrote.

    Returns:
        The segments of each turn, and how the model shall be.

    Raises:
        UserError: no such file, a damaged one, or one of another checkpoint.
    """
    name = Path(path).name
    damaged = UserError("error_conversation_damaged", name=name)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "num_segments" not in metadata:
                raise UserError("error_no_conversation", name=name)
            check_signature(metadata, checkpoint, name)
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
            num = sum(shape[0] for key, shape in shapes.items() if key.endswith(".ids") and shape)
            if num > max_positions or any(shape == [] for shape in shapes.values()):
                raise damaged
            tensors = {key: file.get_tensor(key) for key in shapes}
            counts, system = (json.loads(metadata[key]) for key in ("num_segments", "system"))
    except (OSError, SafetensorError) as error:
        raise UserError("error_no_conversation", name=name) from error
    except (KeyError, ValueError, RecursionError) as error:
        raise error if isinstance(error, UserError) else damaged from error
    try:
        turns = [
            [_segment(tensors, f"{turn:04d}.{place:04d}", checkpoint) for place in range(count)]
            for turn, count in enumerate(counts)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged from error
    return turns, system if isinstance(system, str) else None


def _segment(tensors: dict[str, Tensor], place: str, checkpoint: Checkpoint) -> Segment:
    """A segment that the models can read.

    Raises:
        KeyError, ValueError: it is none.
    """
    parts: dict[str, Any] = {name: tensors.get(f"{place}.{name}") for name in PARTS}
    ids, positions, is_media = (tensors[f"{place}.{name}"] for name in PARTS[:3])
    media, num = parts["media"], len(ids)
    text = checkpoint.thinker_config.text_config
    num_media = 0 if media is None else len(media)
    fits = (
        ids.dtype == positions.dtype == torch.long
        and is_media.dtype == torch.bool
        and num > 0
        and list(ids.shape) == list(is_media.shape) == [num]
        and list(positions.shape) == [3, num]
        and 0 <= int(ids.min()) <= int(ids.max()) < text.vocab_size
        and 0 <= int(positions.min()) <= int(positions.max()) < text.max_position_embeddings
        and int(is_media.sum()) == num_media
        and (
            media is None
            or (media.is_floating_point() and media.shape[1:] == (text.hidden_size,))
            and bool(media.isfinite().all())
        )
    )
    if not fits:
        raise ValueError(f"the segment {place} is none")
    return Segment(**parts)
