"""Denoised smoothing with a diffusers U-Net: one-step estimates, precision, and the step that trains both parts."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from scipy import stats
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch
from lightning_modules.backbones import diffusers_model
from lightning_modules.backbones.resized import Resized
from lightning_modules.interfaces import Classifier, Denoiser, SmoothedClassifier
from lightning_modules.networks.mlp import MLP
from lightning_modules.robustness.denoised_smoothing import DenoisedSmoothing
from lightning_modules.sde.discrete import Prediction, first_timestep, noise_levels
from tests.robustness.smoothed_training.by_hand import assert_same_with_gradients
from tests.robustness.test_denoised_smoothing import PREDICTIONS, Oracle, rand, randn


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
    """A single DDIM step from t* to the image gives the same estimate."""
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
        "global_batch_size": 6,
    }


def test_a_step_trains_each_part_by_its_own_loss(folder: Path) -> None:
    built = module(folder).double()
    given = batch()
    given["image"] = given["image"].double()
    torch.manual_seed(5)
    output = built.training_step(given, 0)
    cross_entropy = F.cross_entropy(built.network(given["image"]), given["label"])
    torch.manual_seed(5)
    t = torch.randint(1000, (6,))
    noise = torch.randn_like(given["image"])
    abar = DDPMScheduler().alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    x_t = abar.sqrt() * (2 * given["image"] - 1) + (1 - abar).sqrt() * noise
    diffusion = (built.denoiser(x_t, t).sample[:, :1] - noise).square().mean()
    trained = [*built.network.parameters(), *built.denoiser.parameters()]
    assert_same_with_gradients(output["loss"], cross_entropy + diffusion, trained)
    assert not output["logits"].requires_grad


def test_a_frozen_diffusion_model_is_not_evaluated_in_training(folder: Path) -> None:
    built = module(folder, tuning="frozen")
    built.denoiser.register_forward_hook(lambda *arguments: pytest.fail("it is"))
    loss = built.training_step(batch(), 0)["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(built(batch()["image"]), batch()["label"]))
    (optimizer,), _ = built.configure_optimizers()
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in built.network.parameters()}


def test_the_schedule_is_part_of_the_state(folder: Path) -> None:
    """This is necessary because the state identifies the rows of a certification."""
    torch.testing.assert_close(module(folder).state_dict()["alphas_cumprod"], DDPMScheduler().alphas_cumprod)


def test_what_cannot_work_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="prediction_type must be one of epsilon, v_prediction, sample, got 'x'"):
        module(folder, scheduler=DDPMScheduler(prediction_type="x"))
    with pytest.raises(ValueError, match="sigma must be a single number for all images, got None"):
        module(folder).denoise(torch.zeros(1, 1, 8, 8))
