"""The denoise-and-reinvert step compared with its closed form and with the diffusers schedulers."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from lightning_modules.backbones import with_weights
from lightning_modules.diffusion.golden_noise.npnet import fold_tiles
from lightning_modules.diffusion.golden_noise.redenoising import redenoise
from lightning_modules.networks.mnist_unet import MNISTUNet
from lightning_modules.sde.ddim import scheduler_path
from lightning_modules.sde.discrete import scheduler_levels
from tests.diffusion.golden_noise.small import STABLE_DIFFUSION, randn


def first(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * x) + t.view(-1, 1, 1, 1) / 1000


def second(x: Tensor, t: Tensor) -> Tensor:
    return torch.cos(2 * x) - t.view(-1, 1, 1, 1) / 500


def schedulers(prediction: str = "epsilon") -> tuple[Any, Any]:
    options: dict[str, Any] = {**STABLE_DIFFUSION, "clip_sample": False, "prediction_type": prediction}
    found = DDIMScheduler(**options), DDIMInverseScheduler(**options)
    for scheduler in found:
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    return found


@pytest.mark.parametrize("num_steps", [5, 10, 50])
@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_it_is_the_closed_form(num_steps: int, dtype: torch.dtype, accuracy: float) -> None:
    scheduler, _ = schedulers()
    levels, times, x = scheduler_levels(scheduler), scheduler_path(scheduler, num_steps), randn(3, 4, 8, 8).to(dtype)
    begin, end = (float(levels[t]) for t in times[:2])
    r = (end / begin) ** 0.5
    d = (1 - end) ** 0.5 - r * (1 - begin) ** 0.5
    assert d < 0
    t = torch.full((3,), times[0])
    e1 = first(x, t)
    expected = x + d / r * (e1 - second(r * x + d * e1, t))
    scale = expected.abs().max().item()
    torch.testing.assert_close(
        redenoise(first, second, x, times, levels), expected, rtol=0, atol=accuracy * max(scale, 1)
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("official_offset", [False, True])
def test_it_is_what_the_schedulers_of_diffusers_do(prediction: Any, official_offset: bool) -> None:
    scheduler, inverse = schedulers(prediction)
    scheduler.set_timesteps(10)
    inverse.set_timesteps(10)
    x, times = randn(2, 4, 8, 8), scheduler.timesteps.tolist()
    t = torch.full((2,), times[0])
    moved = scheduler.step(first(x, t), times[0], x).prev_sample
    expected = inverse.step(second(moved, t), times[1] if official_offset else times[0], moved).prev_sample
    path, levels = scheduler_path(scheduler, 10), scheduler_levels(scheduler)
    found = redenoise(first, second, x, path, levels, prediction, official_offset)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    other = redenoise(first, second, x, path, levels, prediction, not official_offset)
    assert 1e-3 < (found - other).abs().max() < 1


def test_equal_predictions_leave_the_noise_as_it_is() -> None:
    scheduler, _ = schedulers()
    x, times = randn(2, 4, 8, 8), scheduler_path(scheduler, 10)
    constant = randn(2, 4, 8, 8, seed=1)  # a model that ignores the image, at any guidance scale
    found = redenoise(lambda *_: constant, lambda *_: constant, x, times, scheduler_levels(scheduler))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12)


@pytest.mark.data
def test_singular_vectors_of_a_real_networks_noise_stay_and_values_move() -> None:
    """Test the premise of NPNet's first branch on a published MNIST network without text conditioning."""
    root = os.environ.get("NOISEWORKS_DATA")
    weights = Path(root or "", "weights", "ddpm_mnist.safetensors")
    if not root or not weights.exists():
        pytest.skip(f"NOISEWORKS_DATA={root}: expected weights/ddpm_mnist.safetensors there")
    network = with_weights(MNISTUNet(), str(weights)).eval()
    scheduler = DDIMScheduler(beta_schedule="linear", steps_offset=1, set_alpha_to_one=False)
    x = randn(16, 1, 28, 28).float()
    target = redenoise(network, network, x, scheduler_path(scheduler, 10), scheduler_levels(scheduler))
    assert 1e-4 < (target - x).square().mean() < 1e-2
    (u, s, _), (v, moved, _) = (torch.linalg.svd(fold_tiles(noise)) for noise in (x, target))
    cosine = (u[:, :, 0] * v[:, :, 0]).sum(dim=1).abs()
    assert cosine.mean() > 0.98
    assert 1e-3 < ((moved - s).abs() / s)[:, :5].mean() < 1e-2
