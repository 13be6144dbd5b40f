"""Images, and masks that belong to none of them: what training without annotated images begins with."""

from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.loading.augmentation import sample_uniform
from datamodules.segmentation.labelled_masks import LabelledMasks


class Shapes(Protocol):
    """A set of masks of a structure."""

    def __len__(self) -> int: ...

    def masks(self, index: Tensor, size: int, seed: int) -> Tensor:
        """Masks of the set.

        Args:
            index: `[B]`, int64.
            size: height and width in pixels.
            seed: of what is drawn.

        Returns:
            `[B, size, size]`, uint8, 0 and 1, on the device of `index`.
        """
        ...


class ShapesInMemory:
    """Masks `[M, S, S]`, uint8, 0 and 1. They are kept on the device that first asks for them."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __len__(self) -> int:
        return len(self.mask)

    def masks(self, index: Tensor, size: int, seed: int) -> Tensor:
        self.mask = self.mask.to(index.device)
        return self.mask[index]


class ImagesWithAuxiliaryMasks(LabelledMasks):
    """Images with labels that are yet to be made, and auxiliary masks. Subclasses read both.

    A training batch carries an auxiliary mask beside each image, drawn anew in each visit as a function of (seed,
    visit, image) alone. Where `has_training_labels` is false, training labels are 0 until `correct_labels` gives
    others.
    """

    num_classes = 2
    class_names = ["background", "structure"]  # noqa: RUF012 - declared so by the parent
    shapes: Shapes | None = None
    has_training_labels = False
    training_names: list[str] | None = None

    @property
    def has_auxiliary_masks(self) -> bool:
        return True

    def augmented(self, batch: dict[str, Any], visit: int) -> dict[str, Any]:
        if self.shapes is not None:
            u = sample_uniform(self.seed, visit, batch["index"], count=1, stream=3)[:, 0]
            chosen = (u.double() * len(self.shapes)).long()
            batch["auxiliary_mask"] = self.shapes.masks(chosen, self.image_shape[1], self.seed)[:, None]
        return batch

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().finished(batch)
        if "auxiliary_mask" in batch:
            batch["auxiliary_mask"] = batch["auxiliary_mask"].to(batch["image"].dtype)
        return batch


def no_labels(number: int, size: int) -> Tensor:
    """Labels of nothing, `[number, size, size]`, uint8: one mask in memory, whatever the number."""
    return torch.zeros(1, size, size, dtype=torch.uint8).expand(number, -1, -1)
