import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.sde.mean_reverting import SCHEDULES, MeanReverting, Sampler, Schedule


def images(count: int) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 3, 6, 5, dtype=torch.float64), torch.rand(count, 3, 6, 5, dtype=torch.float64)


def test_numbers_of_the_cosine_schedule_are_the_papers() -> None:
    process = MeanReverting()
    rate = np.diff(process.total)
    assert process.total[0] == 0
    assert math.exp(-process.total[-1]) == pytest.approx(0.005, abs=1e-12)
    assert process.std_at(100) == pytest.approx(0.196076, abs=5e-7)
    assert process.std_at(1) == pytest.approx(0.0036826, abs=5e-8)
    assert rate[0] == pytest.approx(0.0016946 * 0.1040938, rel=5e-5)
    assert rate[0] / 0.0016946 == pytest.approx(0.1040938, rel=5e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_variance_solves_its_equation(schedule: Schedule) -> None:
    """d(s^2) = (2 lambda^2 - 2 s^2) dR, solved over steps of any size."""
    process = MeanReverting(50, schedule)
    step, std = np.diff(process.total), process.std_at(np.arange(51))
    expected = std[:-1] ** 2 * np.exp(-2 * step) + process.deviation**2 * -np.expm1(-2 * step)
    np.testing.assert_allclose(std[1:] ** 2, expected, rtol=1e-10)
    assert (step > 0).all()
    assert std[-1] == pytest.approx(process.deviation * math.sqrt(1 - 0.005**2))


def test_the_best_step_is_the_mean_of_the_posterior_by_bayes() -> None:
    """Gaussians: x_s is N(mu + w_s d, s_s^2), x_t given x_s is N(mu + a (x_s - mu), lambda^2 (1 - a^2)), a = e^-r."""
    process = MeanReverting(20)
    for t, s in ((20, 19), (20, 7), (5, 1), (1, 0)):
        towards, back, std = process.posterior(t, s)
        step = math.exp(process.total[s] - process.total[t])
        noise, prior = process.deviation**2 * (1 - step**2), process.std_at(s) ** 2
        gain = prior * step / (step**2 * prior + noise)
        assert towards == pytest.approx(gain, abs=1e-12)
        assert back == pytest.approx((1 - gain * step) * math.exp(-process.total[s]), rel=1e-10)
        assert std == pytest.approx(math.sqrt((1 - gain * step) * prior), abs=1e-12)


def test_chained_best_steps_lead_from_anywhere_to_the_clean_image() -> None:
    process = MeanReverting().double()
    clean, degraded = images(2)
    x = 3 * torch.randn_like(clean)
    for t in range(100, 0, -1):
        x = process.best_step_back(x, clean, degraded, torch.full((2,), t))
    torch.testing.assert_close(x, clean, rtol=0, atol=1e-12)


def test_with_the_true_noise_a_step_is_the_best_one_to_first_order() -> None:
    process = MeanReverting().double()
    for t, bound in ((1, 2e-6), (40, 1e-3), (100, 5e-3)):
        clean, degraded = images(4)
        noise, time = torch.randn_like(clean).clamp(-3, 3), torch.full((4,), t)
        x = process.add_noise(clean, degraded, time, noise)
        step = process.step_back(x, degraded, noise, time) - process.best_step_back(x, clean, degraded, time)
        assert float(step.abs().max()) < bound


def test_the_gradient_of_the_loss_is_its_closed_form() -> None:
    """dL/dn = -sign(m - o) 2 lambda^2 r_t / s_t / numel."""
    process = MeanReverting().double()
    clean, degraded = images(3)
    t, noise = torch.tensor([1, 50, 100]), torch.randn(3, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    x = process.add_noise(clean, degraded, t, torch.randn_like(clean))
    difference = process.step_back(x, degraded, noise, t) - process.best_step_back(x, clean, degraded, t)
    (gradient,) = torch.autograd.grad(difference.abs().mean(), noise)
    factor = 2 * process.deviation**2 * np.diff(process.total)[t - 1] / process.std_at(t.numpy())
    expected = -difference.sign() * torch.from_numpy(factor)[:, None, None, None] / noise.numel()
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)


def test_steps_forward_arrive_at_the_marginal() -> None:
    process = MeanReverting()
    x, degraded = torch.full((20_000,), 0.9, dtype=torch.float64), 0.2
    for rate in np.diff(process.total):
        x = x + rate * (degraded - x) + process.deviation * math.sqrt(2 * rate) * torch.randn_like(x)
    assert float(x.mean()) == pytest.approx(0.2 + 0.005 * 0.7, abs=0.006)
    assert float(x.std()) == pytest.approx(process.std_at(100), rel=0.05)  # Euler's error grows with the rate of .1


@pytest.mark.parametrize(
    ("sampler", "added"),
    [("euler", 2 * 0.1960784**2 * 0.0016946 * 0.1040938), ("ode", 0.0), ("posterior", 0.0)],
)
def test_samplers_give_the_law_of_gaussian_images_from_their_exact_noise(sampler: Sampler, added: float) -> None:
    """For x_0 ~ N(.7, .1^2), the expected noise in x_t is s_t (x_t - m_t) / (w_t^2 .01 + s_t^2)."""
    process, degraded = MeanReverting(), torch.full((20_000,), 0.3, dtype=torch.float64)

    def noise_in(x: Tensor, t: int) -> Tensor:
        kept, std = math.exp(-process.total[t]), process.std_at(t)
        return std * (x - 0.3 - kept * 0.4) / (kept**2 * 0.01 + std**2)

    x = process.sample(noise_in, degraded, torch.randn_like, sampler)
    assert float(x.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(x.std()) == pytest.approx(math.sqrt(0.01 + added), rel=0.06)
    few = process.sample(noise_in, degraded, torch.randn_like, "posterior", 10)
    assert float(few.mean()) == pytest.approx(0.7, abs=0.01)
    assert process.times(10) == [100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
