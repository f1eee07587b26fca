"""Pictures and frames of video -> patches, by the published preprocessing, within a size."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import UserError, shown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_BYTES = 50_000_000
MAX_PIXELS = 1 << 26  # of a file, before it is made smaller
MAX_TOKENS = 1280  # of a picture; a token is 28 x 28 pixels
MIN_TOKENS = 4
MAX_RATIO = 200  # of a picture's sides
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Patches:
    """What the vision tower sees.

    Fields:
        pixels: [n, channels * frames * patch * patch] float32.
        grid: steps in time, rows and columns of patches.
    """

    pixels: Tensor
    grid: tuple[int, int, int]


@dataclass(frozen=True)
class PatchSettings:
    """How frames are cut.

    Fields:
        patch: pixels of a patch's side.
        merge: patches of a token's side.
        frames: of a step in time.
    """

    patch: int
    merge: int
    frames: int

    @property
    def token(self) -> int:
        """Pixels of a token's side."""
        return self.patch * self.merge


def load_picture(source: Any) -> Image.Image:
    """Read a picture: a file's path, a PIL image, or an array [H, W, 3] of uint8.

    Raises:
        UserError: it is no such thing, damaged, or too large.
    """
    if isinstance(source, Image.Image):
        return _checked(source, "picture")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise UserError("error_picture_array", shape=shown(f"{source.dtype} {source.shape}"))
        return _checked(Image.fromarray(source), "picture")
    if not isinstance(source, (str, os.PathLike)):
        raise UserError("error_picture_kind", kind=type(source).__name__)
    path = Path(source)
    name = shown(path.name)
    check_file(path, name, MAX_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large size is told below
            with Image.open(path, formats=FORMATS) as opened:
                return _checked(opened, name)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes the decoders raise anything
        formats = ", ".join(FORMATS).lower()
        raise UserError("error_picture_unreadable", name=name, formats=formats) from error


def check_file(path: Path, name: str, limit: int) -> None:
    """Raise a UserError unless there is such a file, of at most so many bytes."""
    try:
        is_file, size = path.is_file(), path.stat().st_size
    except (OSError, ValueError):  # ValueError: of characters that no name can have
        is_file, size = False, 0
    if not is_file:
        raise UserError("error_no_file", name=name)
    if size > limit:
        raise UserError("error_file_large", name=name, size=size, limit=limit)


def _checked(picture: Image.Image, name: str) -> Image.Image:
    """A picture as it is meant to be seen, in red, green and blue."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UserError(
            "error_picture_large", name=name, width=width, height=height, limit=MAX_PIXELS
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UserError(
            "error_picture_shape", name=name, width=width, height=height, limit=MAX_RATIO
        )
    return ImageOps.exif_transpose(picture).convert("RGB")


def fitted_size(height: int, width: int, side: int, low: int, high: int) -> tuple[int, int]:
    """The nearest size of whole tokens within so many pixels, of about the same shape.

    Args:
        height, width: of the picture.
        side: pixels of a token's side.
        low, high: pixels at least and at most.
    """
    rows, columns = (round(length / side) * side for length in (height, width))
    if rows * columns > high:
        shrink = math.sqrt(height * width / high)
        rows, columns = (
            max(side, math.floor(length / shrink / side) * side) for length in (height, width)
        )
    elif rows * columns < low:
        grow = math.sqrt(low / (height * width))
        rows, columns = (math.ceil(length * grow / side) * side for length in (height, width))
    return rows, columns


def picture_patches(picture: Image.Image, settings: PatchSettings) -> Patches:
    """Cut a picture into patches."""
    area = settings.token**2
    size = fitted_size(
        picture.height, picture.width, settings.token, MIN_TOKENS * area, MAX_TOKENS * area
    )
    return patches_of([resized(picture, size)], settings)


def resized(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """A picture [rows, columns, 3] uint8 of another size."""
    rows, columns = size
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BICUBIC))


def patches_of(frames: Sequence[np.ndarray], settings: PatchSettings) -> Patches:
    """Cut frames [H, W, 3] uint8 of whole tokens into patches; the last is repeated to whole steps.

    The order is that of the published preprocessing: step, rows and columns of tokens, then the
    patches of a token.
    """
    patch, merge = settings.patch, settings.merge
    missing = -len(frames) % settings.frames
    pixels = torch.from_numpy(np.stack([*frames, *[frames[-1]] * missing])).float() / 255
    pixels = (pixels - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    num, height, width, _ = pixels.shape
    steps, rows, columns = num // settings.frames, height // patch, width // patch
    cut = pixels.reshape(
        steps, settings.frames, rows // merge, merge, patch, columns // merge, merge, patch, 3
    )
    # [step, row, column, row in token, column in token, channel, frame, y, x]
    ordered = cut.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return Patches(ordered.reshape(steps * rows * columns, -1), (steps, rows, columns))
