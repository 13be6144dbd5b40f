import numpy as np
import torch

from datamodules.classification.digits import Digits
from datamodules.restoration.images import ClassifiedImages, PatchStore


def test_every_place_of_an_image_is_cut_equally_often() -> None:
    images = [np.arange(2 * h * w).reshape(2, h, w) + start for start, h, w in ((0, 4, 5), (100, 3, 3), (200, 6, 4))]
    uniform = torch.cartesian_prod(torch.arange(12) / 12, torch.arange(12) / 12)
    for position, image in enumerate(images):
        places = [
            image[:, top : top + 3, left : left + 3] for top, left in np.ndindex(*np.subtract(image.shape[1:], 2))
        ]
        cut = PatchStore(images).crop(torch.full((144,), position), uniform, size=3)
        seen, count = cut.unique(dim=0, return_counts=True)
        np.testing.assert_array_equal(seen, np.unique(places, axis=0))
        assert count.unique().numel() == 1


def test_images_are_those_of_the_classification_set() -> None:
    digits = Digits()
    for split, source in (("training", digits.training()), ("validation", digits.test()), ("test", digits.test())):
        images = ClassifiedImages(digits).images(split)  # type: ignore[arg-type]
        assert images.data_range == 16
        assert np.array_equal(np.stack(images.clean), source.image.numpy())
        assert len(set(images.names)) == len(source.label)
