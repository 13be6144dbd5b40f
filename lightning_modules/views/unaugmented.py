"""Check that the DataModule does not augment images, for modules that augment images themselves."""

from typing import Any


def check_unaugmented(data: Any, name: str) -> None:
    """Reject a DataModule that augments training images.

    Args:
        data: the DataModule. It need not be set up.
        name: name of the module, for the message.

    Raises:
        ValueError: if `data` crops, pads or mirrors images at random. The message names the argument and its required
            value.
    """
    for key, off in (("crop_padding", 0), ("flip", False)):
        if value := getattr(getattr(data, "augmentation", None), key, off):
            raise ValueError(
                f"{name} augments images itself: data.augmentation.{key} must be {str(off).lower()}, got {value}"
            )
    if (area := getattr(getattr(getattr(data, "images", None), "crop", None), "min_area", None)) is not None:
        raise ValueError(f"{name} augments images itself: data.images.min_area must be null, got {area}")
