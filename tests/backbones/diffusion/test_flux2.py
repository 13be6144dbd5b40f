"""FLUX.2 matches plain diffusers, is trained with its pipeline's inputs, and is saved in the diffusers format."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.flux2 import Flux2
from lightning_modules.diffusion.golden_noise.redenoising import flow_levels
from tests.backbones.diffusion.family_checks import (
    noise,
)


def patches(latent: Tensor) -> Tensor:
    """Arrange the four pixels of each 2 x 2 patch as channels, and return `[B, 4 c, h / 2, w / 2]`."""
    return torch.nn.functional.pixel_unshuffle(latent, 2)


@pytest.mark.parametrize("name", ["flux2", "flux2_klein"])
def test_latents_have_a_pixel_for_each_patch(name: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(name))
    model = Flux2(folder)
    assert Flux2.size_multiple_before_loading(folder) == 4
    assert model.latent_shape(3, 16, 32) == (3, 16, 4, 8)
    assert model.takes_negative_prompts == (name == "flux2_klein")
    levels = flow_levels(model, model.latent_shape(1, 16, 16)[1:], 3)
    model.generate(model.encode_prompts(["a"]), noise(model, 1, 16), 3, 1.0)
    torch.testing.assert_close(levels, model.scheduler.sigmas.double().numpy(), atol=1e-6, rtol=0)


def test_latents_are_normalised_by_channel_of_a_patch(flux2: Path) -> None:
    model = Flux2(str(flux2))
    image, draw = torch.rand(2, 3, 16, 16), noise(model, 2, 16)
    vae = model.pipeline.vae
    torch.testing.assert_close(model.encode(image), model.pipeline._encode_vae_image(2 * image - 1, None))
    posterior = vae.encode(2 * image - 1).latent_dist
    z = vae.bn(patches(posterior.mean) + patches(posterior.std) * draw)  # in evaluation mode
    torch.testing.assert_close(model.encode(image, draw), z)
    torch.testing.assert_close(model.decode(model.encode(image)), (vae.decode(posterior.mean).sample + 1) / 2)


def test_adapters_change_the_fused_layers_of_attention(flux2_klein: Path) -> None:
    model = Flux2(str(flux2_klein), tuning="lora", adapters=Adapters(rank=2))
    adapted = {name.partition(".lora_")[0] for name, _ in model.network.named_parameters() if "lora_" in name}
    single = {name.partition(".attn.")[2] for name in adapted if name.startswith("single")}
    assert single == {"to_qkv_mlp_proj", "to_out"}
