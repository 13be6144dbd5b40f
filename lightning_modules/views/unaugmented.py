"""Modules that draw their own views need images that the DataModule has not augmented before."""

from typing import Any


def check_unaugmented(data: Any, name: str) -> None:
    """Refuses a DataModule that augments training images.

    Args:
        data: the DataModule, set up or not.
        name: of the module that draws its views, for the message.

    Raises:
        ValueError: if it cuts out parts of random sizes, pads or mirrors; names the argument and what it must be.
    """
    for key, off in (("crop_padding", 0), ("flip", False)):
        if value := getattr(getattr(data, "augmentation", None), key, off):
            raise ValueError(
                f"{name} draws its own views: data.augmentation.{key} must be {str(off).lower()}, got {value}"
            )
    if (area := getattr(getattr(getattr(data, "images", None), "crop", None), "min_area", None)) is not None:
        raise ValueError(f"{name} draws its own views: data.images.min_area must be null, got {area}")
