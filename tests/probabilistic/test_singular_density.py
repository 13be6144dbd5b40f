import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import i0e
from torch import Tensor, nn

from datamodules.tables.singular_distributions import Circle
from datamodules.tables.tables import Tables
from lightning_modules.networks.mlp import MLP
from lightning_modules.probabilistic.singular_density import (
    SingularDensity,
    cells_per_axis,
    importance_log_likelihood,
    mixture_log_likelihood,
    perturbation_rate,
    stratified_points,
)
from tests.trainers import quiet


def circle(points: int) -> Tensor:
    angle = 2 * math.pi * (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def of_the_circle(x: Tensor, std: float) -> Tensor:
    """Compute log p in closed form for points of the unit circle plus noise, with the Bessel function e^-k I_0(k)."""
    r = x.norm(dim=1)
    return (
        -math.log(2 * math.pi * std**2)
        - (r - 1) ** 2 / (2 * std**2)
        + torch.from_numpy(np.log(i0e((r / std**2).numpy())))
    )


@pytest.mark.parametrize("std", [0.03, 0.1, 0.5])
def test_quadrature_of_the_circle_is_its_closed_form(std: float) -> None:
    x = 1.5 * torch.randn(50, 2, dtype=torch.float64)
    value = mixture_log_likelihood(x, circle(2000), torch.tensor(math.log(std), dtype=torch.float64))
    torch.testing.assert_close(value, of_the_circle(x, std), rtol=1e-10, atol=1e-8)


def test_likelihood_prefers_atoms_at_the_data_to_the_truth_as_noise_vanishes_and_no_longer_on_noisy_data() -> None:
    generator = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(50, generator=generator, dtype=torch.float64)
    data = torch.stack([angle.cos(), angle.sin()], dim=1)
    stds = torch.tensor([0.3, 0.1, 0.03, 0.01, 0.003, 0.001], dtype=torch.float64)
    atoms = torch.stack([mixture_log_likelihood(data, data, std.log()).mean() for std in stds])
    truth = torch.stack([of_the_circle(data, float(std)).mean() for std in stds])
    torch.testing.assert_close(truth, torch.tensor([-1.54, -0.45, 0.75, 1.85, 3.05, 4.15]).double(), atol=0.01, rtol=0)
    assert (atoms[1:] > truth[1:]).all()
    slopes = [float(curve[-1] - curve[-2]) / math.log(3) for curve in (atoms, truth)]
    assert slopes == pytest.approx([2, 1], abs=0.1)  # D, and D - d
    held_out = 2 * math.pi * torch.rand(500, generator=generator, dtype=torch.float64)
    noisy = torch.stack([held_out.cos(), held_out.sin()], dim=1)
    noisy = noisy + 0.1 * torch.randn(noisy.shape, generator=generator, dtype=torch.float64)
    curve = [float(of_the_circle(noisy, std).mean()) for std in (0.03, 0.1, 0.3)]
    assert curve[1] == max(curve)
    perturbed = data + 0.1 * torch.randn(data.shape, generator=generator, dtype=torch.float64)
    assert curve[1] > float(mixture_log_likelihood(noisy, perturbed, torch.tensor(0.1).double().log()).mean())


def test_gradients_are_those_of_the_card_and_of_parts() -> None:
    x = torch.randn(7, 3, dtype=torch.float64)
    centre = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    log_std = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    gradients = []
    for at_once in (1000, 10):  # all at once, and in parts of two points
        loss = -mixture_log_likelihood(x, centre, log_std, at_once).mean()
        gradients.append(torch.autograd.grad(loss, [centre, log_std]))
    torch.testing.assert_close(*gradients)
    difference = x[:, None] - centre.detach()
    square, variance = difference.square().sum(-1), math.exp(-0.8)
    share = (-square / (2 * variance)).softmax(1)
    torch.testing.assert_close(gradients[0][0], -(share[..., None] * difference / variance).sum(0) / 7)
    torch.testing.assert_close(gradients[0][1], -((share * square / variance).sum(1) - 3).mean())


def test_of_a_linear_generator_all_ways_give_the_density_of_a_gaussian() -> None:
    torch.manual_seed(0)
    matrix, shift = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    std = 0.7
    covariance = matrix @ matrix.T + std**2 * torch.eye(3, dtype=torch.float64)
    x = shift + torch.randn(4, 3, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(shift, covariance).log_prob(x)
    log_std = torch.tensor(std, dtype=torch.float64).log()
    latent = torch.randn(200_000, 2, dtype=torch.float64)
    torch.testing.assert_close(mixture_log_likelihood(x, latent @ matrix.T + shift, log_std), exact, atol=0.02, rtol=0)
    precision = torch.eye(2, dtype=torch.float64) + matrix.T @ matrix / std**2
    mean = torch.linalg.solve(precision, matrix.T @ (x - shift).T / std**2).T
    mean = mean + 0.3  # an inexact encoder
    posterior = torch.cat([mean, -precision.diagonal().log().expand_as(mean) / 2], dim=1)

    def bound(k: int) -> Tensor:
        z = mean[:, None] + posterior[:, None, 2:].exp() * torch.randn(4, k, 2, dtype=torch.float64)
        return importance_log_likelihood(x, z @ matrix.T + shift, z, posterior, log_std)

    torch.testing.assert_close(bound(200_000), exact, atol=0.02, rtol=0)
    averages = [torch.stack([bound(k) for _ in range(2000)]).mean(0) for k in (1, 5, 50)]
    assert (averages[0] < averages[1]).all()
    assert (averages[1] < averages[2]).all()
    assert (averages[2] < exact + 0.01).all()
    entropy = 1 + math.log(2 * math.pi) + posterior[:, 2:].sum(1)  # entropy of q; with one sample, the evidence bound
    width = posterior[:, 2:].exp().square()
    error = (x - mean @ matrix.T - shift).square().sum(1) + (matrix.square().sum(0) * width).sum(1)
    likelihood = -error / (2 * std**2) - 3 * math.log(std) - 1.5 * math.log(2 * math.pi)
    prior = -(mean.square() + width).sum(1) / 2 - math.log(2 * math.pi)
    torch.testing.assert_close(averages[0], likelihood + prior + entropy, atol=0.1, rtol=0)


def test_one_latent_number_lies_in_each_cell() -> None:
    assert cells_per_axis(49, 2) == 7
    latent = stratified_points(torch.rand(49, 2, dtype=torch.float64), 7)
    assert sorted((latent * 7).floor().tolist()) == [[i, j] for i in range(7) for j in range(7)]
    assert perturbation_rate(1000, 2.0, 1) == pytest.approx(0.1)  # n^(-1/3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 2}, "points must be k\\^2"),
        ({"likelihood": "importance"}, "encoder"),
        ({"encoder": nn.Identity()}, "encoder"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SingularDensity(**{"network": MLP(1, [4], 2), "latent_dim": 1, **arguments})


@pytest.mark.parametrize(("points", "exact"), [(300, True), (1501, False)])
def test_of_more_points_than_can_be_matched_only_the_sliced_distance_is_given(
    points: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "datamodules.tables.singular_distributions.MOST_MATCHED", 2000
    )  # a user's own table may exceed the real limit
    data = Tables(Circle(test_samples=points))
    [metrics] = quiet().test(SingularDensity(MLP(1, [4], 2), latent_dim=1).double(), data, verbose=False)
    assert ("test/wasserstein" in metrics) is exact
    assert 0 < metrics["test/sliced_wasserstein"] < 2


@pytest.mark.parametrize("likelihood", ["quadrature", "monte_carlo", "importance"])
def test_autocast_reaches_neither_the_likelihood_nor_what_is_generated(likelihood: Any) -> None:
    torch.manual_seed(0)
    encoder = MLP(2, [16], 2) if likelihood == "importance" else None
    module = SingularDensity(MLP(1, [16], 2), latent_dim=1, points=20, likelihood=likelihood, encoder=encoder)
    x = torch.randn(30, 2)

    def computed(autocast: bool) -> list[Tensor]:
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value, points = module.log_likelihood(x), module.generate_points(10)
        return [value, points, *torch.autograd.grad(value.mean(), list(module.parameters()))]

    torch.testing.assert_close(computed(True), computed(False), rtol=0, atol=0)
