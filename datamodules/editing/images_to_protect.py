"""Batches of images with the regions that an editor keeps."""

from typing import Any

import torch

from datamodules.editing.protected_set import ProtectedSet
from datamodules.loading.seeded_batches import SeededBatches


class ImagesToProtect(SeededBatches):
    """Loaders of images with regions to protect, and of what editors keep and are told.

    Args:
        images: the set: `MaskedPhotographs`, or `ImagesWithEllipses` around a set that has no masks.
        batch_size: images of a training step over all processes, where a model is fitted to them.
        evaluation_batch_size: images that are protected at once over all processes; None takes `batch_size`.
        num_workers: loader processes; None takes one for each free core, up to 8.
        seed: random seed of order and drawn regions; None takes `seed_everything`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        images: ProtectedSet,
        batch_size: int = 1,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, evaluation_batch_size, num_workers=num_workers, seed=seed)
        self.images = images
        self.image_shape = images.image_shape
        self._with_prompts = False

    def set_up_training(self) -> None:
        self.train_set = self.images.training(self.seed)

    def set_up_test(self) -> None:
        self.test_set = self.images.test(self.seed, self._with_prompts)

    def setup(self, stage: str) -> None:
        if stage == "test" and not self._with_prompts:
            self._with_prompts, self.test_set = True, None
        super().setup(stage)

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        # Never in half precision, which does not give the 256 levels of a file back.
        assert self.trainer is not None
        dtype = torch.promote_types(self.trainer.lightning_module.dtype, torch.float32)  # type: ignore[arg-type]
        batch["image"] = batch["image"].to(dtype) / batch.pop("data_range")
        return batch
