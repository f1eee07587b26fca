"""Pieces of a prompt, and their positions in time, height and width (TMRoPE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Prompt positions that belong together.

    Fields:
        ids: [n] long.
        positions: [3, n] long, in time, height and width, counted from the segment's start.
        media: [m, C] what a tower made of sound or pictures, in the place of the m ids that are
            no text; None where all are text.
        is_media: [n] bool.
    """

    ids: Tensor
    positions: Tensor
    media: Tensor | None
    is_media: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def extent(self) -> int:
        """How far the position counter goes on."""
        return int(self.positions.max()) + 1


def text_segment(ids: Sequence[int]) -> Segment:
    """Text: all three positions count up by one a token."""
    positions = torch.arange(len(ids)).expand(3, -1)
    return Segment(
        torch.tensor(ids, dtype=torch.long), positions, None, torch.zeros(len(ids)).bool()
    )


def sound_segment(id: int, tokens: Tensor) -> Segment:
    """Sound, [n, C] of the audio tower: counted as text is."""
    return _media_segment(id, torch.arange(len(tokens)).expand(3, -1), tokens)


def picture_segment(id: int, positions: Tensor, tokens: Tensor) -> Segment:
    """A picture, or a video without sound: [n, C] of the vision tower at `grid_positions`."""
    return _media_segment(id, positions, tokens)


def _media_segment(id: int, positions: Tensor, tokens: Tensor) -> Segment:
    num = len(tokens)
    return Segment(torch.full((num,), id), positions, tokens, torch.ones(num, dtype=torch.bool))


def grid_positions(grid: Sequence[int], step: float) -> Tensor:
    """Positions of a grid of pictures, row by row.

    Args:
        grid: steps in time, rows and columns of tokens.
        step: positions between two steps in time.

    Returns:
        [3, n] long, from 0.
    """
    times, rows, columns = (torch.arange(size) for size in grid)
    axes = torch.meshgrid((times * step).long(), rows, columns, indexing="ij")
    return torch.stack([axis.flatten() for axis in axes])


def video_with_sound(
    ids: tuple[int, int],
    marks: tuple[Sequence[int], Sequence[int]],
    grid: Sequence[int],
    step: float,
    piece: int,
    tokens: tuple[Tensor, Tensor],
) -> Segment:
    """A video and its sound, which go along the same time, in pieces: pictures first, then sound.

    Args:
        ids: of a picture's token and a sound's.
        marks: the begin tokens and the end tokens; those of a pair share a position.
        grid, step: as of `grid_positions`.
        piece: positions in time of a piece.
        tokens: of the vision tower [n, C] and the audio tower [m, C].
    """
    pictures, sound = tokens
    positions = [grid_positions(grid, step), torch.arange(len(sound)).expand(3, -1)]
    # A sort that keeps the order of equals: by piece, then pictures before sound.
    pieces = torch.cat([times // piece for times, _, _ in positions])
    kinds = torch.arange(2).repeat_interleave(torch.tensor([len(pictures), len(sound)]))
    order = (2 * pieces + kinds).argsort(stable=True)
    begin, end = (torch.tensor(pair) for pair in marks)
    inner = torch.cat(positions, dim=1)[:, order] + 1
    closing = inner.max() + 1
    return Segment(
        torch.cat([begin, torch.tensor(ids)[kinds[order]], end]),
        torch.cat([torch.zeros(3, len(begin)).long(), inner, closing.expand(3, len(end))], dim=1),
        torch.cat([pictures, sound])[order],
        torch.cat([torch.zeros(len(begin)), torch.ones(len(order)), torch.zeros(len(end))]).bool(),
    )
