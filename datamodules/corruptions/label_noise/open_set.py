"""Open-set label noise: out-of-distribution images that are labelled with classes of the dataset.

Web search results contain such images. Each training image is replaced, with probability r, by an image from a
different dataset. The label of the original image is kept. Label noise can be added. If its rate is r_in / (1 - r), a
fraction r_in of all images is in distribution but has wrong labels, as in the protocol of PLS on CIFAR-100.

Source: Albert, Arazo, Krishna, O'Connor and McGuinness, Is your noise correction noisy? PLS: Robustness to label noise
with two stage detection, WACV 2023, arXiv 2210.04578, and the authors' code.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from datamodules.classification.image_sets import UNKNOWN, ImageSet, ImagesInMemory, ImageSource, OtherImages
from datamodules.corruptions.label_noise.interface import check_arguments, random_stream


def replacements(num_images: int, num_pool: int, noise_rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose the images to replace, and a replacement for each of them.

    Args:
        num_images: number of images N.
        num_pool: number of images in the pool of replacements. Each image in the pool is used at most once.
        noise_rate: probability r that an image is replaced, in [0, 1).
        seed: seed of the random choice.

    Returns:
        The rows to replace, in ascending order, and the rows of the pool that replace them. Both tensors are `[n]`,
        int64.

    Raises:
        ValueError: if the pool is too small.
    """
    random = random_stream(seed, "OpenSetLabelNoise")
    rows = torch.from_numpy((random.random(num_images) < noise_rate).nonzero()[0])
    if len(rows) > num_pool:
        raise ValueError(f"{len(rows)} of {num_images} images need a replacement, but there are only {num_pool}")
    return rows, torch.from_numpy(random.permutation(num_pool)[: len(rows)])


class OpenSetLabelNoise(ImageSet):
    """A dataset in which each training image is replaced, with probability r, by an image from a different dataset.

    The labels of replaced images are kept.

    The true label of a replaced image is -1, which means no class. The dataset is otherwise unchanged.

    Args:
        images: dataset whose training images are in memory.
        others: replacement images.
        noise_rate: probability r that an image is replaced, in [0, 1).
        seed: seed of the replacement. None means the value of `seed_everything`.
    """

    def __init__(self, images: ImageSet, others: OtherImages, noise_rate: float, seed: int | None = None) -> None:
        check_arguments(noise_rate, seed)
        self.images = images
        self.others = others
        self.noise_rate = noise_rate
        self.seed = seed
        self.num_classes = images.num_classes
        self.image_shape = images.image_shape
        self._drawn = 0

    @property
    def class_names(self) -> Sequence[str] | None:  # type: ignore[override]
        return self.images.class_names

    def fetch_missing(self) -> None:
        self.images.fetch_missing()
        self.others.fetch_missing()

    def prepare(self, seed: int, device: torch.device) -> Self:
        self.images.prepare(seed, device)
        self._drawn = seed
        return self

    def training(self) -> ImagesInMemory:
        """Read the training images, and replace some of them.

        Raises:
            ValueError: if `others` has images of a different shape, or too few images.
        """
        seed = self._drawn if self.seed is None else self.seed
        source = self.images.training()
        if not isinstance(source, ImagesInMemory):
            raise ValueError(f"OpenSetLabelNoise needs images in memory, but {type(self.images).__name__} reads files")
        others = self.others.of_no_class(tuple(source.image.shape[1:]), seed)
        rows, others_rows = replacements(len(source.image), len(others.label), self.noise_rate, seed)
        image, true = source.image.clone(), source.label.clone()
        fetched = others.fetch(others_rows, None)
        if others.data_range != source.data_range:
            fetched = (fetched.float() * (source.data_range / others.data_range)).round().to(image.dtype)
        image[rows], true[rows] = fetched, UNKNOWN
        return ImagesInMemory(image, source.label, source.data_range, true)

    @property
    def has_test(self) -> bool:
        return self.images.has_test

    def validation(self) -> ImageSource | None:
        return self.images.validation()

    def test(self) -> ImageSource:
        return self.images.test()

    def ood_test_sets(self) -> dict[str, ImageSource]:
        return self.images.ood_test_sets()

    def shifted_labels(self) -> dict[str, Tensor]:
        return self.images.shifted_labels()
