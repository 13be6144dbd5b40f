"""Speed of large images in tiles, compared with the same network on the whole image."""

from collections.abc import Callable

import pytest
import torch

from lightning_modules.backbones.tiled import tiled
from lightning_modules.networks.dncnn import DnCNN
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark


@torch.no_grad()
def test_pixels_in_a_second(report: Callable[[str, float, str], None]) -> None:
    """The image consists of four tiles, which overlap by twice the reach of the network."""
    network = DnCNN(depth=6, features=32).eval()
    tile, overlap = 256, 12
    side = 2 * tile - overlap
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiled(network, image, tile, overlap), network(image), atol=1e-5, rtol=0)
    ratio = paired_ratio(lambda: network(image), lambda: tiled(network, image, tile, overlap), rounds=5)
    report(f"pixels in a second in tiles of {tile}, of those of a whole image of {side} x {side}", ratio, ">= 0.9")
    assert ratio >= 0.9
