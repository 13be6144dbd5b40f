"""A user's own images without annotation, and masks of the same structure from anywhere else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import SUFFIXES, UnreadableImage, eight_bits, image_names
from datamodules.segmentation.auxiliary_masks import ImagesWithAuxiliaryMasks, Shapes, ShapesInMemory, no_labels
from datamodules.segmentation.ellipses import EllipseShapes
from datamodules.segmentation.labelled_masks import MaskSource


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """An image, resized to a square whatever its shape.

    Args:
        path: the file; 16-bit grey values are scaled to 8 bits.
        size: height and width, in pixels; bilinear, with antialiasing.
        channels: 1 for grey, 3 for colours.

    Returns:
        `[channels, size, size]`, uint8.

    Raises:
        UnreadableImage: names the file.
    """
    try:
        with Image.open(path) as file:
            image = eight_bits(file).convert("L" if channels == 1 else "RGB")
            resized = image.resize((size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(resized)).view(size, size, channels).permute(2, 0, 1)
    except Exception as error:  # decoders raise almost anything for a damaged file
        raise UnreadableImage(f"{path} cannot be read as an image ({error}); replace or remove it") from error


def read_mask(path: Path, size: int) -> Tensor:
    """A mask, resized to a square; pixels above half of the file's greatest value are the structure.

    Returns:
        `[size, size]`, uint8, 0 and 1.

    Raises:
        UnreadableImage: names the file.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("L") if image.mode in ("P", "RGB", "RGBA", "1", "LA") else image)
            inside = values > values.max() / 2
            resized = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).resize(
                (size, size), Image.Resampling.BILINEAR
            )
            return torch.from_numpy((np.asarray(resized) >= 128).astype(np.uint8))
    except Exception as error:
        raise UnreadableImage(f"{path} cannot be read as a mask ({error}); replace or remove it") from error


def required_files(folder: Path, holds: str) -> list[str]:
    """The image files of a folder, relative to it and sorted.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it; says what it `holds`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"UnpairedMasks: {folder} does not exist; it holds {holds}")
    found = image_names(folder)
    if not found:
        raise FileNotFoundError(
            f"UnpairedMasks: {folder} holds no file that ends with {', '.join(SUFFIXES)}; it holds {holds}"
        )
    return found


def stems(names: Sequence[str], folder: Path) -> list[str]:
    """File names without suffix.

    Raises:
        ValueError: if two of them are the same.
    """
    plain = [name.rsplit(".", 1)[0] for name in names]
    if len(set(plain)) != len(plain):
        twice = next(name for name in plain if plain.count(name) > 1)
        raise ValueError(f"UnpairedMasks: {folder} holds two files {twice} that differ in their suffix alone")
    return plain


def paired_files(images: Path, names: Sequence[str], masks: Path, holds: str) -> list[Path]:
    """The mask of each image: the file of the same name, whatever its suffix.

    Raises:
        FileNotFoundError: names the first image without a mask.
    """
    of_stem = {name.rsplit(".", 1)[0]: masks / name for name in required_files(masks, holds)}
    plain = stems(names, images)
    if lacking := [name for name in plain if name not in of_stem]:
        raise FileNotFoundError(
            f"UnpairedMasks: {masks} holds no mask for {len(lacking)} of the {len(plain)} images of {images}: "
            f"{lacking[0]} is the first"
        )
    return [of_stem[name] for name in plain]


class ResizedFiles:
    """A `MaskSource` of image files, and of one mask file for each where there are any. All become squares of one size.

    Args:
        image: `[N]`, files.
        mask: `[N]`, files, or None for masks of nothing.
        size: height and width, in pixels.
        channels: of the images, 1 or 3.
    """

    num_uniform = 0
    brightest: float = 255

    def __init__(self, image: Sequence[Path], mask: Sequence[Path] | None, size: int, channels: int) -> None:
        self.image = list(image)
        self.mask = None if mask is None else list(mask)
        self.side = size
        self.channels = channels
        self.size = torch.full((len(self.image), 2), size)

    def masks(self, index: Tensor) -> tuple[Tensor, None]:
        if self.mask is None:
            return no_labels(len(index), self.side), None
        return torch.stack([read_mask(self.mask[sample], self.side) for sample in index.tolist()]), None

    def cut(self, index: Tensor, masks: dict[str, Any], uniform: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        image = [read_image(self.image[sample], self.side, self.channels) for sample in index.tolist()]
        return torch.stack(image), masks


class UnpairedMasks(ImagesWithAuxiliaryMasks):
    """Folders of images and masks, of any size, in the formats of `ImageFolder`:

        images/                         to train on, without annotation
        aux_masks/                      masks of the structure, of other images or of none
        val_images/, val_masks/         images with their masks, of the same names (optional)
        test_images/, test_masks/       likewise

    All are resized to squares. Of a mask file, pixels above half of its greatest value are the structure.

    Args:
        data_dir: folder that holds these; None takes NOISEWORKS_DATA.
        batch_size: training images of a step over all processes.
        image_size: height and width of the images that the networks get, in pixels.
        channels: 1 for grey images, 3 for colour.
        shapes: a model of the structure's shape, in place of `aux_masks`.
        pseudo_labels: folder of masks with the training images' names, as a run writes them; relative to `data_dir`.
            None begins without labels.
        evaluation_batch_size: images of an evaluation batch over all processes; None takes `batch_size`.
        num_workers: loader processes; None takes one for each free core, up to 8.
        prefetch_factor: batches that each loader process reads ahead.
        seed: of order and auxiliary masks; None takes `seed_everything`.

    Raises:
        FileNotFoundError: if a folder or a mask is missing.
        ValueError: if an argument is out of range, or a file is damaged.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        batch_size: int = 8,
        image_size: int = 256,
        channels: int = 1,
        shapes: EllipseShapes | None = None,
        pseudo_labels: str | None = None,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            evaluation_batch_size=evaluation_batch_size,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            seed=seed,
        )
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        if image_size < 8:
            raise ValueError(f"image_size must be at least 8, got {image_size}")
        self.data_dir = data_dir
        self.image_shape = (channels, image_size, image_size)
        self.shapes: Shapes | None = shapes
        self.pseudo_labels = pseudo_labels
        self.has_training_labels = pseudo_labels is not None

    def read_training(self) -> MaskSource:
        root = data_directory(self.data_dir, "UnpairedMasks")
        names = required_files(root / "images", "the images to train on")
        self.training_names = stems(names, root / "images")
        if self.shapes is None:
            folder = root / "aux_masks"
            files = required_files(folder, "masks of the structure; or set data.shapes to a model of its shape")
            self.shapes = ShapesInMemory(torch.stack([read_mask(folder / name, self.image_shape[1]) for name in files]))
        masks = None
        if self.pseudo_labels is not None:
            labels = root / self.pseudo_labels
            masks = paired_files(root / "images", names, labels, "a pseudo label for each training image")
        return self._files(root / "images", names, masks)

    def read_validation(self) -> MaskSource | None:
        root = data_directory(self.data_dir, "UnpairedMasks")
        return self._annotated(root, "val") if (root / "val_images").is_dir() else None

    def read_test(self) -> MaskSource:
        return self._annotated(data_directory(self.data_dir, "UnpairedMasks"), "test")

    def _annotated(self, root: Path, split: str) -> MaskSource:
        images, masks = root / f"{split}_images", root / f"{split}_masks"
        names = required_files(images, "annotated images")
        return self._files(images, names, paired_files(images, names, masks, f"a mask for each of {images.name}"))

    def _files(self, folder: Path, names: Sequence[str], masks: Sequence[Path] | None) -> ResizedFiles:
        channels, size, _ = self.image_shape
        return ResizedFiles([folder / name for name in names], masks, size, channels)
