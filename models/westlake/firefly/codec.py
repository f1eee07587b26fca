"""The Firefly codec: wave <-> codes, whole or in pieces."""

from ctypes import CDLL

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .config import FireflyConfig
from .conv import StreamState
from .convnext import ConvNeXtEncoder
from .hifigan import HiFiGANGenerator
from .mel import LogMelSpectrogram
from .quantizer import DownsampleFiniteScalarQuantize


class FireflyArchitecture(nn.Module):
    """Log-mel, ConvNeXt encoder, grouped finite scalar quantiser, HiFi-GAN decoder; all causal.

    Args:
        weight_norm: of the decoder, as published; else it is as `fold_weight_norm` leaves it.
    """

    def __init__(self, config: FireflyConfig, weight_norm: bool = True) -> None:
        super().__init__()
        self.config = config
        self.spec_transform = LogMelSpectrogram(config)
        self.backbone = ConvNeXtEncoder(config)
        self.quantizer = DownsampleFiniteScalarQuantize(config)
        self.head = HiFiGANGenerator(config, weight_norm)

    def encode(self, audios: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole signals.

        Args:
            audios: [B, 1, T] float at config.sample_rate, in -1..1; shorter ones padded with zeros.
            audio_lengths: [B] long, samples.

        Returns:
            codes [B, K, L] long in 0..codebook_size-1, and feature_lengths [B], whole code frames.
            L counts a last frame that is only partly filled, feature_lengths does not.
        """
        mels = self.spec_transform(audios)
        mask = _mask(audio_lengths // self.config.hop_length, mels)
        return (
            self.quantizer.encode(self.backbone(mels * mask) * mask),
            audio_lengths // self.config.hop_length // self.config.mels_per_frame,
        )

    def decode(self, indices: Tensor, feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Decode whole signals.

        Args:
            indices: codes [B, K, L] long in 0..codebook_size-1.
            feature_lengths: [B] long, code frames; what lies beyond them decodes to silence.

        Returns:
            audio [B, 1, L * samples_per_frame] in -1..1 and audio_lengths [B] in samples.
        """
        audio_lengths = feature_lengths * self.config.samples_per_frame
        if indices.shape[-1] == 0:
            return torch.zeros(len(indices), 1, 0, device=indices.device), audio_lengths
        hidden = self.quantizer.decode(self._checked(indices))
        audio = self.head(hidden * _mask(feature_lengths * self.config.mels_per_frame, hidden))
        return audio * _mask(audio_lengths, audio), audio_lengths

    def new_state(self, batch_size: int = 1) -> StreamState:
        """The state of one stream in each direction; it belongs to the caller."""
        return StreamState(batch_size)

    def encode_chunk(self, wave: Tensor, state: StreamState, last: bool = False) -> Tensor:
        """Encode the next piece of a signal; the pieces' codes joined are those of the whole.

        Args:
            wave: [B, 1, t] float, any t, 0 too.
            state: from `new_state`; used up once last was given.
            last: the signal ends with this piece.

        Returns:
            codes [B, K, l] long of the frames that are now complete; l may be 0.

        Raises:
            ValueError: another batch size than the state's; a signal that is over, or too short.
        """
        self._check_batch(wave, state)
        if state.last:
            raise ValueError("this signal has had its last piece: begin the next with new_state()")
        state.last = last
        return self.quantizer.encode(self.backbone(self.spec_transform(wave, state), state), state)

    def decode_chunk(self, codes: Tensor, state: StreamState) -> Tensor:
        """Decode the next codes of a signal; the pieces joined are the whole signal's wave.

        Args:
            codes: [B, K, l] long in 0..codebook_size-1, any l.
            state: from `new_state`.

        Returns:
            wave [B, 1, l * samples_per_frame] in -1..1.

        Raises:
            ValueError: a code out of range, or another batch size than the state's.
        """
        self._check_batch(codes, state)
        if codes.shape[-1] == 0:
            return torch.zeros(state.batch_size, 1, 0, device=codes.device)
        return self.head(self.quantizer.decode(self._checked(codes), state), state)

    def fold_weight_norm(self) -> "FireflyArchitecture":
        """Make the normalised weights plain ones, for inference: nothing is computed per call."""
        for module in self.head.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        return self

    def prepare_inference(self) -> "FireflyArchitecture":
        """Do once what need not be done in every call; the weights are final then.

        Weight norm is folded, the convolutions' weights lie in memory as the signals do, and what
        the codes stand for is tabulated.
        """
        self.fold_weight_norm()
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                module.weight.data = module.weight.data.mT.contiguous().mT
        self.quantizer.tabulate()
        return self

    def pack(self, library: CDLL | None = None) -> None:
        """Lay the final weights that decode as this CPU multiplies them fastest, and the vocoder's
        in the dtype in which it does.

        Args:
            library: as for `HiFiGANGenerator.pack`; where the vocoder is in C, all of it is.
        """
        self.head.pack(library)
        native = self.head.packed
        if native is not None and self.config.latent_dim % native.width == 0:
            self.quantizer.pack(native.compiled)

    @property
    def compiles_sizes(self) -> bool:
        """A number of frames that is new to the process takes far longer to decode."""
        return self.head.packed is None

    def _checked(self, codes: Tensor) -> Tensor:
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.config.codebook_size):
            raise ValueError(
                f"codes must be 0 to {self.config.codebook_size - 1}, "
                f"got {codes.min().item()} to {codes.max().item()}"
            )
        return codes

    def _check_batch(self, x: Tensor, state: StreamState) -> None:
        if x.shape[0] != state.batch_size:
            raise ValueError(f"a batch of {x.shape[0]} came with a state for {state.batch_size}")


def _mask(lengths: Tensor, x: Tensor) -> Tensor:
    """[B] lengths -> [B, 1, T], 1 within and 0 beyond, for x [B, C, T]."""
    positions = torch.arange(x.shape[-1], device=x.device)
    return (positions < lengths[:, None])[:, None].to(x.dtype)
