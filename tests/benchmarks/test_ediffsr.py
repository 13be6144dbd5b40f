"""What part of making a large image the network of EDiffSR takes, and what tiles cost beside the whole image."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.networks.eanet import EANet
from lightning_modules.restoration.ediffsr import EDiffSR
from lightning_modules.sde.mean_reverting import MeanReverting
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


@pytest.mark.parametrize("sampler", ["euler", "posterior"])
def test_the_network_takes_the_time_of_sampling(sampler: Any, report: Report) -> None:
    module = EDiffSR(EANet(), MeanReverting(8), sampler=sampler).eval()
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
    report(f"network's share of EDiffSR's sampling ({sampler}), the paper's network, 64 x 64 pixels", share, ">= 0.95")
    assert share >= 0.95


def test_tiles_cost_what_overlaps(report: Report) -> None:
    network, small = EANet(width=16, encoder=[2], decoder=[1]), torch.rand(1, 3, 32, 32)
    ways = TiledInference(tile=80, overlap=16), TiledInference()
    tiled, whole = (EDiffSR(network, MeanReverting(4), inference=way).eval() for way in ways)

    def sampling(module: EDiffSR) -> Callable[[], object]:
        return lambda: module.restore(small, torch.Generator().manual_seed(0))

    with torch.no_grad():
        ratio = paired_ratio(sampling(tiled), sampling(whole), rounds=3, clock=time.process_time)
    report("EDiffSR of 128 x 128 pixels by four tiles of 80 over the whole image", ratio, "<= 2")
    assert ratio <= 2  # of the pixels it is 1.56
