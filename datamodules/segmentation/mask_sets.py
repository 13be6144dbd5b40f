"""The interface of data sets of images with masks.

A new data set is a subclass of `MaskSet` with `num_classes`, `image_shape` and the methods `training` and `test`.
`LabelledMasks` does the rest: mask noise, batches, augmentation and corrections.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from datamodules.batches import IGNORED
from datamodules.corruptions.mask_noise import MaskNoise
from datamodules.sets import Source, SplitSet


class MaskSource(Source, ABC):
    """The images and masks of one split, wherever they are kept. Masks are uint8; 255 is ignored."""

    size: Tensor
    """`[N, 2]`, int64: height and width of each image."""
    data_range: float | None = 255
    """The stored value that stands for 1; None standardises each image over its own pixels."""
    names: Sequence[str] | None = None
    """Names of the images without suffix, `[N]`, where they are files."""

    @abstractmethod
    def masks(self, index: Tensor) -> tuple[Tensor | list[Tensor], Tensor | list[Tensor] | None]:
        """Read whole masks of some samples: those that are given, and the true ones where they are known and differ."""

    @abstractmethod
    def whole(self, index: Tensor, masks: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Read whole images; smaller ones are filled up below and on the right, masks by 255.

        Args:
            index: positions of the images, `[B]`.
            masks: whole masks of these as `masks` gives them, `[H, W]` each, under the keys of the batch.

        Returns:
            Images `[B, C, H, W]` and masks `[B, H, W]`.
        """

    @abstractmethod
    def make_wrong(self, noise: MaskNoise, num_classes: int) -> None:
        """Take the given masks for the true ones, and give what the noise makes of them."""


class MasksInMemory(MaskSource):
    """Images and masks of one size, held as tensors.

    Args:
        image: images, `[N, C, H, W]`, of any type.
        given: masks to train on, or the true ones of a test set, `[N, H, W]`, uint8.
        num_classes: number of categories, K.
        clean: true masks, `[N, H, W]`, uint8, where they are known and may differ.
        data_range: the stored value that stands for 1; None standardises each image over its own pixels.

    Raises:
        ValueError: if there is no image, or masks do not fit the images or `num_classes`.
    """

    in_memory = True

    def __init__(
        self,
        image: Tensor,
        given: Tensor,
        num_classes: int,
        clean: Tensor | None = None,
        data_range: float | None = 255,
    ) -> None:
        if len(image) == 0:
            raise ValueError("there is no image")
        for mask in (given,) if clean is None else (given, clean):
            expected = [len(image), *image.shape[2:]]
            if list(mask.shape) != expected or mask.dtype != torch.uint8:
                raise ValueError(f"masks must be uint8 of shape {expected}, got {mask.dtype} of {list(mask.shape)}")
            refuse_unknown_categories(mask, num_classes, "a mask")
        self.image = image
        self.given = given
        self.clean = clean
        self.data_range = data_range
        self.size = torch.tensor(image.shape[2:]).expand(len(image), 2)

    def masks(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.given[index], None if self.clean is None else self.clean[index]

    def whole(self, index: Tensor, masks: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.image.index_select(0, index), masks

    def make_wrong(self, noise: MaskNoise, num_classes: int) -> None:
        self.clean, self.given = self.given, noise.apply(self.given, num_classes)


def refuse_unknown_categories(mask: Tensor, num_classes: int, name: str) -> None:
    """Refuse pixels that are neither a category nor ignored.

    Raises:
        ValueError: names the mask and the value.
    """
    unknown = (mask >= num_classes) & (mask != IGNORED)
    if unknown.any():
        raise ValueError(
            f"{name} has a pixel of category {int(mask[unknown][0])}, and num_classes {num_classes} allows "
            f"0...{num_classes - 1}, and {IGNORED} for pixels that are ignored"
        )


class AuxiliaryMasks(ABC):
    """Masks of a structure that belong to no image."""

    def read(self, size: int) -> None:  # noqa: B027 - masks that are drawn need no reading
        """Read what `masks` will be asked for, at a height and width of `size` pixels."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def masks(self, index: Tensor, size: int, seed: int) -> Tensor:
        """Give masks of the set.

        Args:
            index: positions of the masks, `[B]`, int64.
            size: height and width in pixels.
            seed: random seed of masks that are drawn.

        Returns:
            `[B, size, size]`, uint8, 0 and 1, on the device of `index`.
        """


class MaskSet(SplitSet[MaskSource]):
    """A data set of images with masks, whose classes are the categories of a pixel."""

    image_shape: tuple[int, int, int]
    """C, H, W of the images that a network gets."""
    has_training_labels: bool = True
    """Whether there are masks to train on, or none yet."""
    seed: int = 0
    """Random seed of a set that is drawn."""

    def prepared(self, seed: int) -> Self:
        """Take in the random seed that a drawn set depends on, before anything is read, and return the set itself."""
        self.seed = seed
        return self

    def new_images(self, folder: str) -> MaskSource:
        """Read the images of another folder, without masks, to be predicted.

        Raises:
            ValueError: if the set cannot.
        """
        raise ValueError(
            f"predict_dir needs a set that reads files of one size, as MaskFolders does, and "
            f"{type(self).__name__} does not"
        )

    def auxiliary_masks(self) -> AuxiliaryMasks | None:
        """Give the masks of the same structure that belong to none of the images, if the set brings some."""
        return None


def no_labels(number: int, size: int) -> Tensor:
    """Make labels of nothing, `[number, size, size]`, uint8: one mask in memory, whatever the number."""
    return torch.zeros(1, size, size, dtype=torch.uint8).expand(number, -1, -1)
