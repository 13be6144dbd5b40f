import pytest
import torch

from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.interpolation.end_points import PairsOfOneClass, PairsOfPhotographs
from datamodules.loading.global_batches import Request
from datamodules.restoration.photographs import Photographs


def test_pairs_are_two_test_images_of_one_class() -> None:
    digits = Digits()
    pairs = PairsOfOneClass(digits, num_pairs=200).pairs(seed=3)
    batch = pairs[Request(torch.arange(len(pairs)), 0, 200)]
    test = digits.test()
    first, second = (torch.tensor([int(name.split("_")[side]) for name in batch["name"]]) for side in (0, 1))
    assert len(pairs) == 200
    assert (first != second).all()
    assert torch.equal(test.label[first], test.label[second])
    assert torch.equal(batch["first"], test.image[first])
    assert torch.equal(batch["second"], test.image[second])
    assert test.label[first].bincount(minlength=10).min() > 8
    again = PairsOfOneClass(digits, num_pairs=200).pairs(seed=3)[Request(torch.arange(200), 0, 200)]
    assert again["name"] == batch["name"]
    assert PairsOfOneClass(digits).pairs(seed=4)[Request(torch.arange(9), 0, 9)]["name"] != batch["name"][:9]


def test_pairs_of_photographs_are_the_named_ones() -> None:
    photographs = PairsOfPhotographs([("chelsea", "coffee"), ("moon", "chelsea")], image_size=16)
    assert photographs.image_shape == (3, 16, 16)
    batch = photographs.pairs(seed=0)[Request(torch.tensor([1, 0]), 0, 2)]
    assert batch["name"] == ["moon_chelsea", "chelsea_coffee"]
    assert torch.equal(batch["second"][0], batch["first"][1])
    expected = Photographs(16, colour=True, tested=("coffee",)).images("test").stored[0]
    assert torch.equal(batch["second"][1], torch.from_numpy(expected))
    with pytest.raises(ValueError, match="names must be"):
        PairsOfPhotographs([("chelsea", "dog")])


class Different(ImageSet):
    num_classes, image_shape = 3, (1, 2, 2)

    def training(self) -> ImagesInMemory:
        return ImagesInMemory(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3))

    test = training


def test_what_has_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="no class has two test images"):
        PairsOfOneClass(Different()).pairs(0)
