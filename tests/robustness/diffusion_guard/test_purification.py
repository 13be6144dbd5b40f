import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import median_filter

from lightning_modules.robustness.diffusion_guard import JPEG, CropAndResize, MedianFilter
from lightning_modules.robustness.diffusion_guard.attack import Defence
from lightning_modules.robustness.diffusion_guard.purification import Purification
from tests.robustness.diffusion_guard.linear_inpainter import LinearInpainter, guarding

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels: int) -> None:
    image, keep = torch.rand(2, channels, 16, 24, generator=GENERATOR), torch.ones(2, 1, 16, 24)
    found, mask = JPEG(quality=40)(image, keep)
    for row in range(2):
        memory = io.BytesIO()
        levels = (image[row] * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(levels).save(memory, "JPEG", quality=40)
        expected = np.asarray(Image.open(memory)).reshape(16, 24, channels) / 255
        np.testing.assert_allclose(found[row].permute(1, 2, 0), expected, atol=1e-6)
    assert mask is keep


def test_the_median_is_that_of_scipy() -> None:
    image = torch.rand(2, 3, 7, 9, generator=GENERATOR, dtype=torch.float64)
    found, _ = MedianFilter(size=5)(image, image[:, :1])
    for row in range(2):
        for channel in range(3):
            expected = median_filter(image[row, channel].numpy(), 5, mode="mirror")
            np.testing.assert_array_equal(found[row, channel], expected)


def test_the_mask_is_cropped_with_its_image() -> None:
    """An image has two flat halves, split at the mask's edge: after the crop, the mask still ends at the edge."""
    keep = torch.zeros(1, 1, 20, 20)
    keep[..., :8] = 1
    image, mask = CropAndResize(fraction=0.8)(keep.expand(1, 3, 20, 20), keep)
    assert image.shape == (1, 3, 20, 20)
    assert mask.unique().tolist() == [0, 1]
    # Columns 2 to 17 are kept, so the edge at column 8 moves to (8 - 2) * 20 / 16 = 7.5.
    assert float(mask[0, 0, 0].sum()) in (7, 8)
    torch.testing.assert_close(image[0, 0, :, :6], torch.ones(20, 6))
    torch.testing.assert_close(image[0, 0, :, 10:], torch.zeros(20, 10))
    same, whole = CropAndResize(fraction=1.0)(image, mask)
    torch.testing.assert_close(same, image)
    assert torch.equal(whole, mask)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MedianFilter(4), "size"),
        (lambda: guarding(LinearInpainter(), purification={"unseen": JPEG()}), "purification"),
        (lambda: guarding(LinearInpainter(), purification={"a.b": JPEG()}), "purification"),
        (lambda: guarding(LinearInpainter(), purification={"a": JPEG()}, defences={"a": Defence()}), "defences"),
        (lambda: guarding(LinearInpainter(), defences={"late": Defence(timestep=1000)}), "timestep"),
    ],
)
def test_bad_arguments_are_named(make: Any, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()


def test_every_operation_keeps_the_shape_and_the_range() -> None:
    image, keep = torch.rand(2, 1, 16, 16, generator=GENERATOR), torch.ones(2, 1, 16, 16)
    operations: list[Purification] = [JPEG(), CropAndResize(), MedianFilter()]
    for operation in operations:
        found, mask = operation(image, keep)
        assert found.shape == image.shape
        assert mask.shape == keep.shape
        assert found.min() >= 0
        assert found.max() <= 1
