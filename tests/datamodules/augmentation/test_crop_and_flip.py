import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as transforms

from datamodules.augmentation.crop_and_flip import crop_and_flip
from datamodules.randomness.counter import sample_uniform


def images(count: int, size: int = 32, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crops_are_torchvisions_at_the_same_place(padding: int, dtype: torch.dtype) -> None:
    image = images(200, size=8).to(dtype)
    uniform = sample_uniform(1, 0, torch.arange(200), count=3)
    found = crop_and_flip(image, uniform, padding)
    for one, (row, column, mirror), got in zip(image, uniform.tolist(), found, strict=True):
        padded = transforms.pad(one, [padding])
        expected = transforms.crop(padded, int(row * (2 * padding + 1)), int(column * (2 * padding + 1)), 8, 8)
        expected = transforms.hflip(expected) if mirror < 0.5 else expected
        assert torch.equal(got, expected)
    assert found.dtype == dtype


def test_images_need_not_be_square_and_mirroring_can_be_off() -> None:
    image = images(5)[:, :1, :6, :9]
    uniform = torch.tensor([[0.0, 0.0, 0.0], [0.999, 0.999, 0.0], [0.5, 0.5, 0.0], [0.0, 0.999, 0.9], [0.4, 0.0, 0.1]])
    found = crop_and_flip(image, uniform, padding=2, flip=False)
    assert found.shape == image.shape
    assert torch.equal(found[2], image[2])
    assert torch.equal(found[0, :, 2:, 2:], image[0, :, :-2, :-2])
    assert not found[0, :, :2].any()
    assert torch.equal(found[1, :, :-2, :-2], image[1, :, 2:, 2:])
