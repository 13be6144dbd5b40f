"""DataModule for images to protect, with masks of the regions that an editor keeps."""

from typing import Any

import torch

from datamodules.editing.protected_set import ProtectedSet
from datamodules.loading import Loading
from datamodules.loading.seeded_batches import SeededBatches


class ImagesToProtect(SeededBatches):
    """DataModule for images with regions to protect, and with editors' masks and prompts.

    Args:
        images: dataset of images to protect. If a dataset has no masks, wrap it in `ImagesWithEllipses`.
        batch_size: global batch size, over all ranks, for training an editing model.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        images: ProtectedSet,
        batch_size: int = 1,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, loading)
        self.images = images
        self.image_shape = images.image_shape
        self._with_prompts = False

    def prepare_data(self) -> None:
        self.images.fetch_missing()

    def set_up_training(self) -> None:
        self.train_set = self.images.training(self.seed)

    def set_up_test(self) -> None:
        self.test_set = self.images.test(self.seed, self._with_prompts)

    def setup(self, stage: str) -> None:
        if stage == "test" and not self._with_prompts:
            self._with_prompts, self.test_set = True, None
        super().setup(stage)

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        # Half precision is never used, because it cannot represent all 256 levels exactly.
        dtype = torch.promote_types(self.module_dtype, torch.float32)
        batch["image"] = batch["image"].to(dtype) / batch.pop("data_range")
        return batch
