"""Speed of DPS relative to deepinv, with the same network, mask and number of network evaluations."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from datamodules.corruptions.operators import Inpainting
from lightning_modules.diffusion.dps import dps_guidance
from lightning_modules.diffusion.posterior_sampling import guided_ddim
from lightning_modules.sde.ddim import scheduler_path
from lightning_modules.sde.discrete import scheduler_levels
from tests.benchmarks.pairs import paired_ratio
from tests.benchmarks.peers import peer

pytestmark = pytest.mark.benchmark
STEPS, SIDE = 10, 32


class Counted(nn.Module):
    """A U-Net that counts its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        channels: Any = {"block_out_channels": (32, 64), "norm_num_groups": 8}
        self.network: Any = UNet2DModel(SIDE, 3, 3, layers_per_block=1, **blocks, **channels).requires_grad_(False)
        self.calls = 0

    def forward(self, x: torch.Tensor, t: Any, *_: Any, **__: Any) -> torch.Tensor:
        self.calls += 1
        return self.network(x, torch.as_tensor(t).float().flatten()[:1].expand(len(x))).sample


def test_beside_deepinv(report: Callable[[str, float, str], None]) -> None:
    """deepinv's sampler uses its default precision; the network is in single precision in both cases."""
    deepinv, name = peer("deepinv", "deepinv")
    sampling = peer("deepinv.sampling", "deepinv")[0]
    random = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, SIDE, SIDE, generator=random) < 0.5).expand(4, 3, SIDE, SIDE)
    operator = Inpainting(mask[:, :1])
    clean = torch.rand(4, 3, SIDE, SIDE, generator=random)
    schedule: Any = DDPMScheduler()
    mine, other = Counted(), Counted()
    guidance = partial(dps_guidance, measured=operator.forward(2 * clean - 1), operator=operator, strength=0.3)
    noise = torch.randn(clean.shape, generator=random)
    physics = deepinv.physics.Inpainting(img_size=(3, SIDE, SIDE), mask=mask[0].float())
    sampler = sampling.DPS(other, num_steps=STEPS, dtype=torch.float32)

    def ours() -> torch.Tensor:
        return guided_ddim(mine, noise, scheduler_path(schedule, STEPS), scheduler_levels(schedule), guidance, eta=1.0)

    def theirs() -> torch.Tensor:
        return sampler(physics(clean), physics)

    ratio = paired_ratio(ours, theirs, 5, time.process_time) * other.calls / mine.calls
    report(f"CPU time of an evaluation in DPS, inpainting of {SIDE} x {SIDE} pixels, over {name}", ratio, "<= 1.05")
    assert ratio <= 1.05
