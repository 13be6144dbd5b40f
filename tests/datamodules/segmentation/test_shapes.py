from typing import Any

import torch

from datamodules.segmentation.shapes import LARGEST_IMAGE, Shapes, grey_photographs


def test_shapes_are_drawn_by_their_seed_alone() -> None:
    drawn: list[Any] = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        one = Shapes(num_train=6, num_val=2, num_test=3).prepare(seed)
        drawn.append([one.training(), one.validation(), one.test()])
    for first, same, other in zip(*drawn, strict=True):
        assert torch.equal(first.image, same.image)
        assert torch.equal(first.given, same.given)
        assert not torch.equal(first.image, other.image)
    images = torch.cat([part.image for part in drawn[0]])
    assert len(images.flatten(start_dim=1).unique(dim=0)) == 11


def test_shapes_are_brighter_and_darker_than_what_is_behind() -> None:
    source = Shapes(num_train=40, noise_level=0.0).training()
    image, mask = source.image[:, 0].double() / 255, source.given
    assert source.clean is None
    assert (image[mask == 1].mean() - image[mask == 0].mean()) > 0.25
    assert (image[mask == 0].mean() - image[mask == 2].mean()) > 0.25
    pixels = [(mask == category).sum(dim=(1, 2)) for category in (1, 2)]
    assert min(int(count.min()) for count in pixels[1:]) >= (0.2 * 40 - 1) ** 2  # the square is never covered
    assert all(int(count.max()) <= (0.4 * 40 + 1) ** 2 for count in pixels)
    assert image.shape == mask.shape == (40, 40, 40)


def test_the_largest_image_is_what_every_photograph_can_show() -> None:
    assert min(side for photograph in grey_photographs() for side in photograph.shape) == LARGEST_IMAGE
    Shapes(num_train=30, image_size=LARGEST_IMAGE).training()
