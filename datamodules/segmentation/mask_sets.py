"""Interface of datasets of images with masks.

To add a dataset, write a subclass of `MaskSet` with `num_classes`, `image_shape` and the methods `training` and `test`.
`LabelledMasks` adds mask noise, batches, augmentation and corrections.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from datamodules.batches import IGNORED
from datamodules.corruptions.mask_noise import MaskNoise
from datamodules.files.data_directory import Paths
from datamodules.sets import Source, SplitSet


class MaskSource(Source, ABC):
    """The images and masks of one split, in memory or in files. Masks are uint8; pixels with label 255 are ignored."""

    size: Tensor
    """Height and width of each image, `[N, 2]`, int64."""
    data_range: float | None = 255
    """Stored value that corresponds to 1. None standardises each image over its own pixels."""
    names: Sequence[str] | None = None
    """Names of the images without suffix, `[N]`. None if the images are not files."""

    @abstractmethod
    def masks(self, index: Tensor) -> tuple[Tensor | list[Tensor], Tensor | list[Tensor] | None]:
        """Read whole masks of selected samples: the masks used as labels and, if stored separately, the true masks."""

    @abstractmethod
    def whole(self, index: Tensor, masks: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Read whole images. Smaller images and their masks are padded at the bottom and right.

        Args:
            index: positions of the images, `[B]`.
            masks: whole masks of the images, each `[H, W]`, as a dict by batch key. They have the form in which the
                method `masks` returns masks.

        Returns:
            Images `[B, C, H, W]` and masks `[B, H, W]`. Masks are padded with 255.
        """

    @abstractmethod
    def make_wrong(self, noise: MaskNoise, num_classes: int) -> None:
        """Use the current labels as true masks, and noisy versions of them as new labels."""


class MasksInMemory(MaskSource):
    """Images and masks of one size, stored as tensors.

    Args:
        image: images, `[N, C, H, W]`, of any dtype.
        given: masks for training, or the true masks of a test set, `[N, H, W]`, uint8.
        num_classes: number of classes, K.
        clean: true masks, `[N, H, W]`, uint8. None if `given` contains the true masks or if they are unknown.
        data_range: stored value that corresponds to 1. None standardises each image over its own pixels.
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
    """Raise an error if a mask has a pixel whose value is neither a class nor 255."""
    unknown = (mask >= num_classes) & (mask != IGNORED)
    if unknown.any():
        raise ValueError(
            f"{name} has a pixel of category {int(mask[unknown][0])}, but num_classes {num_classes} allows "
            f"0...{num_classes - 1}, and {IGNORED} for ignored pixels"
        )


class AuxiliaryMasks(ABC):
    """Unpaired masks of a structure. They do not belong to any image."""

    def read(self, size: int) -> None:  # noqa: B027 - masks that are drawn need no reading
        """Read the data from which `masks` generates masks of `size` x `size` pixels."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def masks(self, index: Tensor, size: int, seed: int) -> Tensor:
        """Return selected masks.

        Args:
            index: positions of the masks, `[B]`, int64.
            size: height and width of the masks, in pixels.
            seed: random seed of generated masks.

        Returns:
            Masks `[B, size, size]`, uint8, 0 or 1, on the device of `index`.
        """


class MaskSet(SplitSet[MaskSource]):
    """Dataset of images with masks, which assign a class to every pixel."""

    image_shape: tuple[int, int, int]
    """Shape C, H, W of the images that a network receives."""
    has_training_labels: bool = True
    """Whether the training images have masks at the start of training."""
    seed: int = 0
    """Random seed of a generated dataset."""

    def prepare(self, seed: int) -> Self:
        """Set the seed of a generated dataset before the dataset is read, and return the dataset itself."""
        self.seed = seed
        return self

    def new_images(self, folder: Paths) -> MaskSource:
        """Read images without masks from another folder, for prediction."""
        raise ValueError(
            f"predict_dir needs a dataset that reads files of one size, such as MaskFolders, but data.images is a "
            f"{type(self).__name__}"
        )

    def auxiliary_masks(self) -> AuxiliaryMasks | None:
        """Return unpaired masks of the same structure, if the dataset has any."""
        return None


def no_labels(number: int, size: int) -> Tensor:
    """Return empty uint8 masks `[number, size, size]`, which all share the memory of a single mask."""
    return torch.zeros(1, size, size, dtype=torch.uint8).expand(number, -1, -1)
