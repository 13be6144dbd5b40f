"""A check for LightningModules that augment images themselves: it rejects DataModules that augment images, too."""

from typing import Any


def check_unaugmented(data: Any, name: str) -> None:
    """Reject a DataModule that augments training images.

    Args:
        data: DataModule; `setup` need not have been called.
        name: name of the LightningModule, for the error message.
    """
    for key, off in (("crop_padding", 0), ("flip", False)):
        if value := getattr(getattr(data, "augmentation", None), key, off):
            raise ValueError(
                f"{name} augments images itself: data.augmentation.{key} must be {str(off).lower()}, got {value}"
            )
    if (area := getattr(getattr(getattr(data, "images", None), "crop", None), "min_area", None)) is not None:
        raise ValueError(f"{name} augments images itself: data.images.min_area must be null, got {area}")
