"""Eigenvalues under noise compared with random matrices; the fit, the scatter of batches, and rates by batch size."""

import math

import pytest
import torch
from torch import Tensor

from lightning_modules.dynamics.batch_lr.theory import (
    effective_batch,
    fitted_constant,
    isotropic,
    least_damping,
    noise_statistics,
    scale,
    scaled_damping,
    scaled_rate,
    spiked_covariance,
)


def test_all_samples_are_an_infinite_batch_without_a_shift() -> None:
    assert effective_batch(1500, 1500) == math.inf
    assert effective_batch(500, 1500) == pytest.approx(750)
    assert fitted_constant([0.4, 0.2, 0.0], [10, 20, math.inf], [0.1, 0.1, 0.0])[0] == pytest.approx(4.0)
    assert isotropic(2.0, 0.0) == 2.0


@pytest.mark.parametrize(("spike", "variance"), [(3.0, 1.0), (-3.0, 1.0), (0.5, 1.0), (-0.5, 1.0), (4.0, 2.25)])
def test_a_spike_in_symmetric_noise_moves_as_predicted(spike: float, variance: float) -> None:
    size = 400
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = (drawn + drawn.T) * math.sqrt(variance / size / 2)  # the variances of a row sum to `variance`
    noise[0, 0] += spike
    values = torch.linalg.eigvalsh(noise)
    assert float(values[0 if spike < 0 else -1]) == pytest.approx(isotropic(spike, variance), rel=0.05)


def test_the_constant_is_the_weighted_least_squares_one_with_its_error() -> None:
    b, error = [8.0, 16.0, 32.0], [0.3, 0.1, 0.2]
    x, weight = torch.tensor(b, dtype=torch.float64) ** -1, torch.tensor(error, dtype=torch.float64) ** -2
    y = torch.tensor([2.0, 1.1, 0.4], dtype=torch.float64)
    expected = float((weight * x * y).sum() / (weight * x * x).sum())
    c, of_c = fitted_constant(y.tolist(), b, error)
    assert (c, of_c) == (pytest.approx(expected), pytest.approx(float((weight * x * x).sum() ** -0.5)))
    draws = y + torch.tensor(error) * torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    found = torch.tensor([fitted_constant(each, b, error)[0] for each in draws.tolist()])
    assert float(found.std()) == pytest.approx(of_c, rel=0.05)


def matrices(count: int) -> Tensor:
    drawn = torch.randn(count, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return drawn + drawn.mT + 2 * torch.eye(6, dtype=torch.float64)


def test_statistics_of_products_are_their_definitions() -> None:
    z = torch.ones(6, dtype=torch.float64) / 6**0.5
    products = matrices(50) @ z
    mean = products.mean(dim=0)
    found = noise_statistics(mean, float((products**2).sum(dim=1).mean()), z, 50)
    assert found.mu == pytest.approx(float(z @ mean))
    assert found.variance == pytest.approx(float(((products - mean) ** 2).sum(dim=1).mean()))
    assert found.delta == pytest.approx(float((mean - (z @ mean) * z).norm() ** 2))
    assert found.alpha == pytest.approx(max(0.0, 1 - found.variance / (50 * found.delta)))


def test_samples_predict_the_scatter_of_batches_drawn_with_replacement() -> None:
    z = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    products = matrices(40) @ z
    single = noise_statistics(products.mean(dim=0), float((products**2).sum(dim=1).mean()), z, 40)
    pick = torch.randint(40, (20_000, 5), generator=torch.Generator().manual_seed(3))
    of_batches = products[pick].mean(dim=1)
    batches = noise_statistics(of_batches.mean(dim=0), float((of_batches**2).sum(dim=1).mean()), z, 20_000)
    assert batches.variance == pytest.approx(single.variance / 5, rel=0.03)


def test_rates_and_damping_scale_with_the_batch() -> None:
    assert scaled_rate(0.1, 256, 128, "linear") == pytest.approx(0.2)
    assert scaled_rate(4e-4, 256, 128, "square_root") == pytest.approx(4e-4 * math.sqrt(2))
    assert [scaled_damping(16, size, 16) for size in (16, 32, 64, 128)] == [16, 8, 4, 2]


def test_all_groups_of_an_optimizer_are_scaled() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.3)]
    optimizer = torch.optim.SGD(groups)
    scale(optimizer, 64, 16, "linear")
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 1.2])
    for group in optimizer.param_groups:
        group["damping"] = 16.0
    scale(optimizer, 64, 16, "linear")
    assert [group["damping"] for group in optimizer.param_groups] == [4.0, 4.0]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 1.2])
    with pytest.raises(ValueError, match="scaling must be one of linear, square_root"):
        scaled_rate(0.1, 64, 16, "cubic")  # type: ignore[arg-type]


@pytest.mark.parametrize("spike", [4.0, 1.2])
def test_a_spike_of_a_sample_covariance_moves_as_predicted(spike: float) -> None:
    size, samples = 200, 400
    drawn = torch.randn(6, samples, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    drawn[:, :, 0] *= math.sqrt(spike)
    top = torch.linalg.eigvalsh(drawn.mT @ drawn / samples)[:, -1].mean()
    predicted = spiked_covariance(spike, spike + size - 1, size, samples)
    assert float(top) == pytest.approx(predicted, rel=0.05)
    assert predicted > 1.1 * spike


def test_a_spike_far_above_the_others_moves_by_their_sum_over_the_batch_size() -> None:
    assert spiked_covariance(1e6, 1e6 + 300, 101, 20) == pytest.approx(1e6 + 300 / 20, abs=1e-3)
    assert spiked_covariance(2.0, 5.0, 101, math.inf) == 2.0


@pytest.mark.parametrize(("rate", "batch"), [(1.0, 9.0), (0.6, 9.0), (1.0, 30.0)])
def test_damped_newton_steps_on_a_batch_converge_above_the_least_damping_alone(rate: float, batch: float) -> None:
    whole, own = torch.tensor([2.0, 0.7, 0.1]), torch.tensor([batch, 0.7, 0.1])
    for factor, converges in ((0.95, False), (1.05, True)):
        w = torch.ones(3)
        for _ in range(2000):
            w = w - rate * own * w / (whole + factor * least_damping(rate, 2.0, batch))
        assert (abs(float(w[0])) < 1e-3) is converges


def test_the_least_damping_is_proportional_to_the_rate_over_a_small_batch() -> None:
    def least(rate: float, b: float) -> float:
        return least_damping(rate, 0.5, 0.5 + 16 / b)

    assert least(0.2, 1e-4) / least(0.1, 1e-4) == pytest.approx(2, rel=1e-3)
    assert least(0.1, 1e-4) / least(0.1, 4e-4) == pytest.approx(4, rel=1e-3)
    assert least(0.1, 1e4) == 0
