"""DataModule for unlabelled images and unpaired masks of the same structure.

UnpairedMasks(MaskFolders("~/data/heads"), auxiliary_masks=Ellipses(2000), batch_size=8)
"""

from typing import Any

from datamodules.loading import Loading
from datamodules.randomness.counter import sample_uniform
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.mask_sets import AuxiliaryMasks, MaskSet


class UnpairedMasks(LabelledMasks):
    """DataModule with batches of images, each with an unpaired auxiliary mask.

    The auxiliary mask of a training image is sampled anew in each epoch. It depends only on (seed, epoch, index).
    If the dataset has no training labels, all labels are 0 until `correct_labels` changes them.

    Args:
        images: dataset of images.
        auxiliary_masks: unpaired masks of the structure. None means the auxiliary masks of the dataset.
        batch_size: global training batch size, over all ranks.
        loading: how batches are read, and the seed.
    """

    has_auxiliary_masks = True

    def __init__(
        self,
        images: MaskSet,
        auxiliary_masks: AuxiliaryMasks | None = None,
        batch_size: int = 8,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(images, batch_size, loading=loading)
        self.auxiliary_masks = auxiliary_masks

    @property
    def has_training_labels(self) -> bool:
        return self.images.has_training_labels

    def set_up_training(self) -> None:
        super().set_up_training()
        self.auxiliary_masks = self.auxiliary_masks or self.images.auxiliary_masks()
        if self.auxiliary_masks is None:
            raise ValueError(f"{type(self.images).__name__} has no auxiliary masks: set auxiliary_masks")
        self.auxiliary_masks.read(self.image_shape[1])

    def augment(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        """Add to the batch one sampled auxiliary mask per image."""
        assert self.auxiliary_masks is not None
        u = sample_uniform(self.seed, epoch, batch["index"], count=1, stream=3)[:, 0]
        chosen = (u.double() * len(self.auxiliary_masks)).long()
        batch["auxiliary_mask"] = self.auxiliary_masks.masks(chosen, self.image_shape[1], self.seed)[:, None]
        return batch

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().finish(batch)
        if "auxiliary_mask" in batch:
            batch["auxiliary_mask"] = batch["auxiliary_mask"].to(batch["image"].dtype)
        return batch
