"""The deep complex U-Net, the score network of the authors' first paper.

All layers are complex. A tensor with C complex channels is stored as 2 C real channels: first the real parts, then the
imaginary parts. Each layer of the encoder or decoder computes

    h <- relu(norm(W * h + silu(V e))),   (W * h)_re = A * h_re - B * h_im,   (W * h)_im = B * h_re + A * h_im,

where * is a (transposed) convolution with kernel size 4, the complex kernel W has the real part A and the imaginary
part B, and e embeds the time. Real and imaginary parts have separate batch normalisation. Each decoder layer except the
first also receives the output of the encoder layer with the same size.

Source: Welker, Richter and Gerkmann, Speech Enhancement with Score-Based Generative Models in the Complex STFT Domain,
Interspeech 2022, arXiv 2203.17004; Choi et al., Phase-aware Speech Enhancement with Deep Complex U-Net, ICLR 2019.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL, PADDING = 4, 2


class ComplexConvolution(nn.Module):
    """A complex convolution without bias; the output size of a transposed convolution is given in each call.

    Args:
        before: number of complex channels of the input.
        after: number of complex channels of the output.
        stride: stride along frequency and time.
        dilation: dilation along frequency and time.
        transposed: whether the convolution is transposed.
    """

    def __init__(
        self, before: int, after: int, stride: tuple[int, int], dilation: tuple[int, int], transposed: bool = False
    ) -> None:
        super().__init__()
        layer = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.real, self.imaginary = (layer(before, after, KERNEL, bias=False) for _ in range(2))
        self.stride = stride
        self.dilation = dilation

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        real, imaginary = self.real.weight, self.imaginary.weight
        if size is None:
            weight = torch.cat([torch.cat([real, -imaginary], 1), torch.cat([imaginary, real], 1)])
            return F.conv2d(x, weight, None, self.stride, PADDING, self.dilation)
        weight = torch.cat([torch.cat([real, imaginary], 1), torch.cat([-imaginary, real], 1)])
        ends = zip(size, x.shape[2:], self.stride, self.dilation, strict=True)
        beyond = [
            wanted - ((given - 1) * step - 2 * PADDING + spread * (KERNEL - 1) + 1)
            for wanted, given, step, spread in ends
        ]
        return F.conv_transpose2d(x, weight, None, self.stride, PADDING, beyond, 1, self.dilation)


class ComplexLinear(nn.Module):
    """A complex linear layer on features `[B, 2 E]`."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.real, self.imaginary = nn.Linear(before, after), nn.Linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = x.chunk(2, dim=1)
        return torch.cat(
            [self.real(real) - self.imaginary(imaginary), self.imaginary(real) + self.real(imaginary)], dim=1
        )


class ComplexLayer(nn.Module):
    """A layer of the encoder or decoder: convolution, time embedding, batch normalisation and ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        stride: tuple[int, int],
        dilation: tuple[int, int],
        embedding: int,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.convolution = ComplexConvolution(before, after, stride, dilation, transposed)
        self.time = ComplexLinear(embedding, after)
        self.norm = nn.BatchNorm2d(2 * after)

    def forward(self, x: Tensor, time: Tensor, size: Sequence[int] | None = None) -> Tensor:
        return F.relu(self.norm(self.convolution(x, size) + F.silu(self.time(time))[:, :, None, None]))


class DeepComplexUNet(nn.Module):
    """Deep complex U-Net for spectrograms, conditioned on the noisy spectrogram and the time.

    The default arguments are those of the first paper. The output is not divided by the time, in contrast to SGMSE+'s
    network.

    Args:
        channels: number of complex channels of each encoder layer.
        strides: strides of each encoder layer along frequency and time.
        dilations: dilation of each encoder layer along frequency.
        embedding: size of the time embedding.
    """

    frequencies: Tensor

    def __init__(
        self,
        channels: Sequence[int] = (32, 32, 32, 64, 128, 256),
        strides: Sequence[tuple[int, int]] = ((1, 1), (1, 1), (1, 1), (2, 1), (2, 2), (2, 2)),
        dilations: Sequence[int] = (1, 1, 1, 2, 4, 8),
        embedding: int = 128,
    ) -> None:
        super().__init__()
        if not len(channels) == len(strides) == len(dilations):
            raise ValueError(
                f"channels, strides and dilations must have the same length, got {len(channels)}, {len(strides)} and "
                f"{len(dilations)}"
            )
        self.register_buffer("frequencies", 16 * torch.randn(embedding // 2))
        self.time = nn.Sequential(
            *(ComplexLinear(embedding, embedding), nn.SiLU(), ComplexLinear(embedding, embedding), nn.SiLU())
        )
        shapes = [((step[0], step[1]), (spread, 1)) for step, spread in zip(strides, dilations, strict=True)]
        inputs = [2, *channels[:-1]]
        self.encoders = nn.ModuleList(
            ComplexLayer(before, after, *shape, embedding)
            for before, after, shape in zip(inputs, channels, shapes, strict=True)
        )
        doubled = [*(2 * each for each in channels[:-1]), channels[-1]]
        decoders = [
            ComplexLayer(doubled[k], inputs[k], *shapes[k], embedding, transposed=True)
            for k in reversed(range(1, len(channels)))
        ]
        self.decoders = nn.ModuleList(decoders)
        self.last = ComplexConvolution(doubled[0], 1, *shapes[0], transposed=True)

    def forward(self, channels: Tensor, t: Tensor) -> Tensor:
        """Map inputs `[B, 4, F, T]` and times `[B]` to outputs `[B, 2, F, T]`."""
        angle = 2 * math.pi * t[:, None] * self.frequencies.to(t.dtype)
        real = torch.cat([angle.sin(), angle.cos()], dim=1).to(channels.dtype)
        time = self.time(torch.cat([real, torch.zeros_like(real)], dim=1))
        x = channels[:, [0, 2, 1, 3]]
        sizes, skips = [], []
        for encoder in self.encoders:
            sizes.append(x.shape[2:])
            x = encoder(x, time)
            skips.append(x)
        for decoder, size, skip in zip(self.decoders, sizes[:0:-1], skips[-2::-1], strict=True):
            joined = zip(decoder(x, time, size).chunk(2, dim=1), skip.chunk(2, dim=1), strict=True)
            x = torch.cat([part for pair in joined for part in pair], dim=1)
        return self.last(x, sizes[0])
