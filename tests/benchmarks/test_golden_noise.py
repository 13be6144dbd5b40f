"""Cost of the paper's NPNet, relative to generating an image with the U-Net of Stable Diffusion 1.5."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from lightning_modules.backbones import timm_model
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.golden_noise import NPNet
from tests.benchmarks.pairs import medians, seconds

pytestmark = pytest.mark.benchmark
STEPS = 50


@torch.no_grad()
def test_npnet_beside_fifty_guided_steps(report: Callable[[str, float, str], None]) -> None:
    """NPNet has the size for SDXL, but the U-Net has a third of SDXL's parameters, so the ratio is an upper bound."""
    features = timm_model("swin_tiny_patch4_window7_224", num_classes=0, normalize=False)
    network = NPNet([4, 128, 128], 77 * 2048, features).eval()
    nn.init.constant_(network.beta, 0.1)
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    unet = unet.to_empty(device="cpu").eval()
    for parameter in unet.parameters():  # the time does not depend on the values
        nn.init.zeros_(parameter)
    noise, prompts = torch.randn(1, 4, 128, 128), Prompts(torch.randn(1, 77, 2048))
    latent, text = torch.randn(1, 4, 64, 64), torch.randn(1, 77, 768)
    works: dict[str, Callable[[], float]] = {
        "npnet": lambda: seconds(lambda: network(noise, prompts), time.process_time),
        "unet": lambda: seconds(lambda: unet(latent, 500, encoder_hidden_states=text), time.process_time),
    }
    found = medians(works, rounds=3)
    ratio = found["npnet"] / (2 * STEPS * found["unet"])
    report(
        "CPU time of NPNet for SDXL over 50 guided steps of Stable Diffusion 1.5 (the paper: 0.03)", ratio, "<= 0.03"
    )
    assert ratio <= 0.03
