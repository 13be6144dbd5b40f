import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from scipy import stats
from torch import Tensor, nn

from lightning_modules.backbones import frozen
from lightning_modules.robustness.certificates.modes import FixedSampling
from lightning_modules.robustness.certificates.votes import VoteCounter
from lightning_modules.robustness.denoised_smoothing import DenoisedSmoothing
from lightning_modules.sde.discrete import Prediction, diffusion_target, noise_levels
from lightning_modules.training.tested_images import LabelledImage

PREDICTIONS: list[Prediction] = ["epsilon", "v_prediction", "sample"]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Told(nn.Module):
    """A model that records the timesteps that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.ones(()))

    def forward(self, noisy: Tensor, timestep: Tensor) -> Any:
        self.seen = timestep
        return SimpleNamespace(sample=self.anchor * torch.zeros_like(noisy))


@pytest.mark.parametrize(("sigma", "time"), [(0.25, 289.5), (0.5, 496.0), (1.0, 702.25)])
def test_a_model_of_4000_levels_is_told_times_that_count_to_1000(sigma: float, time: float) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=4000, beta_schedule="squaredcos_cap_v2")
    told = Told()
    module = DenoisedSmoothing(Flat(), told, scheduler, num_classes=4, timestep_scale=0.25)
    module.smoothed_logits(rand(2, 1, 2, 2), randn(2, 1, 2, 2), sigma)
    assert told.seen.tolist() == [time] * 2
    image = rand(2000, 1, 2, 2)
    torch.manual_seed(2)
    module.training_step({"image": image, "label": torch.zeros(2000).long()}, 0)  # type: ignore[typeddict-item]
    torch.manual_seed(2)
    assert torch.equal(told.seen, torch.randint(4000, (2000,)) / 4)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_a_scheduler_may_be_given_its_arguments_by_their_position(kind: Any) -> None:
    """The noise levels are read from the scheduler itself, because `from_config` drops positional arguments."""
    arguments = (4000, 1e-4, 0.02, "squaredcos_cap_v2")
    told = Told()
    module = DenoisedSmoothing(Flat(), told, kind(*arguments), num_classes=4)
    np.testing.assert_array_equal(module.levels, kind(*arguments).alphas_cumprod.double())
    module.smoothed_logits(rand(2, 1, 2, 2), randn(2, 1, 2, 2), 0.25)
    assert told.seen.tolist() == [1158] * 2
    with torch.device("meta"):  # tensors have no values there, but the levels are known
        meta = DenoisedSmoothing(nn.Linear(2, 2), frozen(nn.Linear(2, 2)), kind(*arguments), num_classes=2)
    np.testing.assert_array_equal(meta.levels, module.levels)


class Oracle(nn.Module):
    """Makes the prediction of a perfect model, from the known image, and records its inputs."""

    def __init__(self, image: Tensor, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.image = image  # in [-1, 1]
        self.abar = scheduler.alphas_cumprod.double()
        self.prediction: Prediction = scheduler.config.prediction_type
        self.anchor = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, noisy: Tensor, timestep: Tensor) -> Any:
        self.seen.append((noisy, timestep))
        abar = self.abar[timestep].view(-1, 1, 1, 1)
        noise = (noisy - abar.sqrt() * self.image) / (1 - abar).sqrt()
        return SimpleNamespace(sample=diffusion_target(self.image.expand_as(noisy), noise, abar, self.prediction))


class Flat(nn.Module):
    """Returns the pixels as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        return self.scale * image.flatten(1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_model_gives_the_image_whatever_the_noise(prediction: Prediction) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction)
    image = rand(1, 2, 4, 4)
    outside = 2 * image - 1
    outside[0, 0, 0, 0] = 1.7  # is clipped
    module = DenoisedSmoothing(Flat(), Oracle(outside, scheduler), scheduler, num_classes=32)
    logits = module.smoothed_logits(image.expand(6, -1, -1, -1), randn(6, 2, 4, 4), 0.5)
    expected = ((outside.clamp(-1, 1) + 1) / 2).flatten(1)
    assert logits.shape == (1, 6, 32)
    torch.testing.assert_close(logits[0], expected.expand(6, -1), rtol=0, atol=1e-12)


def test_the_model_is_shown_its_own_kind_of_image_at_one_level() -> None:
    scheduler = DDPMScheduler()
    image, noise, sigma = rand(4000, 1, 4, 4), randn(4000, 1, 4, 4), 0.5
    oracle = Oracle(torch.zeros(1, 1, 4, 4), scheduler)
    module = DenoisedSmoothing(Flat(), oracle, scheduler, num_classes=16)
    module.smoothed_logits(image, noise, sigma)
    ((noisy, timestep),) = oracle.seen
    assert timestep.tolist() == [259] * 4000
    abar = float(scheduler.alphas_cumprod[259])
    torch.testing.assert_close(noisy, math.sqrt(abar) * (2 * image - 1) + math.sqrt(1 - abar) * noise)
    left = noisy / math.sqrt(abar) / 2 + 0.5 - image
    level = float(noise_levels(abar))
    assert level >= sigma
    assert float(left.std()) == pytest.approx(level, rel=0.01)


class LinearGaussian(nn.Module):
    """The best possible model for N(mean, tau^2 I) images in [-1, 1]: E[e | x_t] in closed form."""

    def __init__(self, mean: Tensor, tau: float, abar: Tensor) -> None:
        super().__init__()
        self.mean, self.tau, self.abar = mean, tau, abar

    def forward(self, noisy: Tensor, timestep: Tensor) -> Any:
        abar = self.abar[timestep].view(-1, 1, 1, 1).to(noisy.dtype)
        mean = self.mean.to(noisy.dtype)
        gain = self.tau**2 * abar.sqrt() / (self.tau**2 * abar + 1 - abar)
        image = mean + gain * (noisy - abar.sqrt() * mean)
        return SimpleNamespace(sample=(noisy - abar.sqrt() * image) / (1 - abar).sqrt())


class Plane(nn.Module):
    """Predicts class 0 if the mean pixel is above a half, in float64 so that batching does not change a vote."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        height = self.scale * (image.double().flatten(1).mean(dim=1) - 0.5)
        return torch.stack([height, -height], dim=1)


def test_a_linear_denoiser_before_a_plane_is_certified_at_its_distance() -> None:
    """The denoiser has gain a around the mean m, so the plane at mean pixel 1/2 moves to 1/2 + (1/a - 1)(1/2 - m)."""
    scheduler, sigma, tau = DDPMScheduler(), 0.25, 0.5
    t = 145
    abar = float(scheduler.alphas_cumprod[t])
    denoiser = LinearGaussian(torch.full((1, 1, 4, 4), -0.1), tau, scheduler.alphas_cumprod.double())
    module = DenoisedSmoothing(Plane(), denoiser, scheduler, num_classes=2)
    image = torch.full((1, 4, 4), 0.62)
    gain = tau**2 * abar / (tau**2 * abar + 1 - abar)  # of the pixel itself: sqrt(abar) times the gain of x_t
    plane = 0.5 + (1 / gain - 1) * (0.5 - 0.45)
    distance = (0.62 - plane) * math.sqrt(16)
    level = float(noise_levels(abar))
    counter = VoteCounter(module, FixedSampling(n0=100, n=40_000, alpha=0.01), sigma, 1000, 0, torch.device("cpu"))
    (done,) = counter.certify(iter([LabelledImage(0, image, 0)]))
    certificate = done.certificate
    assert certificate.prediction == 0
    p = stats.norm.cdf(distance / level)
    assert abs(certificate.hits[0] / 40_000 - p) < 4 * math.sqrt(p * (1 - p) / 40_000)
    assert 0.9 * distance * sigma / level < certificate.radius <= distance
    estimate = module.estimate(image[None].double(), t)
    torch.testing.assert_close(estimate, torch.full_like(estimate, 0.45 + gain * (0.62 - 0.45)), rtol=0, atol=1e-6)
