"""Amplitude-compressed complex spectrograms of recordings, the input of speech networks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least, positive, within


@dataclass(frozen=True)
class Spectrogram:
    """Short-time Fourier transform S with compression c = factor |S|^exponent e^{i angle S}, and its inverse.

    Args:
        n_fft: length of the periodic Hann window and of the Fourier transform, in samples; an even number. The
            transform has n_fft / 2 + 1 frequencies.
        hop: hop length between frames, in samples.
        exponent: exponent of the amplitude, in (0, 1].
        factor: scale of the compressed amplitude.

    Raises:
        ValueError: if an argument is out of range.
    """

    n_fft: int = 510
    hop: int = 128
    exponent: float = 0.5
    factor: float = 0.15

    def __post_init__(self) -> None:
        at_least(2, n_fft=self.n_fft)
        within(1, self.n_fft, hop=self.hop)
        within(0, 1, "(]", exponent=self.exponent)
        positive(factor=self.factor)
        if self.n_fft % 2:
            raise ValueError(f"n_fft must be even, got {self.n_fft}")

    def frames(self, samples: int) -> int:
        """Return the number of frames that the spectrogram of a signal with `samples` samples has."""
        return max(samples, self.n_fft // 2 + 1) // self.hop + 1

    def of(self, signal: Tensor) -> Tensor:
        """Compute complex spectrograms `[B, 1, n_fft / 2 + 1, samples / hop + 1]` of signals `[B, samples]`.

        Signals that are not longer than half a window are first zero-padded at the end, because they are too short for
        reflection padding.
        """
        signal = F.pad(signal, (0, max(0, self.n_fft // 2 + 1 - signal.shape[-1])))
        window = torch.hann_window(self.n_fft, dtype=signal.dtype, device=signal.device)
        transform = torch.stft(signal, self.n_fft, self.hop, window=window, center=True, return_complex=True)
        return self.factor * torch.polar(transform.abs() ** self.exponent, transform.angle())[:, None]

    def signal(self, spectrogram: Tensor, length: int) -> Tensor:
        """Invert the transform: compute signals `[B, length]` from spectrograms."""
        amplitude = (spectrogram[:, 0].abs() / self.factor) ** (1 / self.exponent)
        window = torch.hann_window(self.n_fft, dtype=amplitude.dtype, device=amplitude.device)
        transform = torch.polar(amplitude, spectrogram[:, 0].angle())
        return torch.istft(transform, self.n_fft, self.hop, window=window, center=True, length=length)


def as_channels(*spectrograms: Tensor) -> Tensor:
    """Turn the real and imaginary parts of complex spectrograms `[B, 1, F, T]` into channels, and concatenate them."""
    return torch.cat([part for each in spectrograms for part in (each.real, each.imag)], dim=1)


def as_complex(channels: Tensor) -> Tensor:
    """Combine two channels into a complex spectrogram `[B, 1, F, T]`, in float32 or a higher precision."""
    real, imaginary = channels.to(torch.promote_types(channels.dtype, torch.float32)).chunk(2, dim=1)
    return torch.complex(real.contiguous(), imaginary.contiguous())
