from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.corruptions.image_noise import CorrelatedGaussian, Gamma, Gaussian, Poisson
from datamodules.randomness.counter import CounterRNG
from experiments.config_files import settings_of
from lightning_modules.baselines.sure import sure
from lightning_modules.denoising.noise2score import Noise2Score, annealed_sigma, score_loss
from tests.conformance.experiments import CONFIGS


class Linear(nn.Module):
    """R(y) = a y + b."""

    def __init__(self, a: float = -2.0, b: float = 0.5) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b))

    def forward(self, image: Tensor) -> Tensor:
        return self.a * image + self.b


def module(noise: Any, **more: Any) -> Noise2Score:
    made = Noise2Score(Linear(), noise, **more).double()
    made.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    return made


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_at_no_score_at_the_exact_one_and_without_perturbation() -> None:
    u, score = normal(0, 2, 1, 4, 4), normal(1, 2, 1, 4, 4)
    torch.testing.assert_close(score_loss(torch.zeros_like(u), u, 0.3), u.square().mean())
    assert score_loss(-u / 0.3, u, 0.3) < 1e-30
    torch.testing.assert_close(score_loss(score, -u, -0.3), score_loss(score, u, 0.3))
    score.requires_grad_()
    (gradient,) = torch.autograd.grad(score_loss(score, u, 0.0), score)
    assert gradient.abs().max() == 0


def test_the_best_linear_score_is_that_of_the_perturbed_law() -> None:
    """For y ~ N(0, s^2), the best linear score a y has a = -1 / (s^2 + sigma^2)."""
    y, u = 0.7 * normal(2, 400_000), normal(3, 400_000)
    perturbed = y + 0.3 * u
    a = -(perturbed * u).sum() / (0.3 * perturbed.square().sum())  # least squares of sigma a y + u
    assert float(a) == pytest.approx(-1 / (0.49 + 0.09), abs=0.03)


def test_the_perturbation_falls_linearly_and_then_stays() -> None:
    seen = torch.tensor([7, 10_999, 21_999, 50_000])
    expected = torch.tensor([0.05 - 0.049 * 8 / 22_000, 0.0255, 0.001, 0.001])
    torch.testing.assert_close(annealed_sigma(0.05, 0.001, seen, 22_000), expected)


def test_a_random_sigma_of_each_image_is_normal_with_the_annealed_deviation() -> None:
    method = module(Gaussian(25), sigma=(0.4, 0.1), anneal_images=10, random_sigma=True)
    noisy = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    batch: Any = {"noisy": noisy, "index": torch.arange(2), "global_batch_size": 2}
    torch.manual_seed(0)
    loss = method.training_step(batch, 0)["loss"]
    torch.manual_seed(0)
    u, normals = torch.randn(noisy.shape, dtype=torch.float64), torch.randn(2, 1, 1, 1, dtype=torch.float64)
    sigma = (0.4 + (0.1 - 0.4) * 3 / 10) * normals
    residual = sigma * (-2 * (noisy + sigma * u) + 0.5) + u
    torch.testing.assert_close(loss.detach(), residual.square().mean())
    assert normals[0] != normals[1]


@pytest.mark.parametrize("noise", [Gaussian(25), Poisson(0.05), Gamma(50)])
def test_value_and_gradient_of_a_step_are_the_equation(noise: Any) -> None:
    """In an epoch's second step, the decrease of sigma counts the images of both batches; Poisson images are counts."""
    method = module(noise, sigma=(0.4, 0.1), anneal_images=10, score_scale=3.0)
    noisy = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    batch: Any = {"noisy": noisy, "index": torch.arange(2), "global_batch_size": 2}
    torch.manual_seed(0)
    for _ in range(2):
        method.zero_grad()
        loss = method.training_step(batch, 0)["loss"]
    loss.backward()
    torch.manual_seed(0)
    u = [torch.randn(noisy.shape, dtype=torch.float64) for _ in range(2)][1]
    sigma = 0.4 + (0.1 - 0.4) * (4 + 1) / 10
    image = noisy / 0.05 if isinstance(noise, Poisson) else noisy
    perturbed = image + sigma * u
    residual = sigma * 3 * (-2 * perturbed + 0.5) + u
    torch.testing.assert_close(loss.detach(), residual.square().mean())
    network: Any = method.network
    torch.testing.assert_close(network.a.grad, (2 * residual * sigma * 3 * perturbed).mean())
    torch.testing.assert_close(network.b.grad, (2 * residual * sigma * 3).mean())


def test_each_image_of_unknown_poisson_noise_is_counted_by_its_own_level() -> None:
    noisy, level = torch.rand(2, 1, 3, 3, dtype=torch.float64), torch.tensor([0.1, 0.01])[:, None, None, None].double()
    losses = []
    for blind, batch in ((True, {"noisy": noisy, "noise_level": level}), (False, {"noisy": noisy / level * 0.05})):
        torch.manual_seed(0)
        method, rest = module(Poisson(0.05), blind=blind), {"index": torch.arange(2), "global_batch_size": 2}
        losses.append(method.training_step({**batch, **rest}, 0)["loss"])  # type: ignore[typeddict-item]
    torch.testing.assert_close(losses[0], losses[1])
    with pytest.raises(ValueError, match=r"needs a range for data.noise.zeta"):
        module(Poisson(0.05), blind=True).training_step({"noisy": noisy, **rest}, 0)  # type: ignore[typeddict-item]


def test_the_exact_score_gives_the_posterior_mean_of_gaussian_images() -> None:
    """For N(m, t2) images with noise of variance v, the estimate is m + t2 / (t2 + v) (y - m)."""
    v, m, t2 = (25 / 255) ** 2, 0.4, 0.03
    method = module(Gaussian(25))
    method.network = Linear(-1 / (t2 + v), m / (t2 + v))
    y = normal(4, 2, 1, 5, 5)
    expected = m + t2 / (t2 + v) * (y - m)
    torch.testing.assert_close(method.restore(y), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(method.denoise(y, v**0.5), expected.clamp(0, 1), rtol=0, atol=1e-12)


def test_tweedie_sure_and_noise2noise_have_the_linear_filter_of_training_on_clean_images() -> None:
    sigma, perturbation = 0.5, 0.05
    clean = CorrelatedGaussian(255, 1.0).sample(torch.zeros(30, 1, 64, 64).double(), CounterRNG(0, 0, torch.arange(30)))
    noisy, second = (clean + sigma * normal(seed, *clean.shape) for seed in (4, 5))
    u, sign = normal(6, *clean.shape), normal(7, *clean.shape).sign()

    def filtered(image: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(F.pad(image, [1] * 4, mode="circular"), weight.view(1, 1, 3, 3))

    def best(loss: Any) -> Tensor:
        """Minimise a quadratic function of nine weights with one Newton step."""
        zero = torch.zeros(9, dtype=torch.float64)
        slope, bend = torch.func.grad(loss)(zero), torch.func.hessian(loss)(zero)
        return -torch.linalg.solve(bend, slope)

    supervised = best(lambda w: (filtered(noisy, w) - clean).square().mean())
    noise2noise = best(lambda w: (filtered(noisy, w) - second).square().mean())
    risk = best(lambda w: sure(lambda y: filtered(y, w), noisy, sign, sigma, 1e-2))  # type: ignore[arg-type]
    perturbed, both = torch.cat([noisy + perturbation * u, noisy - perturbation * u]), torch.cat([u, -u])
    score = best(lambda w: score_loss(filtered(perturbed, w), both, perturbation))
    seen = F.one_hot(torch.tensor(4), 9)  # y itself, to which Tweedie's formula adds sigma^2 times the score
    for found in (noise2noise, risk, seen + sigma**2 * score):
        torch.testing.assert_close(found, supervised, rtol=0, atol=0.02)
    assert float(supervised[4]) < 0.5


def test_an_unknown_level_is_chosen_for_each_image() -> None:
    """With the exact score of a constant image, the smoothest result is at the true noise level."""
    levels, y = [], normal(5, 2, 1, 64, 64)
    deviations = torch.tensor([15.0, 40.0], dtype=torch.float64)[:, None, None, None] / 255
    noisy = 0.5 + deviations * y
    for row in range(2):
        method = module(Gaussian(25), blind=True)
        method.network = Linear(-1 / float(deviations[row] ** 2), 0.5 / float(deviations[row] ** 2))
        levels.append((method.restore(noisy[row : row + 1]) - 0.5).abs().max())
    assert max(levels) < 1e-12


def test_noise_of_the_data_must_be_that_of_the_formula() -> None:
    def set_up(model_noise: Any, data_noise: Any, **more: Any) -> None:
        method = module(model_noise, **more)
        method._trainer = SimpleNamespace(datamodule=SimpleNamespace(noise=data_noise))  # type: ignore[assignment]
        method.setup("fit")

    set_up(Gaussian(25), Gaussian(25))
    set_up(Gaussian(25), None)  # a user's noisy images
    set_up(Gaussian(25), Gaussian((5, 55)), blind=True)
    for wrong in (Gaussian(50), Poisson(0.01)):
        with pytest.raises(ValueError, match=r"model.noise is Gaussian.*, but data.noise"):
            set_up(Gaussian(25), wrong)
    with pytest.raises(ValueError, match="score_scale must be"):
        module(Gaussian(25), score_scale=0.0)


@pytest.mark.parametrize("name", ["grey", "colour", "train400", "demo"])
def test_the_perturbation_reaches_its_last_size_by_the_end_of_an_epoch(name: str) -> None:
    """The authors anneal over 22,000 images, nearly one of their epochs; the configs use at least this share."""
    settings = settings_of(CONFIGS / "noise2score" / f"{name}.yaml")
    images = {"grey": 800 + 400, "colour": 800, "train400": 400, "demo": 10}[name]
    part = settings["model.anneal_images"] / (images * settings["data.patches.per_image"])
    assert 22 / 24 - 1e-4 <= part <= 1


def test_blind_denoising_is_tested_at_the_level_that_the_header_names() -> None:
    settings = settings_of(CONFIGS / "noise2score" / "blind.yaml")
    assert settings["data.noise.grey_levels"] == [20, 55]
    assert settings["data.test_noise.grey_levels"] == 25
