"""The ear: a wave -> Whisper's encoder -> what the language model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import MiniOmniConfig

if TYPE_CHECKING:
    from transformers import WhisperConfig

SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = 320  # of a feature; one of the mel spectrogram has half as many


class Adapter(nn.Module):
    """From the encoder's features to the language model's width (published part whisper_adapter).

    Args:
        config: the sizes.
    """

    def __init__(self, config: MiniOmniConfig) -> None:
        super().__init__()
        num_inputs, size = config.whisper_adapter_dim, config.intermediate_size
        self.fc_1 = nn.Linear(num_inputs, size, bias=False)
        self.fc_2 = nn.Linear(num_inputs, size, bias=False)
        self.proj = nn.Linear(size, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., whisper_adapter_dim] -> [..., n_embd]."""
        return self.proj(F.silu(self.fc_1(x)) * self.fc_2(x))


class Ear(nn.Module):
    """Whisper's encoder, which hears a span of fixed length, filled up with silence.

    Args:
        config: of the encoder, as transformers has it.
        adapter: after the encoder.

    Raises:
        ValueError: the encoder's features are not what the adapter takes, or it hears no whole
            number of seconds.
    """

    def __init__(self, config: WhisperConfig, adapter: Adapter) -> None:
        from transformers import WhisperFeatureExtractor  # here, as this import takes seconds
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        super().__init__()
        if config.d_model != adapter.fc_1.in_features:
            raise ValueError(
                f"its features have {config.d_model} numbers, but the language model's adapter "
                f"takes {adapter.fc_1.in_features}: it needs another size of Whisper"
            )
        seconds, rest = divmod(config.max_source_positions * SAMPLES_PER_FRAME, SAMPLE_RATE)
        if not seconds or rest:
            raise ValueError(
                f"max_source_positions is {config.max_source_positions}, but must be whole "
                f"seconds, that is a multiple of {SAMPLE_RATE // SAMPLES_PER_FRAME}"
            )
        self.encoder = WhisperEncoder(config)
        self.adapter = adapter
        self.num_frames: int = config.max_source_positions
        self.extractor = WhisperFeatureExtractor(
            feature_size=config.num_mel_bins,
            sampling_rate=SAMPLE_RATE,
            chunk_length=seconds,
        )

    @property
    def max_samples(self) -> int:
        """What it can hear at once, at `SAMPLE_RATE`."""
        return self.num_frames * SAMPLES_PER_FRAME

    @torch.inference_mode()
    def forward(self, wave: Tensor) -> Tensor:
        """Hear a wave [n] float32 at `SAMPLE_RATE`; returns features [T, n_embd].

        T is n / 320 + 1, rounded down, and at most what fits; what lies beyond is not heard.
        """
        weight = self.encoder.conv1.weight
        num_frames = min(len(wave) // SAMPLES_PER_FRAME + 1, self.num_frames)
        mel = self.extractor(wave.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        mel = mel.input_features.to(weight.device, weight.dtype)
        return self.adapter(self.encoder(mel).last_hidden_state[0, :num_frames])
