"""Reading and rejections of MedMNIST's files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.classification.image_sets import ImagesInMemory, NoisyImages, UnequalClasses
from datamodules.classification.mnist import JoinedMedMNIST, MedMNIST
from datamodules.corruptions.image_noise import SmoothMask


class TrueLabels(MedMNIST):
    """A dataset whose labels are partly wrong, and whose splits contain only class 1 of the two true classes."""

    def _read(self, split: str) -> ImagesInMemory:
        source = super()._read(split)
        source.clean_label, source.classes = torch.ones_like(source.label), torch.tensor([1])
        return source


def written(folder: Path, **arrays: np.ndarray) -> str:
    """Write the file of a small set."""
    random = np.random.default_rng(0)
    kept = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        kept[f"{split}_images"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        kept[f"{split}_labels"] = np.sort(random.integers(0, 2, (count, 1), dtype=np.uint8), axis=0)
    folder.mkdir()
    np.savez(folder / f"{folder.name}.npz", **(kept | arrays))
    return str(folder.parent)


def test_splits_are_read_in_their_own_order(tmp_path: Path) -> None:
    images = MedMNIST("small", 2, written(tmp_path / "small"))
    with np.load(tmp_path / "small" / "small.npz") as arrays:
        for split, source in (("train", images.training()), ("val", images.validation()), ("test", images.test())):
            assert np.array_equal(source.image[:, 0].numpy(), arrays[f"{split}_images"])
            assert source.label.tolist() == arrays[f"{split}_labels"][:, 0].tolist()
    assert images.image_shape == (1, 28, 28)


def test_images_in_colour_and_of_other_sizes(tmp_path: Path) -> None:
    colour = np.zeros((4, 64, 64, 3), dtype=np.uint8)
    colour[..., 1] = 7
    images = MedMNIST("small", 2, written(tmp_path / "small", test_images=colour), image_size=64, channels=3)
    assert images.test().image.shape == (4, 3, 64, 64)
    assert images.test().image[:, 1].unique().tolist() == [7]


def test_test_images_of_a_noisy_set_are_masked_alike_for_all_seeds(tmp_path: Path) -> None:
    images = MedMNIST("small", 2, written(tmp_path / "small"))
    noisy = NoisyImages(images, SmoothMask(grid=7, kernel=3, sigma=1.0))
    one, clean = noisy.test(), images.test()
    assert one.image.equal(noisy.prepare(5, None).test().image)  # type: ignore[arg-type]
    assert bool((one.image <= clean.image).all())
    assert not one.image.equal(clean.image)
    assert one.label.equal(clean.label)
    assert noisy.training().label.equal(images.training().label)


def test_changed_sets_keep_the_true_labels_and_the_classes_of_their_source(tmp_path: Path) -> None:
    images = TrueLabels("small", 2, written(tmp_path / "small"))
    noisy = NoisyImages(images, SmoothMask(grid=7, kernel=3, sigma=1.0)).test()
    assert noisy.clean_label.tolist() == [1] * 4
    assert noisy.classes.tolist() == [1]
    fewer = UnequalClasses(images, dropped=[0]).training()
    assert fewer.clean_label.tolist() == [1] * len(fewer.label)


def test_classes_of_joined_sets_follow_each_other(tmp_path: Path) -> None:
    three = np.array([[0], [2], [1]], dtype=np.uint8)
    folder = written(tmp_path / "chest")
    written(tmp_path / "breast", val_labels=three)
    joined = JoinedMedMNIST({"chest": 2, "breast": 3}, folder)
    first, second = MedMNIST("chest", 2, folder), MedMNIST("breast", 3, folder)
    assert (joined.num_classes, joined.image_shape) == (5, (1, 28, 28))
    for split in ("training", "validation", "test"):
        parts, whole = [getattr(each, split)() for each in (first, second)], getattr(joined, split)()
        assert whole.label.tolist() == [*parts[0].label.tolist(), *(parts[1].label + 2).tolist()]
        assert len(parts[0].image) > 0
        assert whole.image[: len(parts[0].image)].equal(parts[0].image)
        assert whole.image[len(parts[0].image) :].equal(parts[1].image)
    assert joined.validation().label[-3:].tolist() == [2, 4, 3]
    with pytest.raises(ValueError, match="sets must name at least one MedMNIST set"):
        JoinedMedMNIST({}, folder)
