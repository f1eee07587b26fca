"""The Firefly codec, wave <-> codes."""

from .codec import FireflyArchitecture
from .config import FireflyConfig
from .conv import StreamState
from .convnext import ConvNeXtEncoder
from .hifigan import HiFiGANGenerator
from .mel import LogMelSpectrogram
from .quantizer import DownsampleFiniteScalarQuantize

__all__ = [
    "ConvNeXtEncoder",
    "DownsampleFiniteScalarQuantize",
    "FireflyArchitecture",
    "FireflyConfig",
    "HiFiGANGenerator",
    "LogMelSpectrogram",
    "StreamState",
]
