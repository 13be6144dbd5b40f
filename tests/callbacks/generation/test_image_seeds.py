"""An image depends only on its prompt or class and its seed, for any sampler, batch and order."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, DiTPipeline, FlowMatchEulerDiscreteScheduler

from callbacks.generation.image_generators import ModuleGenerator, PipelineGenerator, Settings
from callbacks.generation.image_requests import ImageRequest
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline
from lightning_modules.diffusion.golden_noise import GoldenNoise
from lightning_modules.diffusion.one_more_step import OneMoreStep, TimeFreeUNet
from lightning_modules.diffusion.score_sde import ClassGuidance, ScoreSDE
from lightning_modules.networks.noise_conditional_wide_resnet import NoiseConditionalWideResNet
from lightning_modules.sde.processes import VE
from lightning_modules.sde.samplers import PredictorCorrector
from tests.diffusion.finetuning.models import tuning
from tests.diffusion.golden_noise.small import Identity
from tests.diffusion.score_sde.exact_network import Exact
from tests.tiny_pipelines import conditional_unet, save_dit
from tests.trainers import standing

PROMPTED = [ImageRequest("0", 3, "a cat"), ImageRequest("1", 8, "dog"), ImageRequest("2", 5, "bird")]
CLASSES = [ImageRequest("0", 3, label=1), ImageRequest("1", 8, label=999), ImageRequest("2", 5, label=0)]


def stochastic(scheduler: Any) -> Any:
    """Replace a scheduler with a stochastic one."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, stochastic_sampling=True)
    return DDPMScheduler.from_config(scheduler.config)


def assert_seeds_decide(generator: Any, requests: Sequence[ImageRequest]) -> np.ndarray:
    """Check that images of one batch equal those generated one by one with other global seeds, or in reverse order."""
    torch.manual_seed(11)
    together = generator.images(requests)[0].astype(int)
    before = torch.get_rng_state()
    for place, request in enumerate(requests):
        torch.manual_seed(20 + place)
        np.testing.assert_allclose(generator.images([request])[0][0], together[place], atol=1)
    np.testing.assert_allclose(generator.images(requests[::-1])[0][::-1], together, atol=1)
    other = ImageRequest("0", 4, requests[0].prompt, label=requests[0].label)
    assert (generator.images([other])[0] != together[0]).mean() > 0.5
    torch.manual_seed(11)
    generator.images(requests)
    assert torch.equal(torch.get_rng_state(), before)
    return together


@pytest.mark.parametrize("family", ["text_to_image", "stable_diffusion_3", "flux"])
@pytest.mark.parametrize("kind", ["golden_noise", "finetuning", "pipeline"])
def test_prompts_and_seeds_decide_with_a_stochastic_sampler(
    family: str, kind: str, request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue(family))
    if kind == "pipeline":
        pipeline = diffusers_pipeline(folder)
        pipeline.scheduler = stochastic(pipeline.scheduler)
        size = Settings(steps=3, height=16, width=16)
        assert_seeds_decide(PipelineGenerator(pipeline, size), PROMPTED)
        return
    model = text_to_image_pipeline(folder, tuning="lora" if kind == "finetuning" else "frozen")
    if hasattr(model.pipeline, "default_sample_size"):
        model.pipeline.default_sample_size = 8
    noise = torch.randn(1, *model.latent_shape(1)[1:])
    prompt = model.encode_prompts(["a"])
    plain = model.generate(prompt, noise, 3, generator=torch.Generator().manual_seed(0))
    module = tuning(model) if kind == "finetuning" else GoldenNoise(Identity(), model, start="redenoised")
    model.pipeline.scheduler = model.scheduler = stochastic(model.scheduler)
    drawn = [model.generate(prompt, noise, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2], atol=1e-2)  # the sampler is stochastic
    assert not torch.allclose(drawn[0], plain, atol=1e-2)
    assert_seeds_decide(ModuleGenerator(module, Settings(steps=3)), PROMPTED)


def test_prompts_and_seeds_decide_for_one_more_step(text_to_image: Path) -> None:
    model = text_to_image_pipeline(str(text_to_image))
    model.pipeline.scheduler = model.scheduler = stochastic(model.scheduler)
    module = OneMoreStep(TimeFreeUNet(conditional_unet()), model)
    module.trainer = standing(datamodule=SimpleNamespace(image_shape=(3, 16, 16)))
    generator = ModuleGenerator(module, Settings(steps=3))
    assert generator.seed_per_image
    assert_seeds_decide(generator, PROMPTED)


@pytest.mark.parametrize("sampler", ["DDIMScheduler", "DDPMScheduler"])
def test_classes_and_seeds_decide_for_a_real_class_conditional_pipeline(sampler: str, tmp_path: Path) -> None:
    folder = str(save_dit(tmp_path, stochastic=sampler == "DDPMScheduler"))
    generator = PipelineGenerator(diffusers_pipeline(folder), Settings(steps=3, guidance=2.0))
    assert generator.settings()["scheduler"]["class"] == sampler
    generator.check(CLASSES)
    found = assert_seeds_decide(generator, CLASSES)
    same = [ImageRequest("0", 3, label=label) for label in (1, 7)]
    one, other = generator.images(same)[0].astype(int)
    np.testing.assert_allclose(one, found[0], atol=1)
    assert abs(one - other).mean() > 1
    if sampler == "DDIMScheduler":
        alone = DiTPipeline.from_pretrained(folder)
        seeds = [torch.Generator().manual_seed(request.seed) for request in CLASSES]
        images = alone([1, 999, 0], guidance_scale=2.0, num_inference_steps=3, generator=seeds).images
        np.testing.assert_array_equal(found, np.stack(images).transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"--classes must be in 0 ... 999 for DiTPipeline, got 1000"):
        generator.check([ImageRequest("0", 3, label=1000)])
    with pytest.raises(ValueError, match="DiTPipeline needs --classes"):
        generator.check([ImageRequest("0", 3)])


def test_classes_reach_a_guided_score_model() -> None:
    torch.manual_seed(0)
    classifier = NoiseConditionalWideResNet(depth=10, width=1, in_channels=1, num_classes=3)
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    guidance = ClassGuidance(classifier, 3, scale=30.0)
    module = ScoreSDE(Exact(VE()), VE(), [1, 8, 8], PredictorCorrector(num_steps=20), guidance=guidance)
    generator = ModuleGenerator(module, Settings())
    requests = [ImageRequest(str(label), 4, label=label) for label in range(3)]
    generator.check(requests)
    alone = [generator.images([request])[0] for request in requests]
    for label, image in enumerate(alone):
        expected = module.sample(1, torch.Generator().manual_seed(4), label=torch.tensor([label]))
        np.testing.assert_array_equal(image, (255 * expected).clamp(0, 255).to(torch.uint8).numpy())
    assert all((one != other).any() for one, other in pairwise(alone))
    with pytest.raises(ValueError, match=r"--classes must be in 0 ... 2 for ScoreSDE, got 3"):
        generator.check([ImageRequest("0", 3, label=3)])
    unguided = ScoreSDE(Exact(VE()), VE(), [1, 8, 8], PredictorCorrector(num_steps=2))
    with pytest.raises(ValueError, match="--classes: ScoreSDE is not conditioned on classes"):
        ModuleGenerator(unguided, Settings()).check(requests)


def test_a_scheduler_keeps_its_own_step(text_to_image: Path) -> None:
    pipeline: Any = DiffusionPipeline.from_pretrained(text_to_image)
    PipelineGenerator(pipeline, Settings(steps=1)).images(PROMPTED[:1])
    assert "step" not in vars(pipeline.scheduler)
