"""SNAC's decoder, whose noise depends on the position alone: pieces of sound equal the whole's."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from ..errors import UserError

LEVELS = ((0,), (1, 4), (2, 3, 5, 6))  # which of a frame's codes are of which level, in their order
STRIDES = (4, 2, 1)  # of the levels: how many of the finest codes one stands for
# Attention can't be streamed exactly.
SETTINGS = {"vq_strides": list(STRIDES), "attn_window_size": None, "noise": True}
DILATIONS = (1, 3, 9)  # of a block's three convolutions
REACH = 3  # samples to each side that a convolution sees, at dilation 1


def snac_package() -> ModuleType:
    """The package that SNAC comes from.

    Raises:
        UserError: it is not installed.
    """
    try:
        import snac.layers
    except ImportError:
        raise UserError("error_no_snac") from None
    return snac


class SnacDecoder(nn.Module):
    """Codes -> sound, from a SNAC of three levels without attention.

    Args:
        settings: of SNAC, as its config.json has them.

    Raises:
        ValueError: unknown settings, or those of a codec that can't be streamed.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        package = snac_package()
        for key, allowed in SETTINGS.items():
            if settings.get(key, "missing") != allowed:
                raise ValueError(f"{key} is {settings.get(key)}, but only {allowed} is spoken with")
        rate = settings.get("sampling_rate")
        if not isinstance(rate, int) or not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            limits = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
            raise ValueError(f"sampling_rate is {rate}, but must be {limits}")
        self.snac = package.SNAC(**settings)
        self.rates = tuple(settings["decoder_rates"])

    def prepare_inference(self) -> SnacDecoder:
        """Fold the weight norm, and let go of the encoder; in place."""
        self.snac.encoder = None
        for module in list(self.snac.modules()):
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        return self

    @property
    def sample_rate(self) -> int:
        return self.snac.sampling_rate

    @property
    def codebook_size(self) -> int:
        return self.snac.codebook_size

    @property
    def samples_per_frame(self) -> int:
        return STRIDES[0] * math.prod(self.rates)

    @property
    def context(self) -> int:
        """Frames to each side of a frame that its sound depends on."""
        reach = REACH
        for rate in self.rates:
            reach = reach * rate + rate + REACH * sum(DILATIONS)
        return math.ceil((reach + REACH) / self.samples_per_frame)

    @torch.inference_mode()
    def forward(self, codes: Tensor, first_frame: int, seed: int) -> Tensor:
        """The sound of some frames that follow one another.

        Args:
            codes: [7, n] long; one that the codec lacks counts as its last.
            first_frame: number of the first one.
            seed: of the noise.

        Returns:
            [n * samples_per_frame] float32 in -1..1. Frames nearer than `context` to an end of
            what was given sound as if nothing lay beyond it.
        """
        num_frames = codes.shape[1]
        codes = codes.to(next(self.parameters()).device).clamp(0, self.codebook_size - 1)
        levels = [codes[list(rows)].T.flatten()[None] for rows in LEVELS]
        x = self.snac.quantizer.from_codes(levels)
        noise_block, decoder_block = _noisy_layers()
        samples_per_frame = STRIDES[0]
        for layer in self.snac.decoder.model:
            if not isinstance(layer, decoder_block):
                x = layer(x)
                continue
            for part in layer.block:
                if isinstance(part, noise_block):
                    frames = range(first_frame, first_frame + num_frames)
                    x = x + noise(frames, samples_per_frame, seed).to(x) * part.linear(x)
                else:
                    x = part(x)
                    samples_per_frame = x.shape[-1] // num_frames
        return x[0, 0]


def _noisy_layers() -> tuple[Any, Any]:
    layers = snac_package().layers
    return layers.NoiseBlock, layers.DecoderBlock


def noise(frames: Sequence[int], samples_per_frame: int, seed: int) -> Tensor:
    """Normal numbers [n * samples_per_frame] for frames by their numbers: the same for each always.

    Args:
        frames: numbers, 0 or more.
        samples_per_frame: at the layer's own rate, which tells a layer's noise from another's.
        seed: of the reply.
    """
    generator = torch.Generator()
    pieces = []
    for frame in frames:
        generator.manual_seed(zlib.crc32(f"{seed} {samples_per_frame} {frame}".encode()))
        pieces.append(torch.randn(samples_per_frame, generator=generator))
    return torch.cat(pieces)


class SpeechStream:
    """Frames, as they come -> the reply's sound, in pieces cut by the frames' numbers.

    When codes come changes no bit of the sound; a piece waits for the frames that it depends on.

    Args:
        codec: that speaks.
        seed: of its noise.
        first_frames, most_frames: of the first piece, and of one at most; each has twice as many
            as the one before.
    """

    def __init__(self, codec: SnacDecoder, seed: int, first_frames: int, most_frames: int) -> None:
        self.codec = codec
        self.seed = seed
        self.most_frames = most_frames
        self._codes: list[Tensor] = []  # [7] of each frame
        self._begin = 0  # of the next piece
        self._size = min(first_frames, most_frames)

    def push(self, codes: Tensor, *, last: bool = False) -> Tensor:
        """Take the next frames.

        Args:
            codes: [7, n] long; n may be 0.
            last: nothing follows.

        Returns:
            The sound that is certain now, [m] float32.
        """
        self._codes += codes.unbind(1)
        pieces = [torch.zeros(0)]
        while self._begin < len(self._codes) and (last or self._is_certain):
            pieces.append(self._next_piece())
        return torch.cat(pieces)

    @property
    def _is_certain(self) -> bool:
        """The frames that the next piece depends on are there."""
        return len(self._codes) >= self._begin + self._size + self.codec.context

    def _next_piece(self) -> Tensor:
        end = min(self._begin + self._size, len(self._codes))
        first = max(0, self._begin - self.codec.context)
        codes = torch.stack(self._codes[first : end + self.codec.context], dim=1)
        sound = self.codec(codes, first, self.seed)
        rate = self.codec.samples_per_frame
        piece = sound[(self._begin - first) * rate : (end - first) * rate]
        self._begin, self._size = end, min(2 * self._size, self.most_frames)
        return piece.float().cpu()
