"""The user's folders of images and masks of one structure, with or without annotated training images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.arguments import at_least, one_of
from datamodules.corruptions.mask_noise import MaskNoise
from datamodules.files.data_directory import Paths, data_directory
from datamodules.files.image_files import (
    SUFFIXES,
    UnreadableImage,
    WholeImage,
    eight_bits,
    image_names,
    images_at,
    opened_image,
)
from datamodules.files.pixels import read_deep_crop
from datamodules.segmentation.mask_sets import AuxiliaryMasks, MaskSet, MaskSource, no_labels


def read_image(path: Path, crop: WholeImage, channels: int) -> Tensor:
    """Read an image and resize it to a square, regardless of its aspect ratio.

    Args:
        path: image file. Unless the crop has a `data_range`, 16-bit grey values are scaled to 8 bits, and transparent
            images are composited on white.
        crop: height and width of the resized image, in pixels. Resizing is bilinear with antialiasing.
        channels: 1 for grey, 3 for colour.

    Returns:
        Image `[channels, size, size]`, uint8; float32 with white at 1 if the crop has a `data_range`.
    """
    if crop.data_range is not None:
        return torch.from_numpy(read_deep_crop(path, crop, None, channels))
    size = crop.size
    with opened_image(path) as file:
        image = eight_bits(file).convert("L" if channels == 1 else "RGB")
        resized = image.resize((size, size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).view(size, size, channels).permute(2, 0, 1)


def read_square_mask(path: Path, size: int) -> Tensor:
    """Read a mask and resize it to a square. Pixels above half of the file's maximum value belong to the structure.

    Returns:
        uint8 mask `[size, size]`. It is 1 in the structure, and otherwise 0.
    """
    with opened_image(path, "a mask") as image:
        opaque = eight_bits(image, "black") if image.has_transparency_data else image
        values = np.asarray(opaque.convert("L") if opaque.mode in ("P", "RGB", "1") else opaque)
        inside = values > values.max() / 2
        resized = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).resize(
            (size, size), Image.Resampling.BILINEAR
        )
        return torch.from_numpy((np.asarray(resized) >= 128).astype(np.uint8))


def required_files(folder: Path, holds: str) -> list[str]:
    """List the paths of the image files in a folder, sorted and relative to the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"MaskFolders: {folder} does not exist; it must contain {holds}")
    found = image_names(folder)
    if not found:
        raise FileNotFoundError(
            f"MaskFolders: {folder} has no file that ends with {', '.join(SUFFIXES)}; it must contain {holds}"
        )
    return found


def stems(names: Sequence[str], folder: Path) -> list[str]:
    """Strip the suffixes from file names."""
    plain = [name.rsplit(".", 1)[0] for name in names]
    if len(set(plain)) != len(plain):
        twice = next(name for name in plain if plain.count(name) > 1)
        raise ValueError(f"MaskFolders: {folder} has two files {twice} that differ only in their suffix")
    return plain


def paired_files(images: Path, names: Sequence[str], masks: Path, holds: str) -> list[Path]:
    """Find the mask file of each image. A mask file has the name of its image, with any suffix."""
    of_stem = {name.rsplit(".", 1)[0]: masks / name for name in required_files(masks, holds)}
    plain = stems(names, images)
    if lacking := [name for name in plain if name not in of_stem]:
        raise FileNotFoundError(
            f"MaskFolders: {masks} has no mask for {len(lacking)} of the {len(plain)} images of {images}: "
            f"the first is {lacking[0]}"
        )
    return [of_stem[name] for name in plain]


class ResizedFiles(MaskSource):
    """Images and masks in files, resized to squares of one size. Mask files are optional.

    Args:
        image: image files, `[N]`.
        mask: mask files, `[N]`. None means empty masks.
        crop: how images and masks are resized.
        channels: number of image channels, 1 or 3.
    """

    def __init__(self, image: Sequence[Path], mask: Sequence[Path] | None, crop: WholeImage, channels: int) -> None:
        self.image = list(image)
        self.mask = None if mask is None else list(mask)
        self.crop = crop
        self.side = crop.size
        self.channels = channels
        self.data_range = 255 if crop.data_range is None else 1
        self.size = torch.full((len(self.image), 2), self.side)
        self.noise: MaskNoise | None = None

    def masks(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.mask is None:
            return no_labels(len(index), self.side), None
        read = torch.stack([read_square_mask(self.mask[sample], self.side) for sample in index.tolist()])
        return (read, None) if self.noise is None else (self.noise.apply(read, 2, index), read)

    def whole(self, index: Tensor, masks: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.stack([self._image(sample) for sample in index.tolist()]), masks

    def _image(self, sample: int) -> Tensor:
        try:
            return read_image(self.image[sample], self.crop, self.channels)
        except UnreadableImage as error:
            if self.unreadable is None:
                raise
            self.unreadable[sample] = str(error)
            kind = torch.uint8 if self.crop.data_range is None else torch.float32
            return torch.zeros(self.channels, self.side, self.side, dtype=kind)

    def make_wrong(self, noise: MaskNoise, num_classes: int) -> None:
        self.noise = noise


class MasksOfFolder(AuxiliaryMasks):
    """Auxiliary masks from a folder. They are cached on the device on which they are first used.

    Args:
        folder: folder of masks.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        self.files = required_files(self.folder, "masks of the structure; or set data.auxiliary_masks to a model of it")

    def read(self, size: int) -> None:
        self.mask = torch.stack([read_square_mask(self.folder / name, size) for name in self.files])

    def __len__(self) -> int:
        return len(self.files)

    def masks(self, index: Tensor, size: int, seed: int) -> Tensor:
        self.mask = self.mask.to(index.device)
        return self.mask[index]


class MaskFolders(MaskSet):
    """Dataset in the user's folders of images and masks of one structure.

    Files may have any size and any format that `ImageFolder` reads.

        images/                         training images, unlabelled unless `training_masks` names a folder
        aux_masks/                      masks of the structure in other images, or synthetic ones, for `UnpairedMasks`
        val_images/, val_masks/         validation images, with masks of the same names (optional)
        test_images/, test_masks/       test images, with masks of the same names

    All images and masks are resized to squares. The pixels of a mask file that are above half of its maximum belong to
    the structure.

    Args:
        data_dir: folder that contains the folders listed above. None means the NOISEWORKS_DATA directory.
        image_size: height and width of the network's input images, in pixels.
        channels: 1 for grey images, 3 for colour images.
        training_masks: folder of training masks, relative to `data_dir`, such as a run's pseudo labels. Masks have the
            file names of the training images. None means that training starts without labels.
        data_range: stored value of a white pixel in images of 16 bits or with floating-point values, which then keep
            their depth. None means that images have 8 bits or are reduced to 8 bits.
    """

    num_classes = 2
    class_names = ("background", "structure")

    def __init__(
        self,
        data_dir: str | None = None,
        image_size: int = 256,
        channels: int = 1,
        training_masks: str | None = None,
        data_range: float | None = None,
    ) -> None:
        one_of((1, 3), channels=channels)
        at_least(8, image_size=image_size)
        self.data_dir = data_dir
        self.image_shape = (channels, image_size, image_size)
        self.crop = WholeImage(image_size, data_range)
        self.training_masks = training_masks
        self.has_training_labels = training_masks is not None

    def training(self) -> ResizedFiles:
        images = self._root() / "images"
        names = required_files(images, "the images to train on")
        masks = None
        if self.training_masks is not None:
            masks = paired_files(images, names, self._root() / self.training_masks, "a mask for each training image")
        source = self._files(images, names, masks)
        source.names = stems(names, images)
        return source

    def validation(self) -> ResizedFiles | None:
        return self._annotate("val") if (self._root() / "val_images").is_dir() else None

    def test(self) -> ResizedFiles:
        return self._annotate("test")

    def new_images(self, folder: Paths) -> ResizedFiles:
        root, names = images_at(folder, "predict_dir")
        source = self._files(root, names, None)
        source.names = stems(names, root)
        source.unreadable = {}
        return source

    def auxiliary_masks(self) -> MasksOfFolder:
        return MasksOfFolder(str(self._root() / "aux_masks"))

    def _root(self) -> Path:
        return data_directory(self.data_dir, "MaskFolders")

    def _annotate(self, split: str) -> ResizedFiles:
        images, masks = (self._root() / f"{split}_{kind}" for kind in ("images", "masks"))
        names = required_files(images, "annotated images")
        return self._files(images, names, paired_files(images, names, masks, f"a mask for each of {images.name}"))

    def _files(self, folder: Path, names: Sequence[str], masks: Sequence[Path] | None) -> ResizedFiles:
        return ResizedFiles([folder / name for name in names], masks, self.crop, self.image_shape[0])
