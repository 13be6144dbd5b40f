"""Out-of-distribution label noise, as of web searches: images that belong to no class, under the labels of others.

Each training image is replaced, with probability r and keeping its label, by an image of another set. Label noise on
top of it, at rate r_in / (1 - r), makes a share r_in of all images wrong labels of the set's own classes: the protocol
of PLS on CIFAR-100.

Source: Albert, Arazo, Krishna, O'Connor and McGuinness, Is your noise correction noisy? PLS: Robustness to label noise
with two stage detection, WACV 2023, arXiv 2210.04578, and the authors' code.
"""

import torch
from torch import Tensor

from datamodules.classification.labelled_images import ImagesInMemory
from datamodules.classification.ood_images import UNKNOWN, OODImages
from datamodules.corruptions.label_noise.interface import check_arguments, random_stream


def replacements(num_images: int, num_pool: int, noise_rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draws which images are replaced, and by which.

    Args:
        num_images: N.
        num_pool: images that replace them; none is taken twice.
        noise_rate: r, in [0, 1).
        seed: of the draw.

    Returns:
        Rows that are replaced, in ascending order, and for each its row in the pool: both `[n]`, int64.

    Raises:
        ValueError: if the pool is too small.
    """
    random = random_stream(seed, "ForeignImages")
    rows = torch.from_numpy((random.random(num_images) < noise_rate).nonzero()[0])
    if len(rows) > num_pool:
        raise ValueError(f"{len(rows)} of {num_images} images are to be replaced, and there are only {num_pool} others")
    return rows, torch.from_numpy(random.permutation(num_pool)[: len(rows)])


class ForeignImages:
    """Replaces training images, each with probability r and keeping its label, by images of another set.

    The true label of a replaced image is -1: it is of no class.

    Args:
        images: the other set.
        noise_rate: r, in [0, 1).
        seed: of what is replaced; None takes `seed_everything`.

    Raises:
        ValueError: if `noise_rate` is out of range.
    """

    def __init__(self, images: OODImages, noise_rate: float, seed: int | None = None) -> None:
        check_arguments(noise_rate, seed)
        self.images = images
        self.noise_rate = noise_rate
        self.seed = seed

    def apply(self, source: ImagesInMemory, seed: int) -> ImagesInMemory:
        """The training images, some of them replaced.

        Args:
            source: is left as it is.
            seed: of the draw where the own one is None.

        Raises:
            ValueError: if the other set has images of another shape, or too few.
        """
        seed = seed if self.seed is None else self.seed
        shape: tuple[int, int, int] = tuple(source.image.shape[1:])  # type: ignore[assignment]
        others = self.images.read(shape, seed)
        rows, others_rows = replacements(len(source.image), len(others.label), self.noise_rate, seed)
        image, true = source.image.clone(), source.label.clone()
        fetched = others.fetch(others_rows, None)
        if others.brightest != source.brightest:
            fetched = (fetched.float() * (source.brightest / others.brightest)).round().to(image.dtype)
        image[rows], true[rows] = fetched, UNKNOWN
        mixed = ImagesInMemory(image, source.label, source.brightest)
        mixed.clean_label = true  # type: ignore[attr-defined]
        return mixed
