"""Reading of whole images from files, with their stored bit depth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datamodules.files.image_files import (
    Crop,
    UnreadableImage,
    check_single_page,
    count_pages,
    errors_in_one_sentence,
    opened_image,
)
from datamodules.files.tiff_files import SUFFIXES, Layout, read_layout, read_page

OF_A_DATASET = "data.training.data_range (of another dataset: data.test.data_range and so on)"


def page_layout(path: Path) -> Layout | None:
    """Read how the pages of a file are arranged. None for a file with one page that is not a TIFF file."""
    with errors_in_one_sentence(path):
        layout = read_layout(path) if path.suffix.lower() in SUFFIXES else None
        if layout is None and (pages := count_pages(path)) > 1:
            return Layout((pages,), "I")
        return layout


def page_names(layout: Layout | None, name: str) -> list[str]:
    """Name the pages of an image file: `name` for a single page, and otherwise `name/1`, `name/2` etc."""
    pages = 1 if layout is None else layout.count
    return [name] if pages == 1 else [f"{name}/{page + 1}" for page in range(pages)]


def read_pixels(
    path: Path,
    channels: int | None = None,
    data_range: float | None = None,
    key: str = OF_A_DATASET,
    page: int | None = None,
) -> np.ndarray:
    """Read a whole image with its stored bit depth, rotated according to its metadata.

    Args:
        path: image file, grey or colour, with 8 or 16 bits. TIFF files may also contain float32.
        channels: number of channels of the result. 1 gives a grey image; a colour image is converted to Rec. 601 luma.
            3 gives a colour image. None keeps the channels of the file.
        data_range: stored value that corresponds to white. For 8-bit images, this value is always 255. For 16-bit
            images, the argument is required, because such images may contain 10 to 16 significant bits. It is also
            required for floating-point images, whose values must be finite and in [-data_range, data_range].
        key: configuration key of `data_range`, for error messages.
        page: position of the page in a file with several pages. None rejects such files.

    Returns:
        Image, `[C, H, W]`, uint8, uint16 or float32.
    """
    pixels = _tiff_pixels(path, page) if path.suffix.lower() in SUFFIXES else None
    if pixels is None:
        with opened_image(path, page=page) as image:
            if image.mode == "I" and image.format != "PNG":
                raise ValueError("its values are 32-bit integers; write them in 8 or 16 bits")
            if image.mode == "F":
                pixels = np.asarray(image)[..., None]
            elif image.mode.startswith("I") or (image.tile and ";16" in str(image.tile[0][3])):
                pixels = _sixteen_bits(path, image)
            else:
                ImageOps.exif_transpose(image, in_place=True)
                opaque = _without_transparency(image)
                pixels = np.atleast_3d(np.asarray(opaque.convert("L" if opaque.mode in ("1", "L") else "RGB")))
    _check_range(path, pixels, data_range, key)
    if channels == 1 and pixels.shape[2] == 3:
        luma = pixels @ np.array([0.299, 0.587, 0.114])
        pixels = (luma if pixels.dtype == np.float32 else luma.round()).astype(pixels.dtype)[..., None]
    pixels = pixels.repeat(3 // pixels.shape[2], axis=2) if channels == 3 else pixels
    return np.array(pixels.transpose(2, 0, 1), order="C")


def read_deep_crop(path: Path, crop: Crop, uniform: Sequence[float] | None, channels: int) -> np.ndarray:
    """Crop and resize an image without reducing its bit depth.

    Args:
        path: image file, see `read_pixels`.
        crop: crop to apply. Its `data_range` is the stored value of white.
        uniform: numbers in [0, 1) that determine the random crop. None means the centre crop.
        channels: number of channels of the result, 1 or 3.

    Returns:
        Image, `[channels, height, width]`, float32. White is 1. Negative values of floating-point images are kept.
    """
    pixels = read_pixels(path, channels, crop.data_range, "data_range of the dataset")
    height, width = pixels.shape[1:]
    box, size = crop.box(width, height, uniform), crop.shape[::-1]
    resampling = Image.Resampling[crop.interpolation.upper()]
    planes = [Image.fromarray(plane.astype(np.float32)).resize(size, resampling, box) for plane in pixels]
    return np.stack([np.asarray(plane) for plane in planes]) / np.float32(crop.data_range or 255)


def scaled_if_float(pixels: np.ndarray, data_range: float | None) -> np.ndarray:
    """Divide floating-point images by their white value. Images of 8 or 16 bits are returned unchanged."""
    return pixels / np.float32(data_range or 1) if pixels.dtype == np.float32 else pixels


def _tiff_pixels(path: Path, page: int | None) -> np.ndarray | None:
    with errors_in_one_sentence(path):
        if page is None and (layout := read_layout(path)) is not None:
            check_single_page(path, "an image", layout.count)
        return read_page(path, page or 0)


def _check_range(path: Path, pixels: np.ndarray, data_range: float | None, key: str) -> None:
    """Reject values above white, values that are not finite, and an unknown white value."""
    if pixels.dtype == np.uint8 and data_range not in (None, 255):
        raise UnreadableImage(f"{path} has 8 bits, but data_range is {data_range}: unset {key}, or remove the file")
    if pixels.dtype == np.float32:
        if bad := int((~np.isfinite(pixels)).sum()):
            raise UnreadableImage(f"{path} has {bad} values that are NaN or infinite; replace them by numbers")
        if data_range is None:
            largest = np.abs(pixels).max()
            raise UnreadableImage(
                f"{path} has floating-point values up to {largest:g}, so its white value is unknown: set {key}"
            )
    elif pixels.dtype == np.uint16 and data_range is None:
        raise UnreadableImage(f"{path} has 16 bits, so its white value is unknown: set {key}, up to 65535")
    extreme = pixels.flat[np.abs(pixels).argmax()]
    if data_range is not None and abs(float(extreme)) > data_range:
        bound = "" if pixels.dtype == np.float32 else f" (of at most {np.iinfo(pixels.dtype).max})"
        raise UnreadableImage(f"{path} has the value {extreme}{bound}, above data_range {data_range}")


def _sixteen_bits(path: Path, image: Image.Image) -> np.ndarray:
    """Decode 16-bit grey or colour values, `[H, W, C]`.

    Pillow cannot be used for colours, because it reduces them to 8 bits.
    """
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.uint16)[..., None]
    elif image.format == "TIFF":
        raise ValueError("its 16-bit colours are compressed or have alpha; write it uncompressed and without alpha")
    elif image.tell():
        raise ValueError("it is an animation with 16-bit colours; save each frame as its own file")
    else:
        from torchvision.io import ImageReadMode, decode_image

        pixels = decode_image(str(path), ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    if pixels.shape[2] not in (1, 3):
        raise ValueError("it has an alpha channel; write it without alpha")
    return pixels


def _without_transparency(image: Image.Image) -> Image.Image:
    """Drop an alpha channel that is fully opaque."""
    if not image.has_transparency_data:
        return image
    opaque = image.convert("RGBA")
    if np.asarray(opaque)[..., 3].min() < 255:
        raise ValueError("parts of it are transparent, so their colour is undefined; write it without alpha")
    return opaque.convert("L" if image.mode == "LA" else "RGB")
