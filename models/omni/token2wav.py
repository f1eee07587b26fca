"""Codes -> mel -> sound, piece by piece, equal however the codes arrive.

A transformer solves a flow from noise to mel within blocks of codes. A layer sees its own block,
two layers also the block before, one the next. So a piece needs, of the past, what those two
layers read of the last block at each evaluation, which is kept; and of the future a block or
more, which is solved with it and thrown away. The vocoder sees some frames around each piece.
Pieces are cut by the number of their block, never by when codes came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5OmniToken2WavModel

from .sampling import FlowConfig


@dataclass(frozen=True)
class VoiceParts:
    """What doesn't change while a voice speaks, each with and without the voice.

    Fields:
        condition: [2, C] the encoded reference.
        speaker: [2, S].
    """

    condition: Tensor
    speaker: Tensor


class Noise:
    """The flow's start, frame by frame: the same numbers as one draw of all frames at once.

    Args:
        seed: of the draw, which is made on the CPU.
        num_bins: of the mel.
    """

    def __init__(self, seed: int, num_bins: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._frames = torch.zeros(0, num_bins)
        self._start = 0

    def frames(self, start: int, end: int) -> Tensor:
        """Frames [1, end - start, bins]; those before `start` are never asked for again."""
        missing = end - self._start - len(self._frames)
        if missing > 0:
            new = torch.randn(missing, self._frames.shape[1], generator=self._generator)
            self._frames = torch.cat([self._frames, new])
        self._frames, self._start = self._frames[start - self._start :], start
        return self._frames[None, : end - start]


@dataclass
class SpeechState:
    """What a reply's speech has come to.

    Fields:
        voice: that speaks.
        noise: that the flow starts with.
        codes: all so far.
        num_blocks: blocks whose mel is final.
        num_pieces: pieces that they were made in.
        kept: for each evaluation of the solver, what each layer that looks back read of the
            last final block, [copies, block, C]; None before there is one.
        mel: [1, n, bins] the last final frames, as far as the vocoder still sees them.
        mel_start: the frame that it begins with.
        num_sounding: frames whose sound is out.
    """

    voice: VoiceParts
    noise: Noise
    codes: list[int] = field(default_factory=list)
    num_blocks: int = 0
    num_pieces: int = 0
    kept: list[list[Tensor]] | None = None
    mel: Tensor | None = None
    mel_start: int = 0
    num_sounding: int = 0


class Token2Wav:
    """The published token2wav, in pieces.

    Args:
        model: of float32.
        flow: how the flow is solved.
        first_blocks, most_blocks: of the first two pieces, and of the largest; in between each
            has twice as many as the one before.
    """

    def __init__(
        self,
        model: Qwen2_5OmniToken2WavModel,
        flow: FlowConfig,
        first_blocks: int = 1,
        most_blocks: int = 4,
    ) -> None:
        self.dit, self.vocoder = model.code2wav_dit_model, model.code2wav_bigvgan_model
        self.flow = flow
        self.first_blocks, self.most_blocks = first_blocks, max(first_blocks, most_blocks)
        self.block_codes = self.dit.block_size // self.dit.repeats
        self.hop_length = int(np.prod(self.vocoder.config.upsample_rates))
        self.device = self.dit.proj_out.weight.device
        self._modulations: dict[float, _Modulation] = {}

    @torch.no_grad()
    def new_state(self, cond: Tensor, ref_mel: Tensor, seed: int) -> SpeechState:
        """The state before a reply's first code.

        Args:
            cond: [1, S] of a voice.
            ref_mel: [1, T, bins] of a voice.
            seed: of the noise.
        """
        cond, ref_mel = cond.to(self.device), ref_mel.to(self.device)
        mels = torch.cat([ref_mel, torch.zeros_like(ref_mel)])
        condition = self.dit.input_embed.spk_encoder(mels)
        voice = VoiceParts(condition, torch.cat([cond, torch.zeros_like(cond)]))
        return SpeechState(voice, Noise(seed, self.dit.mel_dim))

    @torch.no_grad()
    def push(self, state: SpeechState, codes: Sequence[int], last: bool = False) -> Tensor:
        """Take codes, give the sound [n] float32 in -1..1 that is certain now.

        Args:
            state: of the reply.
            codes: the next ones; may be none.
            last: nothing follows.
        """
        state.codes += codes
        sound = [torch.zeros(0)]
        for start, final, end in self._pieces(state, last):
            mel = self._mel(state, start, final, end)
            state.mel = mel if state.mel is None else torch.cat([state.mel, mel], dim=1)
            sound.append(self._sound(state, last and final == len(state.codes)))
        return torch.cat(sound)

    def _pieces(self, state: SpeechState, last: bool) -> Iterator[tuple[int, int, int]]:
        """The next pieces: the codes that they begin with, end before, and look ahead to."""
        size, total = self.block_codes, len(state.codes)
        while (start := state.num_blocks * size) < total:
            doublings = max(0, state.num_pieces - 1)
            num_blocks = min(self.first_blocks << doublings, self.most_blocks)
            end = start + (num_blocks + self.flow.blocks_ahead) * size
            if end > total and not last:
                return
            final = min(start + num_blocks * size, total)
            yield start, final, min(end, total)
            state.num_blocks += -(-(final - start) // size)
            state.num_pieces += 1

    def _mel(self, state: SpeechState, start: int, final: int, end: int) -> Tensor:
        """Solve the flow for codes from `start` to `end`; the mel [1, n, bins] up to `final`."""
        repeats, block = self.dit.repeats, self.dit.block_size
        piece = _Piece(
            self.dit,
            torch.tensor([state.codes[start:end]], device=self.device),
            state.voice,
            self.flow.guidance,
            state.kept,
            (final - start) * repeats,
        )
        noise = state.noise.frames(start * repeats, end * repeats).to(self.device)
        mel = _solve(self.flow, noise, lambda time, x: piece.velocity(self._modulation(time), x))
        is_whole = (final - start) * repeats % block == 0
        state.kept = piece.kept if is_whole else None
        return mel[:, : (final - start) * repeats]

    def _modulation(self, time: Tensor) -> _Modulation:
        """What the time in the flow does to the layers; there are few, and they come again."""
        key = float(time)
        if key not in self._modulations:
            self._modulations[key] = _Modulation.at(self.dit, time.to(self.device))
        return self._modulations[key]

    def _sound(self, state: SpeechState, last: bool) -> Tensor:
        """The sound of the frames that have all their context, or of all that are left."""
        assert state.mel is not None
        end = state.mel_start + state.mel.shape[1]
        until = end if last else max(state.num_sounding, end - self.flow.context)
        if until == state.num_sounding:
            return torch.zeros(0)
        wave = self.vocoder(state.mel.transpose(1, 2)).reshape(-1)
        first = state.num_sounding - state.mel_start
        wave = wave[first * self.hop_length : (until - state.mel_start) * self.hop_length]
        state.num_sounding = until
        cut = max(0, until - self.flow.context - state.mel_start)
        state.mel, state.mel_start = state.mel[:, cut:], state.mel_start + cut
        return wave.cpu()


@dataclass(frozen=True)
class _Modulation:
    """A time in the flow, as the layers take it: shifts, scales and gates."""

    layers: list[tuple[Tensor, ...]]
    end: Tensor  # [1, C], for the last norm

    @classmethod
    def at(cls, dit, time: Tensor) -> _Modulation:
        embedded = dit.time_embed(time.reshape(1))
        layers = []
        for layer in dit.transformer_blocks:
            norm = layer.attn_norm
            parts = norm.linear(norm.silu(embedded))[:, None].chunk(6, dim=-1)
            layers.append(parts)
        return cls(layers, embedded)


class _Piece:
    """A piece's codes, and what the solver evaluates for them.

    Args:
        dit: the flow's transformer.
        codes: [1, n], those ahead among them.
        voice: that speaks.
        guidance: how far from what would be said without the codes and the voice.
        before: `SpeechState.kept` of the piece before.
        num_final: frames that are final; the last block of them is kept.
    """

    def __init__(
        self,
        dit,
        codes: Tensor,
        voice: VoiceParts,
        guidance: float,
        before: list[list[Tensor]] | None,
        num_final: int,
    ) -> None:
        self.dit, self.guidance = dit, guidance
        self.kept: list[list[Tensor]] = []
        self._before, self._end = before, num_final
        self._copies = 2 if guidance else 1  # with and without what guides
        embedded = [dit.text_embed(codes), dit.text_embed(codes, drop_code=True)]
        self._codes = torch.cat(embedded[: self._copies])  # [copies, T, E]
        num = self._codes.shape[1]
        self._condition = voice.condition[: self._copies, None].expand(-1, num, -1)
        self._speaker = voice.speaker[: self._copies, None].expand(-1, num, -1)
        self._num_before = dit.block_size if before else 0
        places = torch.arange(self._num_before + num, device=codes.device)
        self._rotary = dit.rotary_embed(self._codes, places[None])
        blocks = places // dit.block_size
        self._distance = blocks[None] - blocks[:, None]

    def velocity(self, modulation: _Modulation, x: Tensor) -> Tensor:
        """One evaluation: where the frames x [1, T, bins] move at a time in the flow."""
        before = self._before[len(self.kept)] if self._before else None
        parts = (x.expand(self._copies, -1, -1), self._condition, self._codes, self._speaker)
        hidden = self.dit.input_embed.proj(torch.cat(parts, dim=-1))
        kept: list[Tensor] = []
        for layer, shifts in zip(self.dit.transformer_blocks, modulation.layers):
            past = None
            if layer.look_backward_block:
                past = before[len(kept)] if before else None
                kept.append(hidden[:, max(0, self._end - self.dit.block_size) : self._end])
            hidden = self._layer(layer, shifts, hidden, past)
        self.kept.append(kept)
        end = modulation.end.expand(self._copies, -1)
        moved = self.dit.proj_out(self.dit.norm_out(hidden, end))
        if self._copies == 1:
            return moved
        guided, unguided = moved.chunk(2)
        return guided + (guided - unguided) * self.guidance

    def _layer(
        self, layer, shifts: tuple[Tensor, ...], hidden: Tensor, past: Tensor | None
    ) -> Tensor:
        """A layer's output [copies, T, C]; `past` stands before its input."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = shifts
        joined = hidden if past is None else torch.cat([past, hidden], dim=1)
        skipped = 0 if past is None else self._num_before
        first = self._num_before - skipped
        cos, sin = (table[:, first:] for table in self._rotary)
        distance = self._distance[first:, first:]
        seen = (distance >= -layer.look_backward_block) & (distance <= layer.look_ahead_block)
        attended = layer.attn(
            layer.attn_norm.norm(joined) * (1 + scale) + shift,
            position_embeddings=(cos, sin),
            attention_mask=seen[None, None],
        )
        hidden = hidden + gate * attended[:, skipped:]
        return hidden + ff_gate * layer.ff(layer.ff_norm(hidden) * (1 + ff_scale) + ff_shift)


def _solve(flow: FlowConfig, x: Tensor, velocity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Follow the flow from noise [1, T, bins] to mel, at times that are dense where it begins."""
    even = torch.linspace(0, 1, flow.num_steps)
    times = even - (torch.cos(torch.pi / 2 * even) - 1 + even)
    for start, end in zip(times[:-1], times[1:]):
        step = end - start
        first = velocity(start, x)
        if flow.solver == "euler":
            x = x + step * first
            continue
        # Runge and Kutta's 3/8 rule.
        second = velocity(start + step * (1 / 3), x + step * first * (1 / 3))
        third = velocity(start + step * (2 / 3), x + step * (second - first * (1 / 3)))
        fourth = velocity(end, x + step * (first - second + third))
        x = x + (first + 3 * (second + third) + fourth) * step / 8
    return x
