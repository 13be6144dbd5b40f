from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, UNet2DModel

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace, pixel_pipeline
from tests.diffusion.finetuning.models import pixel_space


def test_it_draws_what_diffusers_pipeline_draws(unconditional: Path) -> None:
    model = pixel_pipeline(str(unconditional)).eval()
    alone = DDIMPipeline.from_pretrained(unconditional)
    seed = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    noise = torch.randn(model.latent_shape(2), generator=seed())
    expected = alone(
        batch_size=2, generator=seed(), num_inference_steps=5, output_type="np", use_clipped_model_output=False
    )
    drawn = model.generate(noise, 5).movedim(1, 3)
    torch.testing.assert_close(drawn, torch.from_numpy(expected.images).view_as(drawn), atol=1e-4, rtol=0)


def test_adapters_are_trained_alone(unconditional: Path) -> None:
    model = pixel_pipeline(str(unconditional), tuning="lora", adapters=Adapters(rank=2, targets=["to_q", "to_v"]))
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_networks_of_other_shapes_are_refused() -> None:
    options: dict[str, Any] = {
        "block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
        "norm_num_groups": 4, "layers_per_block": 1, "add_attention": False,
    }  # fmt: skip
    with pytest.raises(ValueError, match="UNet2DModel needs a config with a sample_size and as many output as input"):
        PixelSpace(UNet2DModel(**options), pixel_space().scheduler)
    assert PixelSpace(UNet2DModel(**options), pixel_space().scheduler, [3, 4, 4]).latent_shape(2) == (2, 3, 4, 4)
