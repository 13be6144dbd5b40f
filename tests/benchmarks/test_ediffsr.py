"""Costs of EDiffSR: its network relative to SR3's, and its network's share of the time."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.networks.eanet import EANet
from lightning_modules.restoration.ediffsr import EDiffSR
from lightning_modules.sde.mean_reverting import MeanReverting
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


def test_the_network_takes_the_time_of_sampling(report: Report) -> None:
    module = EDiffSR(EANet(), MeanReverting(8), sampler="euler").eval()
    inside: list[float] = []
    module.network.register_forward_pre_hook(lambda *_: inside.append(-time.process_time()))
    module.network.register_forward_hook(lambda *_: inside.append(time.process_time()))
    small = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        module.restore(small[..., :8, :8], torch.Generator().manual_seed(0))
        inside.clear()
        start = time.process_time()
        module.restore(small, torch.Generator().manual_seed(0))
    share = sum(inside) / (time.process_time() - start)
    assert len(inside) == 2 * 8
    report("network's share of EDiffSR's sampling (euler), the paper's network, 64 x 64 pixels", share, ">= 0.95")
    assert share >= 0.95


def test_the_network_costs_less_than_that_of_sr3(report: Report) -> None:
    """SR3's network is that for 256 x 256 pixels: 64 channels times 1, 2, 4, 8, 8; two blocks; attention at 16 x 16."""
    ours, theirs = EANet().eval(), sr3().eval()
    numbers = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, theirs)]
    report("parameters of EDiffSR's network over those of SR3's", numbers[0] / numbers[1], "< 1")
    operations = []
    for network in (EANet, sr3):
        with torch.device("meta"):
            built, both = network(), torch.rand(2, 1, 3, 256, 256)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                noise_of(built)(*both)
        operations.append(counter.get_total_flops())
    share = operations[0] / operations[1]
    report("operations of EDiffSR's network over those of SR3's, 256 x 256 pixels", share, "< 1")
    image = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        ratio = paired_ratio(
            lambda: noise_of(ours)(*image), lambda: noise_of(theirs)(*image), rounds=3, clock=time.process_time
        )
    report("CPU time of EDiffSR's network over that of SR3's, 64 x 64 pixels", ratio, "< 1")
    assert numbers[0] < numbers[1]
    assert share < 1


def sr3() -> UNet2DModel:
    kinds = 4 * ["{}Block2D"] + ["Attn{}Block2D"]
    return UNet2DModel(
        in_channels=6,
        out_channels=3,
        down_block_types=[kind.format("Down") for kind in kinds],
        up_block_types=[kind.format("Up") for kind in reversed(kinds)],
        block_out_channels=(64, 128, 256, 512, 512),
        layers_per_block=2,
        attention_head_dim=None,
    )


def noise_of(network: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the noise that a network predicts at step 50 from a state and a degraded image."""
    if isinstance(network, EANet):
        return lambda x, degraded: network(x, degraded, 50)
    time = torch.tensor(50)
    return lambda x, degraded: network(torch.cat([x, degraded], dim=1), time).sample
