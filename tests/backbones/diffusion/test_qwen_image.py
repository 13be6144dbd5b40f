"""The latents of Qwen-Image are normalised as in its pipeline."""

from pathlib import Path

import torch

from lightning_modules.backbones.diffusion.qwen_image import QwenImage
from tests.backbones.diffusion.family_checks import QWEN_DEVIATION as DEVIATION
from tests.backbones.diffusion.family_checks import QWEN_MEAN as MEAN
from tests.backbones.diffusion.family_checks import noise


def test_latents_are_normalised_by_channel(qwen_image: Path) -> None:
    model = QwenImage(str(qwen_image))
    image, draw = torch.rand(2, 3, 32, 32), noise(model, 2, 32)
    posterior = model.pipeline.vae.encode((2 * image - 1)[:, :, None]).latent_dist
    expected = ((posterior.mean + posterior.std * draw[:, :, None])[:, :, 0] - MEAN) / DEVIATION
    torch.testing.assert_close(model.encode(image, draw), expected)
    decoded = model.pipeline.vae.decode((expected * DEVIATION + MEAN)[:, :, None]).sample[:, :, 0]
    torch.testing.assert_close(model.decode(expected), (decoded + 1) / 2)
    assert model.latent_shape(3, 32, 64) == (3, 4, 8, 16)
