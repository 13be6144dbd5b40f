"""Layerwise computation of the kernels of infinitely wide networks: output covariance (NNGP) and tangent kernel (NTK).

The weights W and biases beta of a layer are N(0, 1). For an input h with n entries, the layer computes w W h / sqrt(n)
+ b beta. Each layer transforms the covariances K of the outputs for pairs of network inputs. Optionally, each layer
also transforms the tangent kernel T, which is the inner product of the parameter gradients of the two outputs. With the
activation function s, the rules are

    dense:       K <- w^2 K + b^2,    T <- w^2 T + K  (with the new K)
    activation:  K <- E[s(u) s(v)],   T <- T E[s'(u) s'(v)]
    convolution: K and T are averaged over zero-padded windows of 3 x 3 pixels, and then the dense rule is applied
    flattening:  K and T are averaged over pixels.

Convolutional networks without pooling need only the covariances between pixels at the same position.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, positive
from lightning_modules.probabilistic.kernels import erf_moments, relu_moments

ActivationName = Literal["relu", "erf"]
MOMENTS = {"relu": relu_moments, "erf": erf_moments}


class Pairs(NamedTuple):
    """Covariances of a layer's outputs for pairs of inputs.

    For convolutional layers, the tensors contain one value per pixel, `[..., H, W]`.
    """

    first: Tensor
    """Variances for the first input of each pair, `[N, 1, ...]`."""
    second: Tensor
    """Variances for the second input of each pair, `[1, M, ...]`."""
    covariance: Tensor
    """Covariances of the two outputs of each pair, `[N, M, ...]`."""
    tangent: Tensor | None
    """Tangent kernel, `[N, M, ...]`, or None if it is not used."""

    def each(self, other: "Pairs") -> "Pairs":
        """Add the covariances of a second branch, whose weights are independent of the weights of this branch."""
        tangent = None if self.tangent is None or other.tangent is None else self.tangent + other.tangent
        first, second, covariance = (a + b for a, b in zip(self[:3], other[:3], strict=True))
        return Pairs(first, second, covariance, tangent)


def dense(pairs: Pairs, weight: Tensor, bias: Tensor) -> Pairs:
    """Apply a dense layer with the given standard deviations of the weights and of the biases."""
    first, second, covariance = ((weight**2 * k).add_(bias**2) for k in pairs[:3])
    tangent = None if pairs.tangent is None else weight**2 * pairs.tangent + covariance
    return Pairs(first, second, covariance, tangent)


def activate(pairs: Pairs, name: ActivationName) -> Pairs:
    """Apply an activation function.

    The variances are exact, because the angle between an input and itself is set to 0.
    """
    moments = MOMENTS[name]
    covariance, *slopes = moments(*pairs[:3], slopes=pairs.tangent is not None)
    first, second = (moments(k, k, k, slopes=False)[0] for k in pairs[:2])
    return Pairs(first, second, covariance, None if pairs.tangent is None else pairs.tangent * slopes[0])


def window_mean(k: Tensor, stride: int) -> Tensor:
    """Average over zero-padded 3 x 3 windows.

    With stride 1, the height and the width do not change.
    """
    sides: list[int] = []
    for size in (k.shape[-1], k.shape[-2]):
        missing = (math.ceil(size / stride) - 1) * stride + 3 - size
        sides += [missing // 2, missing - missing // 2]
    return F.avg_pool2d(F.pad(k, sides), 3, stride)


def convolution(pairs: Pairs, weight: Tensor, bias: Tensor, stride: int = 1) -> Pairs:
    """Apply a 3 x 3 convolution with the given standard deviations of the weights and of the biases."""
    means = Pairs(*(None if k is None else window_mean(k, stride) for k in pairs))  # type: ignore[arg-type]
    return dense(means, weight, bias)


class Architecture(ABC):
    """Base class of network architectures without their last layer.

    Args:
        depth: number of hidden layers or of residual blocks.
        activation: activation function, `relu` or `erf`.
    """

    convolutional = False

    def __init__(self, depth: int, activation: ActivationName = "relu") -> None:
        at_least(1, depth=depth)
        one_of(MOMENTS, activation=activation)
        self.depth = depth
        self.activation: ActivationName = activation

    @abstractmethod
    def apply_hidden(self, pairs: Pairs, weight: Tensor, bias: Tensor) -> Pairs:
        """Apply all layers except the last."""


class DenseNetwork(Architecture):
    """A dense network in which each hidden layer is followed by an activation."""

    def apply_hidden(self, pairs: Pairs, weight: Tensor, bias: Tensor) -> Pairs:
        for _ in range(self.depth):
            pairs = activate(dense(pairs, weight, bias), self.activation)
        return pairs


class ResidualNetwork(Architecture):
    """A residual network that consists of a dense layer, blocks h + dense(activation(h)), and a final activation."""

    def apply_hidden(self, pairs: Pairs, weight: Tensor, bias: Tensor) -> Pairs:
        pairs = dense(pairs, weight, bias)
        for _ in range(self.depth):
            pairs = pairs.each(dense(activate(pairs, self.activation), weight, bias))
        return activate(pairs, self.activation)


class ConvolutionalNetwork(Architecture):
    """A convolutional network in which each convolution is followed by an activation."""

    convolutional = True

    def apply_hidden(self, pairs: Pairs, weight: Tensor, bias: Tensor) -> Pairs:
        for _ in range(self.depth):
            pairs = activate(convolution(pairs, weight, bias), self.activation)
        return pairs


class ConvolutionalResidualNetwork(Architecture):
    """A residual network that consists of a convolution and four groups of pre-activation blocks.

    Each of the last three groups halves the resolution. The first block of each group has a convolution on its
    shortcut. There is no activation before the last layer of the network.
    """

    convolutional = True

    def apply_hidden(self, pairs: Pairs, weight: Tensor, bias: Tensor) -> Pairs:
        pairs = convolution(pairs, weight, bias)
        for stride in (1, 2, 2, 2):
            for block in range(self.depth):
                step = stride if block == 0 else 1
                main = convolution(activate(pairs, self.activation), weight, bias, step)
                main = convolution(activate(main, self.activation), weight, bias)
                pairs = main.each(convolution(pairs, weight, bias, step) if block == 0 else pairs)
        return pairs


def raw_of(value: float) -> Tensor:
    """Return the inverse softplus of a positive value."""
    return torch.tensor(value, dtype=torch.float64).expm1().log() if value < 20 else torch.tensor(value).double()


class Positive(nn.Module):
    """A positive scalar, computed as the softplus of a parameter.

    Args:
        value: initial value.
        trained: whether the parameter is trainable.
    """

    def __init__(self, value: float, trained: bool = True) -> None:
        super().__init__()
        self.raw = nn.Parameter(raw_of(value), requires_grad=trained)

    def forward(self) -> Tensor:
        return F.softplus(self.raw)


class NetworkKernel(nn.Module):
    """Kernel of an infinitely wide network with one output, whose last layer has no bias.

    All standard deviations are trainable, except possibly that of the last layer.

    Args:
        architecture: architecture of the network without its last layer.
        weight_std: standard deviation w of the weights of all layers except the last.
        bias_std: standard deviation b of the biases, positive.
        last_std: standard deviation w of the weights of the last layer.
        train_last: whether `last_std` is trainable; training it is redundant if the random scale has trainable
            parameters.
        tangent: whether to return the tangent kernel of all layers (NTK) instead of the output covariance (NNGP).
    """

    def __init__(
        self,
        architecture: Architecture,
        weight_std: float = 1.0,
        bias_std: float = 1e-8,
        last_std: float = 1.0,
        train_last: bool = False,
        tangent: bool = False,
    ) -> None:
        super().__init__()
        positive(weight_std=weight_std, bias_std=bias_std, last_std=last_std)
        self.architecture = architecture
        self.tangent = tangent
        self.weight_std = Positive(weight_std)
        self.bias_std = Positive(bias_std)
        self.last_std = Positive(last_std, train_last)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute the kernel matrix `[N, M]` between rows `[N, D]` and `[M, D]`, or between images `[N, C, H, W]`.

        Dense networks flatten images.
        """
        x, y = self._take(x), self._take(y)
        product = x @ y.T if x.ndim == 2 else torch.einsum("nchw,mchw->nmhw", x, y)
        return self._last(x.square().mean(1)[:, None], y.square().mean(1)[None], product.div_(x.shape[1]))

    def diagonal(self, x: Tensor) -> Tensor:
        """Compute k(x, x) for each input, `[N]`."""
        variance = self._take(x).square().mean(1)[:, None]
        return self._last(variance, variance, variance)[:, 0]

    def _take(self, x: Tensor) -> Tensor:
        return x if self.architecture.convolutional else x.flatten(start_dim=1)

    def _last(self, first: Tensor, second: Tensor, product: Tensor) -> Tensor:
        pairs = Pairs(first, second, product, torch.zeros_like(product) if self.tangent else None)
        pairs = self.architecture.apply_hidden(pairs, self.weight_std(), self.bias_std())
        kernel = pairs.covariance if pairs.tangent is None else pairs.covariance + pairs.tangent
        return self.last_std() ** 2 * (kernel if kernel.ndim == 2 else kernel.mean(dim=(2, 3)))
