"""Reading of whole images from files, with their stored bit depth."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tifffile import TiffFile

from datamodules.files.image_files import UnreadableImage, count_pages, opened_image

OF_A_DATASET = "data.training.data_range (of another dataset: data.test.data_range and so on)"


def page_names(path: Path, name: str) -> list[str]:
    """Name the pages of an image file: `name` for a single page, and otherwise `name/1`, `name/2` etc."""
    pages = count_pages(path)
    return [name] if pages == 1 else [f"{name}/{page + 1}" for page in range(pages)]


def read_pixels(
    path: Path,
    channels: int | None = None,
    data_range: int | None = None,
    key: str = OF_A_DATASET,
    page: int | None = None,
) -> np.ndarray:
    """Read a whole image with its stored bit depth, rotated according to its metadata.

    Args:
        path: image file, grey or colour, 8 or 16 bits.
        channels: number of channels of the result. 1 gives a grey image; a colour image is converted to Rec. 601 luma.
            3 gives a colour image. None keeps the channels of the file.
        data_range: stored value that corresponds to white. For 8-bit images, this value is always 255. For 16-bit
            images, the argument is required, because such images may contain 10 to 16 significant bits.
        key: configuration key of `data_range`, for error messages.
        page: position of the page in a file with several pages. None rejects such files.

    Returns:
        Image, `[C, H, W]`, uint8 or uint16.
    """
    with opened_image(path, page=page) as image:
        if "F" in image.mode or (image.mode == "I" and image.format != "PNG"):
            raise ValueError(f"its values are of type {image.mode}; write them in 8 or 16 bits")
        if image.mode.startswith("I") or (image.tile and ";16" in str(image.tile[0][3])):
            pixels = _sixteen_bits(path, image, channels)
        else:
            ImageOps.exif_transpose(image, in_place=True)
            opaque = _without_transparency(image)
            grey = channels == 1 or (channels is None and opaque.mode in ("1", "L"))
            pixels = np.atleast_3d(np.asarray(opaque.convert("L" if grey else "RGB")))
    greatest = np.iinfo(pixels.dtype).max
    if pixels.dtype == np.uint8 and data_range not in (None, 255):
        raise UnreadableImage(f"{path} has 8 bits, but data_range is {data_range}: unset {key}, or remove the file")
    if pixels.dtype != np.uint8 and data_range is None:
        raise UnreadableImage(f"{path} has 16 bits, so its white value is unknown: set {key}, up to 65535")
    if data_range is not None and pixels.max() > data_range:
        raise UnreadableImage(
            f"{path} has the value {pixels.max()} (of at most {greatest}), above data_range {data_range}"
        )
    return np.array(pixels.transpose(2, 0, 1), order="C")


def _sixteen_bits(path: Path, image: Image.Image, channels: int | None) -> np.ndarray:
    """Decode 16-bit grey or colour values, `[H, W, C]`.

    Pillow cannot be used for colours, because it reduces them to 8 bits.
    """
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.uint16)[..., None]
    elif image.format == "TIFF":
        with TiffFile(path) as file:
            stored = file.pages[image.tell()]
            pixels = stored.asarray()
            pixels = np.moveaxis(pixels, 0, 2) if stored.axes.startswith("S") else pixels  # one plane per colour
    elif image.tell():
        raise ValueError("it is an animation with 16-bit colours; save each frame as its own file")
    else:
        from torchvision.io import ImageReadMode, decode_image

        pixels = decode_image(str(path), ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    if pixels.shape[2] not in (1, 3):
        raise ValueError("it has an alpha channel; write it without alpha")
    if channels == 3:
        return pixels.repeat(3 // pixels.shape[2], axis=2)
    if channels == 1 and pixels.shape[2] == 3:
        return (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint16)[..., None]
    return pixels


def _without_transparency(image: Image.Image) -> Image.Image:
    """Drop an alpha channel that is fully opaque."""
    if not image.has_transparency_data:
        return image
    opaque = image.convert("RGBA")
    if np.asarray(opaque)[..., 3].min() < 255:
        raise ValueError("parts of it are transparent, so their colour is undefined; write it without alpha")
    return opaque.convert("L" if image.mode == "LA" else "RGB")
