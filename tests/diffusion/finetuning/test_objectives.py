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
    StableDiffusion3Pipeline,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor

from datamodules.classification.digits import Digits
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.diffusion.finetuning.objectives import DiffusionObjective, FlowMatching, FlowObjective
from lightning_modules.diffusion.finetuning.sharding import blocks
from tests.backbones.diffusion.test_full_sizes import stable_diffusion_3_medium
from tests.diffusion.finetuning.models import captioned, pixel_space, trainer, tuning


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
        return FlowObjective(scheduler, FlowMatching(weighting=weighting)).weighted(error, t).tolist()

    assert weights("none") == [1, 1, 1]
    assert weights("sigma_sqrt") == pytest.approx([1e6, 16, 1])
    assert weights("cosmap") == pytest.approx([2 / math.pi / (1 - 2e-3 + 2e-6), 2 / math.pi / 0.625, 2 / math.pi])


def test_held_out_times_are_fixed_and_cover_all_levels() -> None:
    index = torch.arange(1000)
    t = FlowObjective(FlowMatchEulerDiscreteScheduler(), FlowMatching()).held_out_times(index)
    assert t.dtype == torch.float32
    assert torch.histc(t, 10, 0, 1).tolist() == pytest.approx([100] * 10, abs=2)
    steps = DiffusionObjective(DDPMScheduler(), None).held_out_times(index)
    assert torch.equal(steps, (t.double() * 1000).long())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(
    dtype: torch.dtype, stable_diffusion_3: Path
) -> None:
    torch.manual_seed(0)
    network = StableDiffusion3(str(stable_diffusion_3), tuning="full")
    module = tuning(network, flow=FlowMatching(weighting="cosmap", logit_mean=0.3)).to(dtype)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    image = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=dtype)
    captions = ["a cat", "dog", "bird"]
    batch: Any = {"image": image, "caption": captions, "index": torch.arange(3), "global_batch_size": 3}
    torch.manual_seed(5)
    loss = module.training_step(batch, 0)["loss"]
    loss.backward()

    alone: Any = StableDiffusion3Pipeline.from_pretrained(stable_diffusion_3).to(dtype)
    alone.transformer.train()
    torch.manual_seed(5)
    draw, noise = torch.randn(3, 4, 8, 8, dtype=dtype), torch.randn(3, 4, 8, 8, dtype=dtype)
    u = torch.sigmoid(torch.normal(0.3, 1.0, (3,)))
    t = 3 * u / (1 + 2 * u)
    with torch.no_grad():
        posterior = alone.vae.encode(2 * image - 1).latent_dist
        clean = (posterior.mean + posterior.std * draw - 0.0609) * 1.5305
        embedding, _, pooled, _ = alone.encode_prompt(captions, None, None, do_classifier_free_guidance=False)
    level = t.to(dtype).view(-1, 1, 1, 1)
    velocity = alone.transformer(
        hidden_states=(1 - level) * clean + level * noise, timestep=1000 * t, encoder_hidden_states=embedding,
        pooled_projections=pooled, joint_attention_kwargs=None, return_dict=False,
    )[0]  # fmt: skip
    weight = 2 / (math.pi * (1 - 2 * t + 2 * t**2))
    expected = (weight * (velocity - (noise - clean)).square().mean(dim=(1, 2, 3))).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    theirs = dict(alone.transformer.named_parameters())
    assert theirs
    for name, parameter in network.network.named_parameters():
        found, wanted = parameter.grad, theirs[name].grad
        assert (found is None) == (wanted is None), name
        if wanted is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()), msg=name)


def test_adapters_trained_on_one_image_lower_its_loss(stable_diffusion_3: Path) -> None:
    torch.manual_seed(0)
    network = StableDiffusion3(str(stable_diffusion_3), tuning="lora", adapters=Adapters(rank=4))
    objective = FlowObjective(network.scheduler, FlowMatching())
    prompts = network.encode_prompts(["a cat"]).rows([0] * 32)
    latent = network.encode(torch.rand(1, 3, 16, 16)).expand(32, -1, -1, -1)

    def loss(seed: int) -> Tensor:
        torch.manual_seed(seed)
        noise = torch.randn(latent.shape)
        return objective.errors(network, latent, prompts, noise, objective.times(latent)).mean()

    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.02)
    with torch.no_grad():
        before = float(loss(0))
    for step in range(1, 41):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(loss(0)) < 0.9 * before


def losses(pipeline: Path, folder: Path, cache: bool) -> list[float]:
    torch.manual_seed(0)
    network = StableDiffusion3(str(pipeline), tuning="lora", adapters=Adapters(rank=2))
    module = tuning(network, caption_dropout=0.5, cache_dir=str(folder / "cache") if cache else None)
    module.on_train_batch_start = lambda batch, place: torch.manual_seed(place) and None  # type: ignore[method-assign]
    found: list[float] = []
    module.on_train_batch_end = lambda outputs, *_: found.append(float(outputs["loss"]))  # type: ignore[method-assign, assignment]
    data, own = captioned(folder / "images"), trainer(folder / str(cache))
    own.fit(module, data)
    found.append(own.validate(module, data, verbose=False)[0]["val/loss"])
    assert module.sample(3, torch.Generator().manual_seed(0)).shape == (3, 3, 16, 16)
    assert (folder / str(cache) / "run" / "pipeline" / "pytorch_lora_weights.safetensors").is_file()
    return found


def test_training_on_cached_latents_equals_training_on_images(stable_diffusion_3: Path, tmp_path: Path) -> None:
    one, other = (losses(stable_diffusion_3, tmp_path, cache) for cache in (False, True))
    assert len(one) == 2
    assert one == pytest.approx(other, rel=1e-4)


def test_a_step_of_the_medium_transformer_runs_on_the_meta_device() -> None:
    network = stable_diffusion_3_medium("meta")
    objective = FlowObjective(FlowMatchEulerDiscreteScheduler(shift=3.0), FlowMatching())
    embedding, pooled = torch.empty(2, 333, 4096, device="meta"), torch.empty(2, 2048, device="meta")

    def model(latent: Tensor, t: Tensor, prompts: Any) -> Tensor:
        return network(latent, timestep=t, encoder_hidden_states=embedding, pooled_projections=pooled).sample

    latent = torch.empty(2, 16, 128, 128, device="meta")
    error = objective.errors(model, latent, None, torch.empty_like(latent), torch.empty(2, device="meta"))
    error.mean().backward()
    assert error.shape == (2,)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert len(blocks(network)) == 24


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
    for options, message in (
        ({"density": "cosine"}, "density must be one of uniform, logit_normal, mode, got 'cosine'"),
        ({"weighting": "snr"}, "weighting must be one of none, sigma_sqrt, cosmap, got 'snr'"),
        ({"shift": 0.0}, "shift must be positive"),
        ({"logit_std": -1.0}, "logit_std must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            FlowMatching(**options)  # type: ignore[arg-type]
    data = CaptionedImages(CaptionedClasses(Digits(image_size=10)))
    with pytest.raises(ValueError, match=r"images of 10 x 10 pixels, but height and width must be multiples of 4: ch"):
        trainer(tmp_path).fit(tuning(network), data)
