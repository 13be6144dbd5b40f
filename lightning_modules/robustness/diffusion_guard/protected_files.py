"""Writer of protected images, which stores each image in a file.

Each file also contains a hash, computed from the original image and its masks.
"""

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from datamodules.batches import ProtectedImageBatch
from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.stores import digest_of
from lightning_modules.interfaces import FixedImageShape, data_with
from lightning_modules.tasks.writers import FolderWriter


def levels(image: Tensor) -> Tensor:
    """Round images in [0, 1] to the 256 levels of an image file, uint8."""
    return image.mul(255).round().byte()


def hash_of_given(image: Tensor, regions: Tensor) -> str:
    """Hash the uint8 values of an image `[C, H, W]`, together with its non-empty regions `[R, H, W]`."""
    return digest_of(levels(image), regions[regions.flatten(1).any(dim=1)])


class ProtectionSteps(FolderWriter):
    """Mixin of `DiffusionGuard` whose prediction steps write `protected/<name>.png` into the run directory."""

    written, settings_name, items = "protected", "protection_settings.json", "protected images"

    def result_settings(self: Any) -> dict[str, Any]:
        data = data_with(self.trainer, FixedImageShape)
        return {
            **vars(self.defence),
            **vars(self.attack),
            "seed": self.seed,
            "image_shape": None if data is None else list(data.image_shape),
            "precision": str(self.trainer.precision),
            "hash_of_inpainter": hash_of_module(self.inpainter),
        }

    def predict_step(self: Any, batch: ProtectedImageBatch, batch_idx: int) -> list[str]:
        """Write those protected images of a batch that are not yet files; return the names of the written images."""
        given = batch["image"], batch["regions"]

        def compute(rows: list[int]) -> Iterator[NDArray[Any]]:
            for image in self.protect(*(each[rows] for each in given), batch["index"][rows]):
                yield levels(image).cpu().numpy()

        return self.write(batch["name"], [hash_of_given(*each) for each in zip(*given, strict=True)], compute)
