"""Every size of the Firefly codec."""

from dataclasses import dataclass, fields
from math import prod


@dataclass(frozen=True, kw_only=True)
class FireflyConfig:
    """Sizes of the codec; the defaults are the published full-size model.

    Lengths are in samples, frequencies in Hz. A smaller codec, at another rate, is the same code
    with other numbers here.

    Fields:
        gradient_checkpointing: in training, the vocoder keeps no activations of its residual
            blocks and computes them again for the gradients: less memory, more time.
    """

    sample_rate: int = 44100
    n_fft: int = 2048
    win_length: int = 2048
    hop_length: int = 512
    n_mels: int = 160
    f_min: float = 0.0
    f_max: float | None = None
    encoder_depths: tuple[int, ...] = (3, 3, 9, 3)
    encoder_dims: tuple[int, ...] = (128, 256, 384, 512)
    encoder_kernel_size: int = 7
    drop_path_rate: float = 0.2
    layer_scale_init: float = 1e-6
    downsample_factors: tuple[int, ...] = (2, 2)
    num_codebooks: int = 8
    fsq_levels: tuple[int, ...] = (8, 5, 5, 5)
    decoder_dim: int = 512
    decoder_kernel_size: int = 13
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4, 4)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[int, ...] = (1, 3, 5)
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON has lists where Python has tuples
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
            if field.type in (int, tuple[int, ...]):
                self._check_positive(field.name)
        if prod(self.upsample_rates) != self.hop_length:
            raise ValueError(
                f"upsample_rates {self.upsample_rates} multiply to {prod(self.upsample_rates)}, "
                f"but must multiply to hop_length {self.hop_length}"
            )
        for pair in (
            ("encoder_depths", "encoder_dims"),
            ("upsample_rates", "upsample_kernel_sizes"),
        ):
            first, second = (getattr(self, name) for name in pair)
            if len(first) != len(second):
                raise ValueError(
                    f"{pair[0]} {first} and {pair[1]} {second} must have the same length"
                )
        if self.latent_dim % self.num_codebooks:
            raise ValueError(
                f"the last of encoder_dims, {self.latent_dim}, must be a multiple of "
                f"num_codebooks {self.num_codebooks}"
            )

    def _check_positive(self, name: str) -> None:
        """Sizes and lists of sizes hold numbers of at least 1, and no list is empty."""
        value = getattr(self, name)
        sizes = value if isinstance(value, tuple) else (value,)
        if not sizes or min(sizes) < 1:
            raise ValueError(f"{name} is {value}, but must hold numbers of at least 1")

    @property
    def latent_dim(self) -> int:
        """Channels that are quantised: those of the encoder's last stage."""
        return self.encoder_dims[-1]

    @property
    def codebook_size(self) -> int:
        return prod(self.fsq_levels)

    @property
    def mels_per_frame(self) -> int:
        return prod(self.downsample_factors)

    @property
    def samples_per_frame(self) -> int:
        return self.hop_length * self.mels_per_frame

    @property
    def frame_rate(self) -> float:
        """Code frames a second."""
        return self.sample_rate / self.samples_per_frame
