"""Checks of the images and captions before training."""

from typing import Any

from datamodules.prompts.captioned_images import CaptionedImages
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_to_image import TextToImage


def check_data(network: TextToImage | PixelSpace, data: Any) -> None:
    """Reject images that do not fit the network, and missing captions.

    Raises:
        ValueError: if captions are missing, or the network cannot take images of this size.
    """
    if isinstance(network, TextToImage) and isinstance(data, CaptionedImages):
        data.require_captions("a text-to-image model")
    shape = getattr(data, "image_shape", None)
    if shape is None:
        return
    if isinstance(network, PixelSpace) and tuple(shape) != network.shape:
        raise ValueError(f"the data have images of shape {list(shape)}, but the U-Net expects {list(network.shape)}")
    if isinstance(network, TextToImage) and any(side % network.size_multiple for side in shape[1:]):
        raise ValueError(
            f"the data have images of {shape[1]} x {shape[2]} pixels, but height and width must be multiples of "
            f"{network.size_multiple}: change data.images.image_size"
        )
