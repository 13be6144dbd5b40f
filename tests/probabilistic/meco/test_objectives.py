import math

import pytest
import torch
from torch import Tensor

from lightning_modules.probabilistic.meco.landscape import LocationEnergy
from lightning_modules.probabilistic.meco.objectives import (
    EnergyObjective,
    MovingAverage,
    NoiseContrastive,
    PlugIn,
    log_mean_exp,
)


def energies(shift: float = 0.0, count: int = 6) -> tuple[LocationEnergy, list[Tensor]]:
    """Return a location energy, its objectives' arguments for data around 2 and noise of deviation 2, and the noise."""
    torch.manual_seed(1)
    network = LocationEnergy().double()
    x, z = 2 + torch.randn(count, 1, dtype=torch.float64), 2 * torch.randn(count, 1, dtype=torch.float64)
    log_q = [(-each.square() / 8 - math.log(2 * math.sqrt(2 * math.pi)))[:, 0] for each in (x, z)]
    return network, [network(x)[:, 0] + shift, network(z)[:, 0] + shift, *log_q, z]


def gradient(objective: EnergyObjective, shift: float = 0.0, steps: int = 3) -> Tensor:
    """Take several steps without changing the parameter, and return the gradient of the last step."""
    for _ in range(steps):
        network, (*numbers, _) = energies(shift)
        found = torch.autograd.grad(objective(*numbers), list(network.parameters()))[0]
    return found


def test_gradients_are_the_manual_formula() -> None:
    _, (_, at_noise, _, log_q, z) = energies()
    objective = MovingAverage(beta=0.3)
    objective.log_u = torch.tensor(0.2, dtype=torch.float64)
    u = 0.7 * math.exp(0.2) + 0.3 * (at_noise - log_q).exp().mean()
    network, (at_data, *_) = energies()
    of_data = torch.autograd.grad(at_data.mean(), list(network.parameters()))[0]
    manual = -of_data + ((at_noise - log_q).exp() / u * z[:, 0]).mean()  # grad f(z) = z - theta, and theta is 0
    torch.testing.assert_close(gradient(objective, steps=1), manual, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(objective.log_u, u.log().detach())


def test_the_plug_in_weighs_a_batch_to_one() -> None:
    _, (_, at_noise, _, log_q, z) = energies()
    share = (at_noise - log_q).softmax(0)
    network, (at_data, *_) = energies()
    of_data = torch.autograd.grad(at_data.mean(), list(network.parameters()))[0]
    torch.testing.assert_close(gradient(PlugIn()), -of_data + (share * z[:, 0]).sum(), rtol=1e-12, atol=1e-12)


def test_a_constant_in_the_energy_changes_the_constant_alone() -> None:
    plain, moved = MovingAverage(), MovingAverage()
    torch.testing.assert_close(gradient(plain), gradient(moved, shift=7.0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved.log_u - plain.log_u, torch.tensor(7.0, dtype=torch.float64))


def test_great_energies_stay_finite_in_single_precision() -> None:
    objective = MovingAverage()
    at_data, at_noise = (800 + torch.randn(5, requires_grad=True) for _ in range(2))
    loss = objective(at_data, at_noise, torch.zeros(5), torch.zeros(5))
    assert loss.isfinite()
    assert objective.log_u.dtype == torch.float64
    assert float(objective.log_u) == pytest.approx(800, abs=3)


def test_noise_of_the_models_own_law_gives_equal_weights() -> None:
    at_data, at_noise = torch.randn(2, 9, dtype=torch.float64)
    objective = MovingAverage()
    loss = objective(at_data, at_noise, at_data - 1.5, at_noise - 1.5)  # q is the model, and Z is e^1.5
    torch.testing.assert_close(loss, at_noise.mean() - at_data.mean())
    torch.testing.assert_close(objective.log_u, torch.tensor(1.5, dtype=torch.float64))
    torch.testing.assert_close(log_mean_exp(torch.tensor([0.0, math.log(3)])), torch.tensor(math.log(2)).double())


def test_the_plug_in_is_biased_and_a_converged_average_is_not() -> None:
    random = torch.Generator().manual_seed(0)
    theta, std, batches = 1.0, 2.0, 20_000
    z = std * torch.randn(batches, 4, generator=random, dtype=torch.float64)
    log_weight = -((z - theta) ** 2) / 2 + z**2 / (2 * std**2) + math.log(std * math.sqrt(2 * math.pi))
    exact = 0.0  # E_q [w (z - theta)] / Z
    plug_in = (log_weight.softmax(1) * (z - theta)).sum(1)
    converged = ((log_weight - math.log(2 * math.pi) / 2).exp() * (z - theta)).mean(1)
    for estimate, biased in ((plug_in, True), (converged, False)):
        error = float((estimate.mean() - exact).abs() / (estimate.std() / math.sqrt(batches)))
        assert (error > 6) is biased
        assert biased or error < 3


def test_noise_contrast_is_a_logistic_regression() -> None:
    at_data, at_noise, log_q_data, log_q_noise = torch.randn(4, 8, dtype=torch.float64)
    objective = NoiseContrastive(start=0.3).double()
    odds = torch.cat([at_data + 0.3 - log_q_data, at_noise + 0.3 - log_q_noise])
    label = torch.cat([torch.ones(8), torch.zeros(8)]).double()
    expected = 2 * torch.nn.functional.binary_cross_entropy_with_logits(odds, label)
    torch.testing.assert_close(objective(at_data, at_noise, log_q_data, log_q_noise), expected, atol=1e-7, rtol=0)
    assert float(objective.log_partition()) == pytest.approx(-0.3)
