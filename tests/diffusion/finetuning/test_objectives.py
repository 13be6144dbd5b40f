"""Objectives compared with equations, diffusers functions, and transformer calls as in the pipeline."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling

from datamodules.classification.digits import Digits
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses
from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.diffusion.finetuning.objectives import DiffusionObjective, FlowMatching, FlowObjective
from tests.diffusion.finetuning.models import pixel_space, trainer, tuning


@pytest.mark.parametrize("density", ["uniform", "logit_normal", "mode"])
def test_times_have_the_density_of_diffusers_after_the_shift(density: Any) -> None:
    settings = FlowMatching(density=density, logit_mean=0.5, logit_std=0.8, mode_scale=1.1)
    objective = FlowObjective(FlowMatchEulerDiscreteScheduler(shift=3.0), settings)
    torch.manual_seed(3)
    t = objective.times(torch.empty(50, 1, 1, 1))
    torch.manual_seed(3)
    u = compute_density_for_timestep_sampling(density, 50, logit_mean=0.5, logit_std=0.8, mode_scale=1.1)
    torch.testing.assert_close(t, 3 * u / (1 + 2 * u))


def test_the_shift_is_the_schedulers_unless_it_is_given() -> None:
    latent, flow = torch.empty(1, 1, 8, 8), {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    solver = DPMSolverMultistepScheduler(flow_shift=4.0, **flow)
    assert FlowObjective(FlowMatchEulerDiscreteScheduler(shift=3.0), FlowMatching()).shift(latent) == 3
    assert FlowObjective(solver, FlowMatching()).shift(latent) == 4
    for dynamic in (False, True):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
        assert FlowObjective(scheduler, FlowMatching(shift=2.0)).shift(latent) == 2


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize(("side", "patch_size"), [(64, 2), (128, 2), (32, 1), (192, 2)])
def test_a_shift_by_the_resolution_is_that_of_sampling(kind: Any, side: int, patch_size: int) -> None:
    """The shifted training times equal those of the scheduler with the shift from `calculate_shift` of diffusers."""
    given = {"base_shift": 0.4, "max_shift": 1.2, "base_image_seq_len": 300, "max_image_seq_len": 5000}
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind, **given)
    objective = FlowObjective(scheduler, FlowMatching(density="uniform"), patch_size)
    latent = torch.empty(6, 4, side, side)
    torch.manual_seed(0)
    u = torch.rand(6)
    torch.manual_seed(0)
    t = objective.times(latent)
    scheduler.set_timesteps(sigmas=u.tolist(), mu=calculate_shift((side // patch_size) ** 2, 300, 5000, 0.4, 1.2))
    torch.testing.assert_close(t, scheduler.sigmas[:-1].float())
    assert (objective.shift(latent) > objective.shift(latent[..., :8, :8])) == (side > 8)


def test_a_positive_mean_of_logits_favours_noise() -> None:
    torch.manual_seed(0)
    assert FlowMatching(logit_mean=1.0).sample([1000]).mean() > 0.65


def test_weights_are_those_of_the_equations() -> None:
    scheduler, t, error = FlowMatchEulerDiscreteScheduler(), torch.tensor([0.0, 0.25, 1.0]), torch.ones(3)

    def weights(weighting: Any) -> list[float]:
        return FlowObjective(scheduler, FlowMatching(weighting=weighting)).weight_errors(error, t).tolist()

    assert weights("none") == [1, 1, 1]
    assert weights("sigma_sqrt") == pytest.approx([1e6, 16, 1])
    assert weights("sigma_squared") == [0, 1 / 16, 1]
    assert weights("cosmap") == pytest.approx([2 / math.pi / (1 - 2e-3 + 2e-6), 2 / math.pi / 0.625, 2 / math.pi])


def test_held_out_times_are_fixed_and_cover_all_levels() -> None:
    index = torch.arange(1000)
    t = FlowObjective(FlowMatchEulerDiscreteScheduler(), FlowMatching()).held_out_times(index)
    assert t.dtype == torch.float32
    assert torch.histc(t, 10, 0, 1).tolist() == pytest.approx([100] * 10, abs=2)
    steps = DiffusionObjective(DDPMScheduler(), None).held_out_times(index)
    assert torch.equal(steps, (t.double() * 1000).long())


def test_what_does_not_fit_is_refused(stable_diffusion_3: Path, tmp_path: Path) -> None:
    network = StableDiffusion3(str(stable_diffusion_3), tuning="lora")
    for given, options, message in (
        (
            network,
            {"min_snr_gamma": 1.0},
            "min_snr_gamma is used only with a model of diffusion: leave it at 5",
        ),
        (pixel_space(), {"flow": FlowMatching()}, "flow is used only with a model of flow matching"),
    ):
        with pytest.raises(ValueError, match=message):
            tuning(given, **options)  # type: ignore[arg-type]
    data = CaptionedImages(CaptionedClasses(Digits(image_size=10)))
    with pytest.raises(ValueError, match=r"images of 10 x 10 pixels, but height and width must be multiples of 4: ch"):
        trainer(tmp_path).fit(tuning(network), data)
