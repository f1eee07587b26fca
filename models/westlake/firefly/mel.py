"""Wave -> log-mel spectrogram."""

import torch
import torch.nn.functional as F
import torchaudio.functional as AF
from torch import Tensor, nn

from .config import FireflyConfig
from .conv import StreamState


class LogMelSpectrogram(nn.Module):
    """Natural log of a slaney mel spectrogram (published part ``spec_transform``).

    Frame i sees the samples [i*hop - left, i*hop - left + win) of the signal, which is continued
    by reflection at both ends. Window and filterbank are no part of the state dict.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(self, config: FireflyConfig) -> None:
        super().__init__()
        self.window: Tensor
        self.filterbank: Tensor
        self.sample_rate = config.sample_rate
        self.n_fft = config.n_fft
        self.win_length = config.win_length
        self.hop_length = config.hop_length
        self.left_padding = (config.win_length - config.hop_length) // 2
        self.right_padding = (config.win_length - config.hop_length + 1) // 2
        with torch.device("cpu"):  # also where the codec is only planned, on the meta device
            filterbank = AF.melscale_fbanks(
                n_freqs=config.n_fft // 2 + 1,
                f_min=config.f_min,
                f_max=config.f_max or config.sample_rate // 2,
                n_mels=config.n_mels,
                sample_rate=config.sample_rate,
                norm="slaney",
                mel_scale="slaney",
            )
            window = torch.hann_window(config.win_length)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", filterbank, persistent=False)

    @property
    def min_samples(self) -> int:
        """The shortest signal: what the reflection at its ends needs."""
        return self.right_padding + 1

    def forward(
        self,
        wave: Tensor,
        state: StreamState | None = None,
        *,
        return_linear: bool = False,
        sample_rate: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the spectrogram.

        Args:
            wave: [B, 1, T] float, in -1..1; at least `min_samples` in all.
            state: None for a whole signal; else wave is its next piece, and the frames that are
                complete come back (with state.last, all that remain).
            return_linear: also return the log spectrogram before the mel filterbank.
            sample_rate: rate of `wave` in Hz where it differs; whole signals only.

        Returns:
            [B, n_mels, T // hop_length], and with return_linear also [B, n_fft // 2 + 1, ...].

        Raises:
            ValueError: the signal is shorter than `min_samples`, or a stream has another rate.
        """
        wave = wave.squeeze(1)
        if sample_rate is not None and sample_rate != self.sample_rate:
            if state is not None:
                raise ValueError(
                    f"{sample_rate} Hz is resampled to {self.sample_rate} Hz for whole signals "
                    "only: resample a stream before it comes here"
                )
            wave = AF.resample(wave, sample_rate, self.sample_rate)
        padded = (
            self._reflect(wave, left=True, right=True)
            if state is None
            else self._buffered(wave, state)
        )
        if padded.shape[-1] < self.win_length:
            magnitude = wave.new_zeros(wave.shape[0], self.n_fft // 2 + 1, 0)
        else:
            spectrum = torch.stft(
                padded,
                self.n_fft,
                self.hop_length,
                self.win_length,
                self.window,
                center=False,
                return_complex=True,
            )
            magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-6)
        mel = _log(self.filterbank.T @ magnitude)
        return (mel, _log(magnitude)) if return_linear else mel

    def _reflect(self, wave: Tensor, *, left: bool, right: bool) -> Tensor:
        if wave.shape[-1] < self.min_samples:
            raise ValueError(
                f"a signal of {wave.shape[-1]} samples is too short for the spectrogram: "
                f"give at least {self.min_samples} (pad it with silence)"
            )
        return F.pad(wave, (left * self.left_padding, right * self.right_padding), mode="reflect")

    def _buffered(self, wave: Tensor, state: StreamState) -> Tensor:
        """The padded signal from the next frame's first sample on, as far as it is known."""
        past = state.buffers.get(self)
        started = past is not None and past.shape[-1] > self.right_padding
        known = wave if past is None else torch.cat([past, wave], dim=-1)
        if not started and not state.last and known.shape[-1] <= self.right_padding:
            state.buffers[self] = known.clone()  # too short yet to be reflected
            return known[:, :0]
        known = self._reflect(known, left=not started, right=state.last)
        num_frames = max(0, (known.shape[-1] - self.win_length) // self.hop_length + 1)
        state.buffers[self] = known[:, num_frames * self.hop_length :].clone()
        return known


def _log(x: Tensor) -> Tensor:
    return torch.log(torch.clamp(x, min=1e-5))
