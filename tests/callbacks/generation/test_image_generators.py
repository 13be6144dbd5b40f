"""Pipelines are called as diffusers calls them, settings reach the module, and unsupported options are rejected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image

from callbacks.generation.image_generators import ModuleGenerator, PipelineGenerator, Settings
from callbacks.generation.image_requests import ImageRequest
from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline
from lightning_modules.backbones.diffusion.pixel_space import pixel_pipeline
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.noise_diffusion.interpolated_files import InterpolationSteps
from tests.callbacks.generation.tiny_generator import TinyGenerator
from tests.diffusion.finetuning.models import tuning

PROMPTED = [ImageRequest("0", 3, "a cat"), ImageRequest("1", 8, "dog")]
PLAIN = [ImageRequest("0", 3), ImageRequest("1", 8)]
CLASSES = [ImageRequest("0", 3, label=1), ImageRequest("1", 8, label=0)]


def seeded(*seeds: int) -> Any:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.atleast_3d(np.asarray(each)) for each in images]).transpose(0, 3, 1, 2)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    bytes_ = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(bytes_).save(tmp_path / "picture.png")
    Image.fromarray(np.repeat(np.array([0, 255], np.uint8), 8)[None].repeat(16, 0)).save(tmp_path / "mask.png")
    return tmp_path / "picture.png"


def test_a_batch_of_a_pipeline_has_a_seed_for_each_image(text_to_image: Path) -> None:
    settings = Settings(steps=2, guidance=3.0, height=8, width=24)
    generator = PipelineGenerator(diffusers_pipeline(str(text_to_image)), settings)
    generator.check(PROMPTED)
    [found] = generator.images(PROMPTED)
    alone = diffusers_pipeline(str(text_to_image))
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 8, "width": 24}
    np.testing.assert_array_equal(found, pixels(alone(["a cat", "dog"], generator=seeded(3, 8), **options).images))
    second = pixels(alone("dog", generator=seeded(8), **options).images)
    np.testing.assert_allclose(found[1:].astype(int), second, atol=1)  # batches of one image round differently
    config = generator.settings()["scheduler"]
    assert (config["class"], config["beta_end"]) == ("DDIMScheduler", "0.012")
    assert not any(key.startswith("_") for key in config)


def test_an_image_leads_to_image_to_image_and_a_mask_to_inpainting(text_to_image: Path, picture: Path) -> None:
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

    image, mask = Image.open(picture), Image.open(picture.with_name("mask.png"))
    for settings, auto, given in (
        (Settings(4, image=picture, strength=0.5), AutoPipelineForImage2Image, {"image": image}),
        (
            Settings(4, image=picture, mask=picture.with_name("mask.png"), strength=0.5),
            AutoPipelineForInpainting,
            {"image": image, "mask_image": mask},
        ),
    ):
        generator = PipelineGenerator(diffusers_pipeline(str(text_to_image)), settings)
        generator.check(PROMPTED[:1])
        [found] = generator.images(PROMPTED[:1])
        alone: Any = auto.from_pipe(diffusers_pipeline(str(text_to_image)))  # type: ignore[attr-defined]
        expected = alone("a cat", num_inference_steps=4, strength=0.5, generator=seeded(3), **given).images
        np.testing.assert_array_equal(found, pixels(expected))
        assert "image_digest" in generator.settings()


def test_an_unconditional_pipeline_takes_no_prompts(unconditional: Path) -> None:
    generator = PipelineGenerator(diffusers_pipeline(str(unconditional)), Settings(steps=2))
    generator.check(PLAIN)
    [found] = generator.images(PLAIN)
    assert found.shape == (2, 1, 8, 8)
    alone = diffusers_pipeline(str(unconditional))
    np.testing.assert_array_equal(
        found, pixels(alone(batch_size=2, num_inference_steps=2, generator=seeded(3, 8)).images)
    )
    with pytest.raises(ValueError, match=r"--prompts: not an option of DD.MPipeline"):
        generator.check(PROMPTED)
    for settings in (Settings(guidance=2.0), Settings(negative_prompt="grey"), Settings(pairs=True)):
        with pytest.raises(ValueError, match=r"not an option of DD.MPipeline"):
            PipelineGenerator(diffusers_pipeline(str(unconditional)), settings)


def test_wrong_options_of_a_pipeline_are_named(text_to_image: Path, unconditional: Path, picture: Path) -> None:
    generator = PipelineGenerator(diffusers_pipeline(str(text_to_image)), Settings())
    with pytest.raises(ValueError, match="StableDiffusionPipeline needs --prompts"):
        generator.check(PLAIN)
    with pytest.raises(ValueError, match="--classes: not an option of StableDiffusionPipeline"):
        generator.check(CLASSES)
    with pytest.raises(ValueError, match=r"DD.MPipeline has no pipeline for image-to-image"):
        PipelineGenerator(diffusers_pipeline(str(unconditional)), Settings(image=picture))
    (picture.with_name("broken.png")).write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"broken.png cannot be read as an image"):
        PipelineGenerator(diffusers_pipeline(str(text_to_image)), Settings(image=picture.with_name("broken.png")))
    for wrong, message in (
        ({"steps": 0}, r"steps must be in \[1, 10000\], got 0"),
        ({"guidance": -1.0}, r"guidance must be in \[0, 1000\], got -1"),
        ({"height": 10**6}, r"height must be in \[1, 16384\], got 1000000"),
        ({"mask": picture}, "--mask needs --image"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(**wrong)  # type: ignore[arg-type]


def test_settings_reach_a_fine_tuned_model(text_to_image: Path) -> None:
    module = tuning(TextToImage(str(text_to_image), tuning="lora"))
    generator = ModuleGenerator(module, Settings(steps=3, guidance=2.0, negative_prompt="grey"))
    generator.check(PROMPTED)
    [found] = generator.images(PROMPTED[:1])
    noise = torch.randn(1, 4, 8, 8, generator=seeded(3))
    alone = diffusers_pipeline(str(text_to_image))
    expected = alone(
        "a cat", negative_prompt="grey", latents=noise, num_inference_steps=3, guidance_scale=2.0, output_type="pt"
    ).images
    np.testing.assert_allclose(found.astype(int), (255 * expected).to(torch.uint8).numpy().astype(int), atol=1)
    assert {"steps": 3, "guidance": 2.0, "negative_prompt": "grey"}.items() <= generator.settings().items()
    assert generator.seed_per_image
    both = generator.images(PROMPTED)[0].astype(int)
    np.testing.assert_allclose(both[:1], found.astype(int), atol=1)  # batches of one image round differently
    np.testing.assert_allclose(both[1:], generator.images(PROMPTED[1:])[0].astype(int), atol=1)
    plain = ModuleGenerator(tuning(TextToImage(str(text_to_image), tuning="lora")), Settings(steps=3, guidance=2.0))
    assert (plain.images(PROMPTED[:1])[0] != found).any()


@pytest.mark.parametrize("trained", [None, (8, 40)])
@pytest.mark.parametrize("given", [{}, {"height": 24}, {"width": 32}, {"height": 24, "width": 32}])
def test_a_fine_tuned_model_samples_the_size_of_its_training_or_the_given_one(
    trained: tuple[int, int] | None, given: dict[str, int], text_to_image: Path
) -> None:
    network = TextToImage(str(text_to_image), tuning="lora")
    generator = ModuleGenerator(tuning(network), Settings(steps=1, guidance=2.0, **given), None, trained)
    size = {"height": (trained or (16, 16))[0], "width": (trained or (16, 16))[1]} | given
    assert size.items() <= generator.settings().items()
    [found] = generator.images(PROMPTED[:1])
    noise = torch.randn(1, 4, size["height"] // 2, size["width"] // 2, generator=seeded(3))
    options: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 2.0, **size}
    expected = diffusers_pipeline(str(text_to_image))("a cat", latents=noise, output_type="pt", **options).images
    np.testing.assert_allclose(found.astype(int), (255 * expected).to(torch.uint8).numpy().astype(int), atol=1)


def test_sizes_that_would_not_be_used_are_rejected(
    text_to_image: Path, unconditional: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tuning(TextToImage(str(text_to_image), tuning="lora"))
    with pytest.raises(ValueError, match="--width must be a multiple of 2 for DiffusionFineTuning, got 15"):
        ModuleGenerator(module, Settings(width=15))
    with pytest.raises(ValueError, match="--height: not an option of DiffusionFineTuning"):
        ModuleGenerator(tuning(pixel_pipeline(str(unconditional))), Settings(height=8))
    for one in ({"height": 8}, {"width": 8}):
        with pytest.raises(ValueError, match="--height and --width belong together"):
            PipelineGenerator(diffusers_pipeline(str(text_to_image)), Settings(**one))  # type: ignore[arg-type]
    pipeline = diffusers_pipeline(str(text_to_image))
    generator = PipelineGenerator(pipeline, Settings(height=32, width=32, steps=1))
    call = type(pipeline).__call__
    monkeypatch.setattr(type(pipeline), "__call__", lambda self, **given: call(self, **{**given, "height": 24}))
    with pytest.raises(ValueError, match="rounds the size 32 x 32 to 24 x 32: give this --height and --width"):
        generator.images(PROMPTED[:1])


def test_a_fine_tuned_model_without_texts_takes_no_prompts(unconditional: Path) -> None:
    module = tuning(pixel_pipeline(str(unconditional)))
    generator = ModuleGenerator(module, Settings(steps=2))
    generator.check(PLAIN)
    assert generator.images(PLAIN)[0].shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="--prompts: not an option of DiffusionFineTuning"):
        generator.check(PROMPTED)
    with pytest.raises(ValueError, match="--guidance: not an option of DiffusionFineTuning"):
        ModuleGenerator(module, Settings(guidance=2.0))


class OfClasses(TinyGenerator):
    """A generator that paints each class in a different grey level."""

    generated_classes = 2

    def sample(
        self, n: int, generator: torch.Generator | None = None, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert label is not None
        return label.view(-1, 1, 1, 1).expand(n, 1, 2, 2) / 2


def test_classes_reach_a_class_conditional_model() -> None:
    generator = ModuleGenerator(OfClasses(), Settings())
    generator.check(CLASSES)
    [found] = generator.images(CLASSES)
    assert found[:, 0, 0, 0].tolist() == [127, 0]
    with pytest.raises(ValueError, match=r"--classes must be in 0 ... 1 for OfClasses, got 2"):
        generator.check([ImageRequest("0", 3, label=2)])


class Interpolates(InterpolationSteps, LightningModule): ...


def test_what_is_no_generator_says_so() -> None:
    with pytest.raises(ValueError, match="LightningModule does not generate images: it has no method sample"):
        ModuleGenerator(LightningModule(), Settings())
    with pytest.raises(ValueError, match="Interpolates generates images only from pairs of its test set: run"):
        ModuleGenerator(Interpolates(), Settings())
