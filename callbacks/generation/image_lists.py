"""Lists of real images from any dataset or folder, for comparison with generated images."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.classification.cached_features import source_fingerprint
from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.files.image_files import image_names, required_folder
from datamodules.files.pixels import read_pixels
from datamodules.prompts.captioned_set import CaptionedSet
from datamodules.restoration.images import PairSet, Split

AnySet = ImageSet | PairSet | CaptionedSet
"""Types of datasets from which images can be read."""


class ImageList(Protocol):
    """A list of images in the form of a `Dataset` whose items are batches."""

    name: str
    in_memory: bool
    identity: dict[str, Any]
    """Everything that identifies the images, as JSON values."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: range) -> list[Tensor]:
        """Return images, uint8 `[C, H, W]` each, whose sizes may differ."""
        ...

    def name_of(self, row: int) -> str:
        """Return the name of an image, for error messages."""
        ...


def in_bytes(stored: Tensor, data_range: float) -> Tensor:
    """Scale values from [0, `data_range`] to 0...255, and round them down, as for generated images."""
    if stored.dtype == torch.uint8 and data_range == 255:
        return stored
    if stored.is_floating_point():
        return (stored * (255 / data_range)).clamp(0, 255).to(torch.uint8)
    return (stored.long() * 255).div(int(data_range), rounding_mode="floor").to(torch.uint8)


class SourceImages:
    """The images of one split of a labelled dataset.

    Args:
        source: split of the dataset.
        name: name of the dataset and the split.
    """

    def __init__(self, source: ImageSource, name: str) -> None:
        self.source = source
        self.name = name
        self.in_memory = source.in_memory
        crop = getattr(source, "crop", None)
        self.identity = {
            "images": len(source.label),
            "digest": source_fingerprint(source),
            "crop": None if crop is None else f"{type(crop).__name__} {sorted(vars(crop).items())}",
        }

    def __len__(self) -> int:
        return len(self.source.label)

    def __getitem__(self, rows: range) -> list[Tensor]:
        return list(in_bytes(self.source.fetch(torch.tensor(rows), None), self.source.data_range))

    def name_of(self, row: int) -> str:
        return f"image {row} of {self.name}"


class ArrayImages:
    """Images in memory; for a dataset of image pairs, these are the clean images.

    Args:
        images: images, `[C, H, W]` each.
        data_range: value that denotes white.
        name: name of the dataset and the split.
    """

    in_memory = True

    def __init__(self, images: Sequence[np.ndarray], data_range: float, name: str) -> None:
        self.images = images
        self.data_range = data_range
        self.name = name
        digest = hashlib.blake2b(digest_size=16)
        for image in images:
            digest.update(f"{image.shape} {image.dtype}".encode())
            digest.update(np.ascontiguousarray(image).data)
        self.identity = {"images": len(images), "digest": digest.hexdigest(), "data_range": data_range}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: range) -> list[Tensor]:
        return [in_bytes(torch.tensor(self.images[row]), self.data_range) for row in rows]

    def name_of(self, row: int) -> str:
        return f"image {row} of {self.name}"


class FolderImages:
    """The images in a folder and its subfolders, in colour, decoded when they are accessed.

    Args:
        folder: folder of images. For caching, the set of images is identified by the files' names, sizes and
            modification times.
        names: names of the images to read, relative to the folder; None reads all images.
    """

    in_memory = False

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        if names is None:
            required_folder(folder, "images")
        self.folder = folder
        self.name = folder.absolute().name
        self.names = np.array([os.fsencode(name) for name in (names or image_names(folder))], dtype=np.bytes_)
        digest = hashlib.blake2b(digest_size=16)
        for name in self.names:
            status = os.stat(folder / os.fsdecode(name))
            digest.update(name + f" {status.st_size} {status.st_mtime_ns}\n".encode())
        self.identity = {"images": len(self.names), "digest": digest.hexdigest()}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: range) -> list[Tensor]:
        return [torch.from_numpy(read_pixels(Path(self.name_of(row)), channels=3)) for row in rows]

    def name_of(self, row: int) -> str:
        return str(self.folder / os.fsdecode(self.names[row]))


def images_of_set(images: AnySet, split: Split, seed: int, device: torch.device) -> ImageList:
    """Read a split of a dataset.

    Args:
        images: dataset to read.
        split: training, validation or test. The training split includes images that a DataModule would hold out for
            validation.
        seed: seed for datasets whose images are generated from random numbers.
        device: device of this rank.
    """
    name = f"{type(images).__name__}-{split}"
    if isinstance(images, PairSet):
        read = images.images(split)
        return ArrayImages(read.stored, read.data_range, name)
    if isinstance(images, CaptionedSet):
        source = images.training().source if split == "training" else None
    else:
        source = getattr(images.prepare(seed, device), split)()
    if source is None:
        raise ValueError(f"split: {type(images).__name__} has no {split} images of its own; use training")
    return SourceImages(source, name)
