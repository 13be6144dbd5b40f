"""What a model card says of a run."""

import pytest

from experiments.hub.model_card import method_of, task


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("TextToImage", "text-to-image"),
        ("text_to_image.TextToImage", "text-to-image"),
        ("PixArtSigma", "text-to-image"),
        ("QwenImage", "text-to-image"),
        ("text_to_image_pipeline", "text-to-image"),
        ("pixel_space.PixelSpace", "unconditional-image-generation"),
        ("pixel_space.pixel_pipeline", "unconditional-image-generation"),
    ],
)
def test_every_family_of_pipelines_is_text_to_image(network: str, expected: str) -> None:
    method = "lightning_modules.diffusion.finetuning.DiffusionFineTuning"
    path = f"lightning_modules.backbones.diffusion.{network}"
    settings = {
        "model": {"class_path": method, "init_args": {"network": {"class_path": path, "init_args": {}}}},
        "data": {"class_path": "datamodules.prompts.captioned_images.CaptionedImages"},
    }
    assert task(settings, method_of(method)) == expected
