"""Marigold equals the diffusers pipeline, with a separate generator for each image."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, MarigoldNormalsPipeline

from lightning_modules.diffusion.stable_normal import Marigold
from tests.diffusion.stable_normal.small import batch
from tests.tiny_pipelines import (
    STABLE_DIFFUSION,
    VOCABULARY,
    autoencoder,
    conditional_unet,
    save_tokenizer,
    text_encoder,
)


def saved(folder: Path) -> str:
    folder.mkdir()
    torch.manual_seed(0)
    scheduler = DDIMScheduler(**STABLE_DIFFUSION, prediction_type="v_prediction", clip_sample=False)
    MarigoldNormalsPipeline(
        unet=conditional_unet(8), vae=autoencoder(), scheduler=scheduler, text_encoder=text_encoder(VOCABULARY, 16),
        tokenizer=save_tokenizer(folder, VOCABULARY, 16), prediction_type="normals", default_denoising_steps=2,
        default_processing_resolution=12,
    ).save_pretrained(folder / "saved")  # fmt: skip
    return str(folder / "saved")


def test_normals_are_those_of_diffusers_for_each_image(text_to_image: Path, tmp_path: Path) -> None:
    """The size is kept, an image does not depend on its batch, and ensemble noise uses the image's generator."""
    folder = saved(tmp_path / "marigold")
    alone = DiffusionPipeline.from_pretrained(folder)
    alone.set_progress_bar_config(disable=True)
    image = batch(3, 10)["image"].float()[..., :9]
    for ensemble in (1, 3):
        module = Marigold(folder, ensemble=ensemble)
        found = module.normals(image, [torch.Generator().manual_seed(seed) for seed in range(3)])
        assert found.shape == image.shape
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3, 10, 9))
        for row in range(3):
            generator = [torch.Generator().manual_seed(row)] * ensemble
            expected = alone(
                image[row : row + 1], ensemble_size=ensemble, generator=generator, batch_size=3, output_type="pt"
            ).prediction
            torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=1e-4)
    assert not module.state_dict()
    assert not any(parameter.requires_grad for parameter in module.parameters())
    with pytest.raises(ValueError, match=r"_class_name of .* must be of class MarigoldNormalsPipeline"):
        Marigold(str(text_to_image))
    with pytest.raises(ValueError, match="Marigold is not trained here: use test or predict"):
        module.setup("fit")
