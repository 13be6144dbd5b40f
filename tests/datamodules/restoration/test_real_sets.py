"""The published datasets, if they are available."""

import math
from typing import Any

import pytest
import torch

from datamodules.loading.one_size_batches import OneSizeBatches
from datamodules.restoration.camera_pairs import CC, SIDD, PolyU
from datamodules.restoration.folder_sets import BSD68, CBSD68, Train400
from datamodules.restoration.image_pairs import ImagePairs

pytestmark = pytest.mark.data


def mean_psnr(data: ImagePairs) -> float:
    """Compute the mean PSNR of the noisy images, without clipping or rounding them."""
    data.setup("test")
    (images,) = data.test_sets.values()
    batches = [images[request] for request in OneSizeBatches(images.sizes, 1)]
    scaled = [tuple(batch[key].double() for key in ("noisy", "clean")) for batch in batches]
    errors = [
        float((y / (255 if not batch["noisy"].is_floating_point() else 1) - x / 255).square().mean())
        for batch, (y, x) in zip(batches, scaled, strict=True)
    ]
    return float(torch.tensor([-10 * math.log10(error) for error in errors]).mean())


@pytest.mark.parametrize(("kind", "low", "high"), [(CC, 33, 36), (PolyU, 35, 38), (SIDD, 22, 32)])
def test_real_pairs_show_the_same_scene(kind: Any, low: float, high: float) -> None:
    assert low < mean_psnr(ImagePairs(test=kind())) < high


def test_grey_images_are_the_coloured_ones() -> None:
    grey, colour = BSD68().images("test"), CBSD68(colour=False).images("test")
    for one, other in zip(grey.stored, colour.stored, strict=True):
        assert abs(one.astype(int) - other.astype(int)).max() <= 1
    assert len(Train400().images("training").names) == 400
