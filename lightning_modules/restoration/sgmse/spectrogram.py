"""Complex spectrograms of recordings, compressed in amplitude, in which networks see sound."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least, positive, within


@dataclass(frozen=True)
class Spectrogram:
    """A short-time Fourier transform S and its compression c = factor |S|^exponent e^{i angle S}, and both backwards.

    Args:
        n_fft: length of the window (Hann's, periodic) and of the transform, in samples; even. There are n_fft / 2 + 1
            frequencies.
        hop: samples from one frame to the next.
        exponent: of the amplitude, in (0, 1].
        factor: of the compressed amplitude.

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
        """Count the frames of a signal's spectrogram."""
        return max(samples, self.n_fft // 2 + 1) // self.hop + 1

    def of(self, signal: Tensor) -> Tensor:
        """Compute spectrograms `[B, 1, n_fft / 2 + 1, samples / hop + 1]`, complex, of signals `[B, samples]`.

        Signals that are too short to be mirrored at their ends, by half a window, have zeros after them.
        """
        signal = F.pad(signal, (0, max(0, self.n_fft // 2 + 1 - signal.shape[-1])))
        window = torch.hann_window(self.n_fft, dtype=signal.dtype, device=signal.device)
        transform = torch.stft(signal, self.n_fft, self.hop, window=window, center=True, return_complex=True)
        return self.factor * torch.polar(transform.abs() ** self.exponent, transform.angle())[:, None]

    def signal(self, spectrogram: Tensor, length: int) -> Tensor:
        """Compute signals `[B, length]` of spectrograms."""
        amplitude = (spectrogram[:, 0].abs() / self.factor) ** (1 / self.exponent)
        window = torch.hann_window(self.n_fft, dtype=amplitude.dtype, device=amplitude.device)
        transform = torch.polar(amplitude, spectrogram[:, 0].angle())
        return torch.istft(transform, self.n_fft, self.hop, window=window, center=True, length=length)


def as_channels(*spectrograms: Tensor) -> Tensor:
    """Give real and imaginary parts of complex spectrograms `[B, 1, F, T]`, one after the other, as channels."""
    return torch.cat([part for each in spectrograms for part in (each.real, each.imag)], dim=1)


def as_complex(channels: Tensor) -> Tensor:
    """Make a complex spectrogram `[B, 1, F, T]` of two channels, in single precision at least."""
    real, imaginary = channels.to(torch.promote_types(channels.dtype, torch.float32)).chunk(2, dim=1)
    return torch.complex(real.contiguous(), imaginary.contiguous())
