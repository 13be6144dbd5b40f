import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, jacrev

from lightning_modules.probabilistic.scale_mixture_nngp.architectures import (
    Architecture,
    ConvolutionalNetwork,
    ConvolutionalResidualNetwork,
    DenseNetwork,
    NetworkKernel,
    ResidualNetwork,
    window_mean,
)

W, B, LAST = 1.3, 0.4, 0.7
IMAGES = (ConvolutionalNetwork(2), ConvolutionalNetwork(1, "erf"), ConvolutionalResidualNetwork(1))
ROWS = (DenseNetwork(2), DenseNetwork(2, "erf"), ResidualNetwork(2))


def inputs(architecture: Architecture, count: int = 3) -> Tensor:
    shape = (count, 2, 6, 5) if "Conv" in type(architecture).__name__ else (count, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def kernel_of(architecture: Architecture, tangent: bool = False) -> NetworkKernel:
    return NetworkKernel(architecture, W, B, LAST, tangent=tangent)


class Finite(torch.nn.Module):
    """The same architecture as a wide finite network, not a kernel; strides use the padding of TensorFlow and JAX."""

    def __init__(self, architecture: Architecture, x: Tensor, width: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.width = width
        self.parameters_by_name = torch.nn.ParameterDict()
        self.used = 0
        self(x)

    def draw(self, *shape: int) -> Tensor:
        self.used += 1
        name = f"p{self.used}"
        if name not in self.parameters_by_name:
            self.parameters_by_name[name] = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
        return self.parameters_by_name[name]

    def layer(self, h: Tensor, stride: int = 1) -> Tensor:
        bias = B * self.draw(self.width)
        if h.ndim == 2:
            return F.linear(h, self.draw(self.width, h.shape[1])) * (W / math.sqrt(h.shape[1])) + bias
        kernel = self.draw(self.width, h.shape[1], 3, 3)
        if stride == 2:  # an even side is padded only at the end
            h = F.pad(h, [side for n in (h.shape[3], h.shape[2]) for side in ((0, 1) if n % 2 == 0 else (1, 1))])
        image = F.conv2d(h, kernel, stride=stride, padding=1 if stride == 1 else 0)
        return image * (W / math.sqrt(9 * h.shape[1])) + bias[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        self.used, depth = 0, self.architecture.depth
        s = F.relu if self.architecture.activation == "relu" else torch.erf
        match self.architecture:
            case DenseNetwork() | ConvolutionalNetwork():
                for _ in range(depth):
                    x = s(self.layer(x))
            case ResidualNetwork():
                x = self.layer(x)
                for _ in range(depth):
                    x = x + self.layer(s(x))
                x = s(x)
            case _:
                x = self.layer(x)
                for stride in (1, 2, 2, 2):
                    main = self.layer(s(self.layer(s(x), stride)))
                    x = main + self.layer(x, stride)
        x = x.flatten(1)
        return F.linear(x, self.draw(1, x.shape[1])) * (LAST / math.sqrt(x.shape[1]))


@pytest.mark.parametrize("architecture", [*ROWS, *IMAGES])
def test_kernels_are_those_of_wide_networks(architecture: Architecture) -> None:
    """The tangent kernel is a product of gradients; for the last layer's weights alone, it is the covariance."""
    torch.manual_seed(1)
    x, (width, times) = inputs(architecture), ((500, 20) if architecture in ROWS else (60, 80))
    tangent, covariance = torch.zeros(3, 3).double(), torch.zeros(3, 3).double()
    for _ in range(times):
        network = Finite(architecture, x, width)
        gradient = jacrev(lambda p, network=network: functional_call(network, p, x)[:, 0])(
            dict(network.named_parameters())
        )
        last = list(gradient)[-1]
        for name, g in gradient.items():
            product = g.flatten(1) @ g.flatten(1).T / times
            tangent += product
            covariance += product if name == last else 0
    for expected, kernel in ((covariance, kernel_of(architecture)), (tangent, kernel_of(architecture, True))):
        k = kernel(x, x).detach()

        torch.testing.assert_close(k, expected, atol=0.05 * float(k.max()), rtol=0)


@pytest.mark.parametrize("architecture", [*ROWS, *IMAGES])
@pytest.mark.parametrize("tangent", [False, True])
def test_kernels_are_symmetric_positive_and_exact_on_the_diagonal(architecture: Architecture, tangent: bool) -> None:
    kernel, x = kernel_of(architecture, tangent), inputs(architecture, 12)
    with torch.no_grad():
        k = kernel(x, x)
        torch.testing.assert_close(k, k.T, rtol=1e-12, atol=0)
        torch.testing.assert_close(k.diagonal(), kernel.diagonal(x), rtol=1e-13, atol=0)
        assert torch.linalg.eigvalsh(k)[0] > 1e-6 * k.max()
        torch.testing.assert_close(kernel(x[:2], x[3:])[1], k[1, 3:], rtol=1e-13, atol=0)


def test_closed_cases() -> None:
    one = NetworkKernel(DenseNetwork(1), 1.0, 1e-12, 1.0)
    x = torch.tensor([[math.sqrt(2), 0.0], [0.0, math.sqrt(8)]], dtype=torch.float64)  # variances 1 and 4
    with torch.no_grad():
        k = one(x, x)
    assert k[0, 0] == pytest.approx(1 / 2)
    assert k[0, 1] == pytest.approx(2 / (2 * math.pi))  # a right angle: s / (2 pi)
    with torch.no_grad():
        erf = NetworkKernel(DenseNetwork(1, "erf"), 1.0, 1e-12, 1.0)(x, x)
    assert erf[0, 0] == pytest.approx(2 / math.pi * math.asin(2 / 3))
    assert erf[0, 1] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("architecture", [*ROWS, *IMAGES])
def test_gradients_are_those_of_finite_differences_also_at_equal_and_opposite_inputs(
    architecture: Architecture,
) -> None:
    kernel, x = kernel_of(architecture), inputs(architecture)
    x = torch.cat([x, x[:1], -x[:1]])
    parameters = dict(kernel.named_parameters())

    def value(*raw: Tensor) -> Tensor:
        return functional_call(kernel, dict(zip(parameters, raw, strict=True)), (x, x))

    assert torch.autograd.gradcheck(value, tuple(parameters.values()))


@pytest.mark.parametrize("size", [5, 6])
def test_windows_are_padded_by_zeros_and_a_stride_begins_where_jax_begins(size: int) -> None:
    k = torch.randn(1, 1, size, size, dtype=torch.float64)
    padded = F.pad(k, [1, 1, 1, 1])
    centre = torch.arange(0, size, 2) + (size % 2 == 0)
    expected = torch.stack(
        [torch.stack([padded[0, 0, i : i + 3, j : j + 3].sum() / 9 for j in centre]) for i in centre]
    )
    torch.testing.assert_close(window_mean(k, 2)[0, 0], expected)
