"""What a user shows -> segments of the prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..audio import resample
from .checkpoint import Checkpoint
from .listen import MelSettings, MelStream, encode_sound
from .pictures import Patches, PatchSettings, load_picture, picture_patches
from .prompt import Prompt
from .segment import Segment, grid_positions, picture_segment, video_with_sound
from .video import FRAME_RATE, load_video

MAX_STEPS = 8  # of a video that the vision tower sees at once; it sees each for itself


def look_at(
    checkpoint: Checkpoint, prompt: Prompt, mel: MelSettings, image: Any, video: Any
) -> list[Segment]:
    """Look at a picture and a video.

    Raises:
        UserError: one can't be read, or is too large or long.
    """
    vision, segments = checkpoint.thinker_config.vision_config, []
    cut = PatchSettings(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    tokens, config = prompt.tokens, checkpoint.thinker_config
    if image is not None:
        seen = picture_patches(load_picture(image), cut)
        places = grid_positions(_token_grid(seen, cut), config.position_id_per_seconds)
        picture = picture_segment(tokens.picture, places, encode_patches(checkpoint, seen))
        segments += prompt.marked(tokens.picture_marks, picture)
    if video is not None:
        seen, clip = load_video(video, cut)
        step = cut.frames / FRAME_RATE * config.position_id_per_seconds
        grid, pictures = _token_grid(seen, cut), encode_patches(checkpoint, seen)
        sound = [] if clip is None else list(MelStream(mel).push(_wave(clip, mel), last=True))
        heard = torch.cat([pictures[:0], *(encode_sound(checkpoint, block) for block in sound)])
        if len(heard):
            begin, end = zip(tokens.picture_marks, tokens.sound_marks)
            segments.append(
                video_with_sound(
                    (tokens.video, tokens.sound),
                    (begin, end[::-1]),
                    grid,
                    step,
                    int(config.position_id_per_seconds * config.seconds_per_chunk),
                    (pictures, heard),
                )
            )
        else:
            shown = picture_segment(tokens.video, grid_positions(grid, step), pictures)
            segments += prompt.marked(tokens.picture_marks, shown)
    return segments


def _wave(clip, mel: MelSettings) -> Tensor:
    return resample(clip, mel.sample_rate)[0, 0]


def _token_grid(patches: Patches, settings: PatchSettings) -> tuple[int, int, int]:
    steps, rows, columns = patches.grid
    return steps, rows // settings.merge, columns // settings.merge


@torch.no_grad()
def encode_patches(checkpoint: Checkpoint, patches: Patches) -> Tensor:
    """The vision tower's tokens [n, C] of patches."""
    tower = checkpoint.vision_tower
    steps, rows, columns = patches.grid
    seen = []
    for pixels in patches.pixels.split(MAX_STEPS * rows * columns):
        grid = torch.tensor([[len(pixels) // (rows * columns), rows, columns]])
        pixels = pixels.to(checkpoint.device, tower.dtype)
        seen.append(tower(pixels, grid_thw=grid.to(checkpoint.device)).pooler_output.cpu())
    return torch.cat(seen)
