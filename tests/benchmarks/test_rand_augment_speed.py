"""Speed of RandAugment on a batch, relative to torchvision on single tensors and to timm on single PIL images."""

import time
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image, to_tensor

from lightning_modules.views.rand_augment import RandAugment, TimmRandAugment
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
SHAPES = [(16, 224), (128, 32)]
RECIPE = "rand-m9-inc1"


def images(count: int, side: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("count", "side"), SHAPES)
def test_beside_torchvision(count: int, side: int, report: Report) -> None:
    """Both libraries convert uint8 to floats in [0, 1], and draw a separate operation for each image."""
    ours, theirs, batch = RandAugment(2, 9), v2.RandAugment(2, 9), images(count, side)
    to_float = v2.ToDtype(torch.float32, scale=True)
    ratio = paired_ratio(
        lambda: ours(batch / 255), lambda: [to_float(theirs(each)) for each in batch], 9, time.process_time
    )
    name = f"torchvision {torchvision.__version__.split('+')[0]}'s v2"
    report(f"CPU time of RandAugment of {count} images of {side} pixels over {name}", ratio, "<= 1")
    assert ratio <= 1


@pytest.mark.parametrize(("count", "side"), SHAPES)
def test_beside_timm(count: int, side: int, report: Report) -> None:
    """timm processes 8-bit PIL images; our operations process floats, and interpolate them without rounding."""
    ours, batch = TimmRandAugment(RECIPE), images(count, side)
    theirs = rand_augment_transform(RECIPE, {"img_mean": (128, 128, 128)})
    pil = [to_pil_image(each) for each in batch]
    ratio = paired_ratio(
        lambda: ours(batch / 255), lambda: torch.stack([to_tensor(theirs(each)) for each in pil]), 9, time.process_time
    )
    name = f"timm {timm.__version__} on PIL"
    report(f"CPU time of timm's RandAugment of {count} images of {side} pixels over {name}", ratio, "<= 1")
    assert ratio <= 1
