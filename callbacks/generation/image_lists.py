"""Real images by position, of any data set or folder, as bytes: what generated images are compared with."""

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
"""Data sets whose images can be read, of whatever kind."""


class ImageList(Protocol):
    """Images by position; a `Dataset` whose items are batches."""

    name: str
    in_memory: bool
    identity: dict[str, Any]
    """All by which the images are known again, as JSON values."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: range) -> list[Tensor]:
        """Give images, uint8 `[C, H, W]` each, of perhaps different sizes."""
        ...

    def name_of(self, row: int) -> str:
        """Name an image, for messages."""
        ...


def in_bytes(stored: Tensor, data_range: float) -> Tensor:
    """Scale stored values, `data_range` for white, to 0...255, rounded down as generated images are."""
    if stored.dtype == torch.uint8 and data_range == 255:
        return stored
    if stored.is_floating_point():
        return (stored * (255 / data_range)).clamp(0, 255).to(torch.uint8)
    return (stored.long() * 255).div(int(data_range), rounding_mode="floor").to(torch.uint8)


class SourceImages:
    """The images of one split of a set of labelled images.

    Args:
        source: the split.
        name: of the set and the split.
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
    """Images in memory, as sets of pairs give them; of pairs, the clean ones.

    Args:
        images: `[C, H, W]` each.
        data_range: the stored value of white.
        name: of the set and the split.
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
    """The images in a folder and its subfolders, in colour, each decoded when it is asked for.

    Args:
        folder: the folder; its images are known again by their names, sizes and times of modification.

    Raises:
        FileNotFoundError: if there is no image.
    """

    in_memory = False

    def __init__(self, folder: Path) -> None:
        required_folder(folder, "images")
        self.folder = folder
        self.name = folder.absolute().name
        self.names = np.array([os.fsencode(name) for name in image_names(folder)], dtype=np.bytes_)
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
    """Read a split of a data set.

    Args:
        images: the set.
        split: training (all of it, before any is held out), validation or test.
        seed: random seed, for sets that are drawn.
        device: where this process computes.

    Raises:
        ValueError: if the set has no such split.
    """
    name = f"{type(images).__name__}-{split}"
    if isinstance(images, PairSet):
        read = images.images(split)
        return ArrayImages(read.stored, read.data_range, name)
    if isinstance(images, CaptionedSet):
        source = images.training().source if split == "training" else None
    else:
        source = getattr(images.prepared(seed, device), split)()
    if source is None:
        raise ValueError(f"split: {type(images).__name__} has no {split} images of its own; use training")
    return SourceImages(source, name)
