"""Training, testing, and latents for unmodified pipelines, which are tiny or have full-size configurations."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from callbacks.generation.fid import FID
from datamodules.classification.digits import Digits
from lightning_modules.backbones import with_weights
from lightning_modules.backbones.diffusion import HunyuanDiT, TextToImage
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.golden_noise import GoldenNoise
from tests.command import ROOT
from tests.conformance.experiments import experiments
from tests.conformance.test_full_scale import Trainer, take_a_step
from tests.diffusion.golden_noise.small import Identity, Texts, brightness, data, module, npnet, randn
from tests.tiny_pipelines import conditional_unet
from tests.trainers import quiet


def noise(n: int = 2) -> torch.Tensor:
    return randn(n, 4, 8, 8).float()


def test_a_step_is_the_squared_error_with_its_gradient() -> None:
    method = module().double()
    method.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    nn.init.constant_(method.network.alpha, 0.3)  # type: ignore[arg-type]
    source, target, texts = randn(3, 1, 8, 8), randn(3, 1, 8, 8, seed=1), ["a", "b", "a"]
    batch: Any = {
        "source": source,
        "target": target,
        "caption": texts,
        "index": torch.arange(3),
        "global_batch_size": 3,
    }
    loss = method.training_step(batch, 0)["loss"]
    parameters = list(method.network.parameters())
    each = [method.network(source[[n]], method.model.encode_prompts([texts[n]])) - target[[n]] for n in range(3)]
    expected = torch.cat(each).square().mean()
    torch.testing.assert_close(loss, expected)
    gradients = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kind", "width"), [("xl", 16 * 32), ("text_to_image", 16 * 16), ("hunyuan_dit", 77 * 16)])
def test_an_unmodified_pipeline_begins_with_golden_noise(
    kind: str, width: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """NPNet is trained on the pipeline's pairs and loaded from its checkpoint; plain diffusers then uses its noise."""
    folder = str(request.getfixturevalue(kind))
    sampler: Any = {"sampler": "DPMSolverMultistepScheduler"}
    model = HunyuanDiT(folder, **sampler) if kind == "hunyuan_dit" else TextToImage(folder, **sampler)
    network, steps = npnet(prompt_features=width).float(), {"num_inference_steps": 2, "guidance_scale": 2.0}
    optimizer: Any = lambda p: torch.optim.SGD(p, 0.1)  # noqa: E731
    method = GoldenNoise(network, model, {"brightness": brightness}, sampling=Sampling(2, 2.0), optimizer=optimizer)
    trainer = quiet(default_root_dir=tmp_path, max_epochs=2, enable_checkpointing=True)
    trainer.fit(method, data(margin=None))
    assert sorted(path.suffix for path in (tmp_path / "noise_pairs").iterdir()) == [".json", ".jsonl", *[".npz"] * 7]
    [checkpoint] = tmp_path.rglob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"network"}  # the pipeline is loaded from its folder
    method.load_state_dict(state)
    read: Any = with_weights(npnet(prompt_features=width).float(), str(checkpoint), prefix="network.")
    texts = ["a cat", "dog"]
    alone: Any = DiffusionPipeline.from_pretrained(folder)
    alone.scheduler = model.scheduler
    size = {"height": 64, "width": 64, "use_resolution_binning": False} if kind == "hunyuan_dit" else {}
    embedding = alone.encode_prompt(texts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)[0]
    with torch.no_grad():
        golden = read(noise(), Prompts(embedding))
    assert not torch.allclose(golden, noise(), atol=1e-2)
    images = alone(texts, latents=golden, output_type="pt", **steps, **size).images
    torch.testing.assert_close(method.images(method.latents_for(noise(), texts), texts), images, rtol=0, atol=1e-4)
    if kind == "xl":
        assert isinstance(alone, StableDiffusionXLPipeline)


def test_with_the_identity_for_npnet_it_is_the_standard_image_to_the_bit(xl: Path) -> None:
    model = TextToImage(str(xl))
    method = GoldenNoise(Identity(), model, {"brightness": brightness}, sampling=Sampling(2))
    images = method.images(method.latents_for(noise(), ["a", "b"]), ["a", "b"])
    assert torch.equal(images, method.images(noise(), ["a", "b"]))


@pytest.mark.parametrize(
    ("kind", "options", "guidance"),
    [
        ("xl", {"sampler": "EulerDiscreteScheduler", "sampler_spacing": "trailing"}, 1.0),  # SDXL-Lightning
        ("xl", {"sampler": "EulerAncestralDiscreteScheduler", "sampler_spacing": "trailing"}, 0.0),  # SDXL-Turbo
        ("text_to_image", {"sampler": "LCMScheduler"}, 8.0),
    ],
)
def test_few_step_pipelines_begin_with_golden_noise(
    kind: str, options: Any, guidance: float, request: pytest.FixtureRequest
) -> None:
    """Plain diffusers gets NPNet's noise, the scheduler and each image's generator."""
    folder = request.getfixturevalue(kind)
    model, texts = TextToImage(str(folder), **options), ["a cat", "dog"]
    if guided_unet := options["sampler"] == "LCMScheduler":  # the network takes the guidance scale as an input
        model.pipeline.unet = conditional_unet(time_cond_proj_dim=8)
    method = GoldenNoise(Identity(), model, sampling=Sampling(2, guidance))
    alone: Any = DiffusionPipeline.from_pretrained(str(folder))
    if guided_unet:
        alone.unet = model.pipeline.unet
    spacing = {"timestep_spacing": options["sampler_spacing"]} if "sampler_spacing" in options else {}
    alone.scheduler = getattr(diffusers, options["sampler"]).from_config(alone.scheduler.config, **spacing)
    generators = [torch.Generator().manual_seed(seed) for seed in (11, 12)]
    steps: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": guidance, "output_type": "pt"}
    expected = alone(texts, latents=noise(), generator=generators, **steps).images
    generators = [torch.Generator().manual_seed(seed) for seed in (11, 12)]
    calls: list[int] = []
    model.pipeline.unet.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    found = method.images(method.latents_for(noise(), texts), texts, generators)
    torch.testing.assert_close(found, expected)
    assert calls == [2, 2]  # without a second network evaluation for guidance


@pytest.mark.parametrize("start", ["golden", "standard", "redenoised"])
def test_the_test_compares_scores_of_both_noises(start: Any, tmp_path: Path) -> None:
    method = module(start=start).double()
    trainer = quiet(default_root_dir=tmp_path)
    [logged] = trainer.test(method, data(test_prompts=Texts(5)), verbose=False)
    texts, seeds = ["a", "b", "c", "a", "b"], torch.arange(100, 95, -1)
    standard = method.draw(seeds)
    begun = {"golden": method.latents_for, "redenoised": method.better}.get(start, lambda noise, texts: noise)
    before, after = (brightness(method.images(each, texts), texts) for each in (standard, begun(standard, texts)))
    expected = {"test/brightness": after.mean()}
    if start != "standard":
        expected |= {"test/brightness_of_standard": before.mean()}
        expected |= {"test/winning_rate_brightness": (after > before).double().mean()}
    assert logged == pytest.approx({name: value.item() for name, value in expected.items()}, abs=1e-6)
    batch: Any = {"caption": texts, "seed": seeds}
    columns = method.image_columns(batch, {})
    assert list(columns) == ["standard", "golden", "redenoised"]
    torch.testing.assert_close(columns[start].values, method.images(begun(standard, texts), texts))
    assert columns["standard"].captions[1] == f"b: {before[1]:.2f}"


def test_fid_takes_it_as_a_generator_of_its_prompts(tmp_path: Path) -> None:
    method = module(prompts=["a", "b"])
    images = method.sample(3, torch.Generator().manual_seed(3))
    start = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    texts = ["a", "b", "a"]
    torch.testing.assert_close(images, method.images(method.latents_for(start, texts), texts))
    extractor: dict[str, Any] = {"extractor": nn.Flatten(), "extractor_name": "pixels", "cache_dir": str(tmp_path)}
    fid = FID(num_samples=4, batch_size=2, images=Digits(train_size=70), **extractor)
    trainer = quiet(default_root_dir=tmp_path, callbacks=[fid])
    assert trainer.test(method, data(test_prompts=Texts(2)), verbose=False)[0]["test/fd_pixels_n4"] > 0


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.parametrize(("name", "width"), [("sdxl", 2048), ("dreamshaper", 2048), ("hunyuan_dit", 1024)])
def test_a_training_step_at_full_size_on_the_meta_device(name: str, width: int) -> None:
    """Embeddings on the meta device replace the pipeline, because a pipeline comes with its pretrained weights."""
    embedding = ("--model.model", "tests.diffusion.golden_noise.small.Embedding", "--model.model.width", str(width))
    more = ("--model.rewards", "null", "--data.data_dir", "pairs")
    arguments = ("--config", ROOT / f"configs/golden_noise/{name}.yaml", *embedding, *more)
    built, config = experiments().built(*arguments), experiments().config(*arguments)
    noise = torch.empty(64, 4, 128, 128, device="meta")
    batch = {
        "source": noise,
        "target": noise,
        "caption": ["a"] * 64,
        "index": noise[:, 0, 0, 0],
        "global_batch_size": 64,
    }
    assert take_a_step(built.model, Trainer(config.trainer, built.data), batch).shape == ()
    assert all(parameter.grad is not None for parameter in built.model.network.parameters())


def test_noise_of_other_channels_than_the_pipelines_latents_is_refused(xl: Path) -> None:
    with pytest.raises(ValueError, match="network has noise with 1 channels, but the model's latents have 4"):
        GoldenNoise(npnet(1), TextToImage(str(xl)))
