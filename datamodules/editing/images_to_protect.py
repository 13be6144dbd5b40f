"""DataModule for images to protect, with masks of the regions that an editor keeps."""

from typing import Any

import torch

from datamodules.editing.protected_set import ProtectedSet
from datamodules.loading.seeded_batches import SeededBatches


class ImagesToProtect(SeededBatches):
    """DataModule for images with regions to protect, and with editors' masks and prompts.

    Args:
        images: dataset of images to protect. If a dataset has no masks, wrap it in `ImagesWithEllipses`.
        batch_size: global batch size, over all ranks, for training an editing model.
        evaluation_batch_size: number of images to protect at once, over all ranks. None means `batch_size`.
        num_workers: number of DataLoader workers. None means one per free core, at most 8.
        seed: random seed of the sampling order and of the regions. None means the value of `seed_everything`.
    """

    def __init__(
        self,
        images: ProtectedSet,
        batch_size: int = 1,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, evaluation_batch_size, num_workers=num_workers, seed=seed)
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

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        # Half precision is never used, because it cannot represent all 256 levels exactly.
        dtype = torch.promote_types(self.module_dtype, torch.float32)
        batch["image"] = batch["image"].to(dtype) / batch.pop("data_range")
        return batch
