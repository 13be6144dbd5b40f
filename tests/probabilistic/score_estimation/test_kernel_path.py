import math

import pytest
import torch

from lightning_modules.probabilistic.score_estimation.kernel_path import KernelPath, relu_tangent_kernel, stopping_step
from lightning_modules.probabilistic.score_estimation.network import FrozenSignNetwork


def rows(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(count, 3, generator=random, dtype=torch.float64), torch.ones(count, 1).double()], 1)


def test_the_kernel_is_symmetric_and_positive_with_half_the_square_on_its_diagonal() -> None:
    z = rows(30)
    kernel = relu_tangent_kernel(z, z)
    torch.testing.assert_close(kernel, kernel.T)
    assert torch.linalg.eigvalsh(kernel)[0] > -1e-12
    torch.testing.assert_close(kernel.diagonal(), z.square().sum(1) / 2)


def test_the_path_is_that_of_explicit_steps() -> None:
    z, other, target = rows(12), rows(5, seed=1), torch.randn(12, 2, dtype=torch.float64)
    kernel, cross = relu_tangent_kernel(z, z), relu_tangent_kernel(other, z)
    path = KernelPath(kernel)
    assert float(path.eta) == pytest.approx(0.5 / float(torch.linalg.eigvalsh(kernel)[-1]))
    coefficients, seen = torch.zeros_like(target), []
    for _ in range(50):
        seen.append(cross @ coefficients)
        coefficients = coefficients - path.eta * (kernel @ coefficients - target)
    steps = torch.arange(50, dtype=torch.float64)
    torch.testing.assert_close(path.predictions(cross, target, steps), torch.stack(seen), rtol=0, atol=1e-8)
    [end] = path.predictions(kernel, target, torch.tensor([math.inf], dtype=torch.float64))
    torch.testing.assert_close(end, target)


def stops(values: torch.Tensor, eta: float, sigma: float, n: torch.Tensor) -> torch.Tensor:
    """Apply the stopping rule at each n: R(1 / sqrt(c)) > 1 / (2 e sigma c) with c = eta N n."""
    c = eta * len(values) * n
    complexity = torch.minimum(values / len(values), 1 / c[:, None]).mean(1).sqrt()
    return complexity > 1 / (2 * math.e * sigma * c)


def test_the_rule_stops_later_the_less_noise_there_is_and_at_the_first_whole_number() -> None:
    values = torch.linalg.eigvalsh(relu_tangent_kernel(rows(40), rows(40))).clamp(min=0)
    eta = float(0.5 / values[-1])
    most = torch.arange(1, 20_001, dtype=torch.float64)
    found = {sigma: stopping_step(values, eta, sigma, len(most)) for sigma in (2.0, 1.0, 0.5, 0.1, 0.01, 0.002, 1e-6)}
    assert list(found.values()) == sorted(found.values())
    assert 1_000 < found[0.002] < len(most)  # where a grid of step counts is coarse
    for sigma, last in found.items():
        stopped = stops(values, eta, sigma, most)
        assert last == (int(stopped.int().argmax()) if stopped.any() else len(most))
    assert stopping_step(values, eta, 0.0, 50) == 50  # labels without noise


def test_the_largest_step_is_followed_and_a_larger_one_is_rejected() -> None:
    z, target = rows(12), torch.randn(12, 2, dtype=torch.float64)
    kernel = relu_tangent_kernel(z, z)
    largest = 1 / float(torch.linalg.eigvalsh(kernel)[-1])
    path = KernelPath(kernel, largest)
    one_step = largest * (kernel @ target)
    steps = torch.tensor([0.0, 1.0, math.inf], dtype=torch.float64)
    expected = torch.stack([torch.zeros_like(target), one_step, target])
    torch.testing.assert_close(path.predictions(kernel, target, steps), expected)
    with pytest.raises(ValueError, match=r"eta must be at most 1 / lambda_max\(H\), .* got"):
        KernelPath(kernel, 1.5 * largest)


def test_the_network_begins_at_zero_with_the_closed_forms_gradient_and_the_kernel_as_its_limit() -> None:
    torch.manual_seed(0)
    z, target = rows(8), torch.randn(8, 2, dtype=torch.float64)
    errors = []
    for width in (400, 6400):
        network = FrozenSignNetwork(4, 2, width).double()
        torch.testing.assert_close(network(z), torch.zeros(8, 2).double(), rtol=0, atol=1e-13)
        loss = 0.5 * (network(z) - target).square().sum()
        [gradient] = torch.autograd.grad(loss, [network.weight])
        residual = network(z).detach() - target
        active = (z @ network.weight.T > 0).double()
        manual = torch.einsum("rd,jd,jr,jp->rp", network.signs, residual, active, z) / math.sqrt(width)
        torch.testing.assert_close(gradient, manual, rtol=1e-10, atol=1e-12)
        empirical = torch.einsum("jr,lr,jl->jl", active, active, z @ z.T) / width  # kernel of a single output
        exact = relu_tangent_kernel(z, z)
        errors.append(float((empirical - exact).norm() / exact.norm()))
    assert errors[1] < 0.7 * errors[0]  # 1/4 in expectation, but from one draw each
    with pytest.raises(ValueError, match="width must be even, got 7"):
        FrozenSignNetwork(4, 2, 7)
