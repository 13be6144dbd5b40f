import math

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.corruptions.image_noise import CounterRNG
from datamodules.corruptions.operators import (
    AverageDownsampling,
    Bicubic,
    Grayscale,
    Inpainting,
    LinearOperator,
    NonlinearBlur,
)
from lightning_modules.diffusion.red_diff import WEIGHTINGS, REDDiff, noise_to_signal, red_diff, red_diff_loss
from lightning_modules.networks.kernel_wizard import KernelWizard
from lightning_modules.sde.discrete import add_diffusion_noise, noise_estimate, run_diffusion_model
from tests.diffusion.gaussian_images import ABAR, SCHEDULER, V0, GaussianImages, images

TIMES = [990, 700, 400, 150, 20, 0]


def smooth(noisy: Tensor, t: Tensor) -> Tensor:
    """Compute a smooth function of image and time, separately for each image of a batch."""
    return torch.tanh(noisy.roll(1, -1) + t.view(-1, 1, 1, 1) / 700)


@pytest.mark.parametrize("operator", [AverageDownsampling(2), Bicubic(2), Grayscale()])
def test_the_gradient_of_a_step_is_that_of_the_paper(operator: LinearOperator) -> None:
    """The gradient is -H^T (y - H mu) / dim y + lambda f (e - n) / dim x, separately for each image."""
    mu, other, error = (images(2, 3, 8, 8, seed=seed) for seed in range(3))
    measured = operator.forward(other)
    mu.requires_grad_(True)
    (gradient,) = torch.autograd.grad(red_diff_loss(measured, operator, mu, error, 0.7), mu)
    residual = measured - operator.forward(mu.detach())
    expected = -operator.transpose(residual) / residual[0].numel() + 0.7 * error / mu[0].numel()
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_the_path_is_that_of_the_algorithm_written_out(sigma: float) -> None:
    """Compute the path in NumPy, with the authors' batch means; their scale affects Adam only through its epsilon."""
    operator, truth = AverageDownsampling(2), images(3, 1, 4, 4)
    y = operator.forward(truth)
    generator = torch.Generator().manual_seed(5)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    found = red_diff(smooth, y, operator, TIMES, ABAR, strength=0.4, learning_rate=0.1, sigma=sigma, draw=draw)

    generator.manual_seed(5)
    mu = np.repeat(np.repeat(y.numpy(), 2, axis=2), 2, axis=3)
    first, second = np.zeros_like(mu), np.zeros_like(mu)
    for step, t in enumerate(TIMES, start=1):
        x0 = mu + sigma * draw(truth).numpy() if sigma else mu
        n1 = draw(truth).numpy()
        x_t = ABAR[t] ** 0.5 * x0 + (1 - ABAR[t]) ** 0.5 * n1
        e = np.tanh(np.roll(x_t, 1, axis=-1) + t / 700)
        residual = y.numpy() - x0.reshape(3, 1, 2, 2, 2, 2).mean(axis=(3, 5))
        back = np.repeat(np.repeat(residual, 2, axis=2), 2, axis=3) / 4
        gradient = -back / residual.size + 0.4 * (1 / ABAR[t] - 1) ** 0.5 * (e - n1) / mu.size
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        mu = mu - 0.1 * first / (1 - 0.9**step) / ((second / (1 - 0.99**step)) ** 0.5 + 1e-14)
    np.testing.assert_allclose(found.numpy(), mu, atol=2e-6)  # Adam's epsilon is 1e-8, compared with gradients of 1e-2


def test_the_network_is_called_without_gradients_and_gets_none() -> None:
    model, y = GaussianImages().double(), images(2, 1, 4, 4)
    red_diff(model, y, Inpainting(torch.ones(1, 1, 4, 4)), TIMES, ABAR)
    assert model.with_gradients == [False] * len(TIMES)
    assert model.factor.grad is None


def test_the_mean_of_the_regulariser_is_a_quadratic_prior_for_gaussian_images() -> None:
    """E[r_t (e - n)] = (1 - abar) / D_t mu with D_t = abar v0 + 1 - abar.

    With the right lambda, all terms of the gradient cancel at the posterior mean.
    """
    d = ABAR * V0 + 1 - ABAR
    strength = (1 / V0) / ((1 - ABAR) / d).mean()
    assert strength == pytest.approx(4.09, abs=0.01)
    noise_variance, whole = 0.2, Inpainting(torch.ones(1, 1, 1, 1))
    y = images(1, 1, 4, 4)
    mu = (y * V0 / (V0 + noise_variance)).requires_grad_(True)
    gradient = torch.zeros_like(mu)
    for abar in ABAR:
        error = (1 - abar) ** 0.5 * abar**0.5 * mu.detach() / (abar * V0 + 1 - abar)
        weight = strength * noise_variance * noise_to_signal(abar)
        gradient += torch.autograd.grad(red_diff_loss(y, whole, mu, error, weight), mu)[0] / len(ABAR)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)

    fixed, model = torch.full((40_000, 1, 1, 1), 0.8, dtype=torch.float64), GaussianImages().double()
    for t in (900, 300, 50):
        noise = images(*fixed.shape, seed=t)
        noisy = add_diffusion_noise(fixed, noise, ABAR[t])
        error = noise_estimate(run_diffusion_model(model, noisy, t), noisy, ABAR[t], "epsilon") - noise
        expected = (ABAR[t] * (1 - ABAR[t])) ** 0.5 * 0.8 / d[t]
        assert float(error.detach().mean()) == pytest.approx(expected, abs=5 * float(error.detach().std()) / 200)


def test_without_the_regulariser_what_is_known_stays_and_what_is_not_stays_too() -> None:
    mask = Inpainting(torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5)
    y = mask.forward(images(2, 1, 4, 4))
    torch.testing.assert_close(red_diff(smooth, y, mask, TIMES, ABAR, strength=0), y, rtol=0, atol=0)


def test_noise_to_signal_ratios_and_weightings() -> None:
    assert noise_to_signal(ABAR[0]) == pytest.approx(0.0100005, abs=2e-6)  # diffusers stores abar in float32
    assert noise_to_signal(ABAR[999]) == pytest.approx(157, abs=0.5)
    at_one = {name: f(1.0) for name, f in WEIGHTINGS.items()}
    assert at_one == {**dict.fromkeys(WEIGHTINGS, 1.0), "log": pytest.approx(math.log(2))}
    at_eight = {name: f(8.0) for name, f in WEIGHTINGS.items()}
    assert at_eight == pytest.approx(
        {"linear": 8, "sqrt": 8**0.5, "square": 64, "log": math.log(9), "clipped": 1, "constant": 1, "power": 4}
    )


def test_an_image_is_found_alike_in_whatever_batch() -> None:
    operator, truth = AverageDownsampling(2), images(5, 1, 4, 4)

    def found(rows: list[int]) -> Tensor:
        draw = CounterRNG(0, 0, torch.tensor(rows)).normal
        return red_diff(smooth, operator.forward(truth[rows]), operator, TIMES, ABAR, draw=draw)

    whole = found([0, 1, 2, 3, 4])
    torch.testing.assert_close(found([3, 1]), whole[[3, 1]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ["descending", "ascending", "random"])
def test_times_are_visited_in_an_order(order: str) -> None:
    visited: list[int] = []

    class Notes(GaussianImages):
        def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
            visited.append(int(t[0]))
            return super().forward(noisy, t)

    module = REDDiff(Notes(), SCHEDULER, steps=10, order=order)  # type: ignore[arg-type]
    module.restore(torch.zeros(1, 1, 2, 2), Inpainting(torch.ones(1, 1, 2, 2)))
    rising = list(range(0, 1000, 100))
    assert sorted(visited) == rising
    assert (visited == rising, visited == rising[::-1]) == (order == "ascending", order == "descending")


def test_steps_lower_the_data_term_of_a_nonlinear_blur() -> None:
    """The network has the published architecture, with random weights and with layers small enough for a test."""
    torch.manual_seed(0)
    network = KernelWizard(features=2, front_blocks=0, back_blocks=0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    operator = NonlinearBlur(network).of(torch.tensor([3]), (128, 128))
    truth = 0.8 * images(1, 3, 128, 128).clamp(-1, 1).float()
    measured = operator.forward(truth)
    times = sorted(2 * TIMES, reverse=True)
    found = red_diff(smooth, measured, operator, times, ABAR, strength=1e-4, learning_rate=0.03)

    def error(image: Tensor) -> Tensor:
        return (operator.forward(image) - measured).square().mean()

    assert error(found) < 0.7 * error(operator.pseudo_inverse(measured))
