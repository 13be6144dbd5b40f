"""Files of protected images; each has the hash of the image and the masks that it was made from."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.batches import ProtectedImageBatch
from datamodules.files.module_hash import hash_of_module
from datamodules.files.png import digest_in_png, write_png
from lightning_modules.resumable.item_files import digest_of, missing_items
from lightning_modules.resumable.settings_file import refuse_other_settings, write_settings

SETTINGS = (
    *("objective", "epsilon", "step_size", "iterations", "gradient_repeats"),
    *("timestep", "augmentation", "seed"),
)
"""Arguments of `DiffusionGuard` that protected images depend on."""


def levels(image: Tensor) -> Tensor:
    """Round images in [0, 1] to the 256 levels of a file, uint8."""
    return image.mul(255).round().byte()


def hash_of_given(image: Tensor, regions: Tensor) -> str:
    """Hash the levels of an image `[C, H, W]`, and its regions `[R, H, W]`, apart from empty ones."""
    return digest_of(levels(image), regions[regions.flatten(1).any(dim=1)])


class ProtectionSteps:
    """Gives `DiffusionGuard` its prediction steps, which write `protected/<name>.png` into the run directory."""

    def on_predict_start(self: Any) -> None:
        if self.trainer.log_dir is None:  # a fast_dev_run
            return
        shape = getattr(self.trainer.datamodule, "image_shape", None)
        settings = {
            **{key: getattr(self, key) for key in SETTINGS},
            "image_shape": shape and list(shape),
            "precision": str(self.trainer.precision),
            "hash_of_inpainter": hash_of_module(self.inpainter),
        }
        path = Path(self.trainer.log_dir, "protection_settings.json")
        if self.trainer.is_global_zero and not path.is_file():
            write_settings(path, settings)
        self.trainer.strategy.barrier("the settings of protection are written")
        refuse_other_settings(
            path, settings, f"what {path.parent / 'protected'} holds", "protect into another run directory"
        )

    def predict_step(self: Any, batch: ProtectedImageBatch, batch_idx: int) -> list[str]:
        """Write the images of a batch that are not there yet, and return their names."""
        directory = self.trainer.log_dir  # a fast_dev_run has none
        if directory is None:
            return []
        files = [Path(directory, "protected", f"{name}.png") for name in batch["name"]]
        hashes = [hash_of_given(*given) for given in zip(batch["image"], batch["regions"], strict=True)]
        rows = missing_items(files, hashes, digest_in_png)
        if not rows:
            return []
        guarded = self.protect(batch["image"][rows], batch["regions"][rows], batch["index"][rows])
        for row, image in zip(rows, guarded, strict=True):
            write_png(files[row], levels(image).cpu().numpy(), hashes[row])
        return [batch["name"][row] for row in rows]

    def on_predict_end(self: Any) -> None:
        directory = self.trainer.log_dir
        if directory is not None:
            rank_zero_info(f"Protected images: {Path(directory, 'protected')}")
