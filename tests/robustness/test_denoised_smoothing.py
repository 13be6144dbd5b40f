import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch
from lightning_modules.interfaces import Classifier, Denoiser, SmoothedClassifier
from lightning_modules.networks import diffusers_model, frozen
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.resized import Resized
from lightning_modules.robustness.certificates.modes import Fixed
from lightning_modules.robustness.certificates.votes import LabelledImage, VoteCounter
from lightning_modules.robustness.denoised_smoothing import (
    DenoisedSmoothing,
    Prediction,
    clean_estimate,
    diffusion_target,
    first_timestep,
    noise_levels,
)

PREDICTIONS: list[Prediction] = ["epsilon", "v_prediction", "sample"]


def levels(**options: Any) -> np.ndarray:
    return DDPMScheduler(**options).alphas_cumprod.double().numpy()


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# levels


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"num_train_timesteps": 4000, "beta_schedule": "squaredcos_cap_v2"}, (1158, 1984, 2809)),
        ({"num_train_timesteps": 1000, "beta_schedule": "linear"}, (145, 259, 396)),
    ],
    ids=["improved diffusion on CIFAR-10", "guided diffusion on ImageNet"],
)
def test_timesteps_are_those_of_the_published_code(schedule: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert tuple(first_timestep(sigma, levels(**schedule)) for sigma in (0.25, 0.5, 1.0)) == expected


@pytest.mark.parametrize(("sigma", "time"), [(0.25, 289.5), (0.5, 496.0), (1.0, 702.25)])
def test_a_model_of_4000_levels_is_told_times_that_count_to_1000(sigma: float, time: float) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=4000, beta_schedule="squaredcos_cap_v2")

    class Told(nn.Module):
        def forward(self, noisy: Tensor, timestep: Tensor) -> Any:
            self.seen = timestep.tolist()
            return SimpleNamespace(sample=torch.zeros_like(noisy))

    told = Told()
    module = DenoisedSmoothing(Flat(), told, scheduler, num_classes=4, timestep_scale=0.25)
    module.smoothed_logits(rand(2, 1, 2, 2), randn(2, 1, 2, 2), sigma)
    assert told.seen == [time] * 2


@given(sigma=st.floats(0.01, 5), num=st.sampled_from([50, 1000]))
@settings(max_examples=50, deadline=None)
def test_the_level_is_the_first_with_enough_noise(sigma: float, num: int) -> None:
    abar = levels(num_train_timesteps=num, beta_schedule="squaredcos_cap_v2")
    t = first_timestep(sigma, abar)
    assert math.sqrt((1 - abar[t]) / abar[t]) >= 2 * sigma
    assert t == 0 or math.sqrt((1 - abar[t - 1]) / abar[t - 1]) < 2 * sigma
    assert t == next(i for i in range(num) if noise_levels(abar)[i] >= sigma)


def test_more_noise_than_the_scheduler_has_is_refused() -> None:
    abar = levels(num_train_timesteps=10, beta_start=0.01, beta_end=0.1)
    most = float(noise_levels(abar)[-1])
    assert first_timestep(most, abar) == 9
    with pytest.raises(ValueError, match=rf"sigma must be at most {most:.4g}.*got 1\.5"):
        first_timestep(1.5, abar)


# one evaluation


@settings(max_examples=30, deadline=None)
@given(abar=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_kinds_of_prediction_agree(abar: float, seed: int) -> None:
    image, noise, weight = 2 * rand(3, 2, 4, 4, seed=seed) - 1, randn(3, 2, 4, 4, seed=seed), torch.tensor(abar)
    weights = torch.full((3, 1, 1, 1), abar, dtype=torch.float64)
    noisy = math.sqrt(abar) * image + math.sqrt(1 - abar) * noise
    for prediction in PREDICTIONS:
        output = diffusion_target(image, noise, weights, prediction)
        torch.testing.assert_close(clean_estimate(output, noisy, abar, prediction), image, rtol=0, atol=1e-9)
        with_variance = torch.cat([output, randn(3, 2, 4, 4, seed=seed + 1)], dim=1)
        torch.testing.assert_close(clean_estimate(with_variance, noisy, weights, prediction), image, rtol=0, atol=1e-9)
    # The same as diffusers says of v.
    scheduler = DDPMScheduler(trained_betas=[1 - float(weight)])
    velocity = scheduler.get_velocity(image, noise, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(diffusion_target(image, noise, weights, "v_prediction"), velocity, rtol=0, atol=1e-5)


class Oracle(nn.Module):
    """Knows the image, and says what a perfect model would; keeps what it is shown."""

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
    """Logits that are the pixels."""

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
    """The best possible model of images N(mean, tau^2 I) in [-1, 1]: E[e | x_t] in closed form."""

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
    """Class 0 where the mean pixel is above a half; in float64, so that no batch changes a vote."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        height = self.scale * (image.double().flatten(1).mean(dim=1) - 0.5)
        return torch.stack([height, -height], dim=1)


def test_a_linear_denoiser_before_a_plane_is_certified_at_its_distance() -> None:
    """Denoised by the gain a towards the mean m, the plane 1/2 stands at 1/2 + (1/a - 1)(1/2 - m) of the mean pixel."""
    scheduler, sigma, tau = DDPMScheduler(), 0.25, 0.5
    t = 145
    abar = float(scheduler.alphas_cumprod[t])
    denoiser = LinearGaussian(torch.full((1, 1, 4, 4), -0.1), tau, scheduler.alphas_cumprod.double())
    module = DenoisedSmoothing(Plane(), denoiser, scheduler, num_classes=2)
    image = torch.full((1, 4, 4), 0.62)
    gain = tau**2 * abar / (tau**2 * abar + 1 - abar)  # of the pixel itself: sqrt(abar) times that of x_t
    plane = 0.5 + (1 / gain - 1) * (0.5 - 0.45)
    distance = (0.62 - plane) * math.sqrt(16)
    level = float(noise_levels(abar))
    counter = VoteCounter(module, Fixed(n0=100, n=40_000, alpha=0.01), sigma, 1000, 0, torch.device("cpu"))
    (done,) = counter.certify(iter([LabelledImage(0, image, 0)]))
    certificate = done.certificate
    assert certificate.prediction == 0
    p = stats.norm.cdf(distance / level)
    assert abs(certificate.hits[0] / 40_000 - p) < 4 * math.sqrt(p * (1 - p) / 40_000)
    assert 0.9 * distance * sigma / level < certificate.radius <= distance
    estimate = module.estimate(image[None].double(), t)
    torch.testing.assert_close(estimate, torch.full_like(estimate, 0.45 + gain * (0.62 - 0.45)), rtol=0, atol=1e-6)


# diffusers' networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2,  # with a learned variance
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        add_attention=False,
    )
    path = tmp_path_factory.mktemp("unet")
    network.save_pretrained(path)
    return path


def module(folder: Path, tuning: Any = "full", scheduler: Any = None) -> DenoisedSmoothing:
    torch.manual_seed(1)
    return DenoisedSmoothing(
        MLP(64, [16], 10), diffusers_model(str(folder), tuning=tuning), scheduler or DDPMScheduler(), num_classes=10
    )


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_of_diffusers_denoises_in_one_step_of_its_scheduler(
    folder: Path, kind: Any, prediction: Prediction
) -> None:
    """One DDIM step from t* to the image itself is the same estimate."""
    built = module(folder, scheduler=kind(prediction_type=prediction)).eval()
    for protocol in (Classifier, Denoiser, SmoothedClassifier):
        assert isinstance(built, protocol)
    image, noise = rand(3, 1, 8, 8).float(), randn(3, 1, 8, 8).float()
    t = first_timestep(0.25, built.levels)
    abar = float(built.levels[t])
    x_t = math.sqrt(abar) * (2 * image - 1) + math.sqrt(1 - abar) * noise
    with torch.no_grad():
        output = built.denoiser(x_t, t).sample[:, :1]
        scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=True)
        scheduler.set_timesteps(1000)
        estimate = (scheduler.step(output, t, x_t).pred_original_sample + 1) / 2
        logits = built.smoothed_logits(image, noise, 0.25)
        torch.testing.assert_close(logits[0], built.network(estimate), rtol=1e-3, atol=1e-4)
        level = float(noise_levels(abar))
        torch.testing.assert_close(built.denoise(image + level * noise, level), estimate, rtol=1e-3, atol=1e-4)
    assert built.certified_radius([0.9], 0.25) == pytest.approx(0.25 * stats.norm.ppf(0.9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_votes_of_weights_in_half_precision_are_counted(folder: Path, dtype: torch.dtype) -> None:
    built = module(folder).to(dtype).eval()
    logits = built.smoothed_logits(rand(3, 1, 8, 8).float(), randn(3, 1, 8, 8).float(), 0.25)
    assert logits.shape[:2] == (1, 3)
    assert logits.dtype == dtype
    assert logits.isfinite().all()


def test_the_classifier_sees_images_at_its_own_size() -> None:
    scheduler, seen = DDPMScheduler(), []

    class Probe(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(image)
            return image.flatten(1)[:, :3]

    image = rand(1, 1, 8, 8)
    oracle = Oracle(2 * image - 1, scheduler)
    resized = Resized(Probe(), 12, mode="bicubic")
    resized.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))
    DenoisedSmoothing(resized, oracle, scheduler, num_classes=3).smoothed_logits(image, randn(1, 1, 8, 8), 0.5)
    expected = F.interpolate(image, (12, 12), mode="bicubic", antialias=True)
    torch.testing.assert_close(seen[0], expected)


def batch() -> LabelledImageBatch:
    return {
        "image": rand(6, 1, 8, 8).float(),
        "label": torch.arange(6),
        "index": torch.arange(6),
        "global_size": 6,
    }


def test_a_step_trains_each_part_by_its_own_loss(folder: Path) -> None:
    built = module(folder)
    built.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    given = batch()
    torch.manual_seed(5)
    output = built.training_step(given, 0)
    cross_entropy = F.cross_entropy(built.network(given["image"]), given["label"])
    torch.manual_seed(5)
    t = torch.randint(1000, (6,))
    noise = torch.randn_like(given["image"])
    x_t = DDPMScheduler().add_noise(2 * given["image"] - 1, noise, t)  # type: ignore[arg-type]
    diffusion = F.mse_loss(built.denoiser(x_t, t).sample[:, :1], noise)
    torch.testing.assert_close(output["loss"], cross_entropy + diffusion)
    alone = torch.autograd.grad(cross_entropy, list(built.network.parameters()))
    output["loss"].backward()
    for parameter, gradient in zip(built.network.parameters(), alone, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in built.denoiser.parameters())
    assert not output["logits"].requires_grad


def test_a_frozen_diffusion_model_is_not_evaluated_in_training(folder: Path) -> None:
    built = module(folder, tuning="frozen")
    built.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    built.denoiser.register_forward_hook(lambda *arguments: pytest.fail("it is"))
    loss = built.training_step(batch(), 0)["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(built(batch()["image"]), batch()["label"]))
    (optimizer,), _ = built.configure_optimizers()
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in built.network.parameters()}


def test_the_schedule_is_part_of_the_state_and_read_without_values(folder: Path) -> None:
    """Certificates are told apart by the state; on the meta device the levels are still known."""
    built = module(folder)
    torch.testing.assert_close(built.state_dict()["alphas_cumprod"], DDPMScheduler().alphas_cumprod)
    with torch.device("meta"):
        meta = DenoisedSmoothing(nn.Linear(2, 2), frozen(nn.Linear(2, 2)), DDPMScheduler(), num_classes=2)
    np.testing.assert_array_equal(meta.levels, built.levels)


def test_what_cannot_work_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="prediction_type must be one of epsilon, v_prediction, sample, got 'x'"):
        module(folder, scheduler=DDPMScheduler(prediction_type="x"))
    with pytest.raises(ValueError, match="sigma must be one number for all images, got None"):
        module(folder).denoise(torch.zeros(1, 1, 8, 8))
