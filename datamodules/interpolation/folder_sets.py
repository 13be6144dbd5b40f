"""The user's photographs, with a list of image pairs for interpolation."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import image_names, required_folder
from datamodules.files.pixels import read_pixels
from datamodules.interpolation.end_points import EndPoints
from datamodules.loading.global_batches import Request
from datamodules.prompts.text_tables import entries

LIST = "pairs.csv"
COLUMNS = ("a", "b", "prompt")


class _Pair(NamedTuple):
    first: str
    second: str
    prompt: str

    @property
    def name(self) -> str:
        return f"{Path(self.first).stem}_{Path(self.second).stem}"


class PairsInFolder(EndPoints):
    """Image pairs in a folder, listed in `pairs.csv` with the columns a, b and optionally prompt.

    Columns a and b are file names relative to the folder. If there is no `pairs.csv`, there are no prompts, and each
    image forms a pair with the next image in the order of file names. Images are rotated according to their metadata
    and resized to a square, regardless of their aspect ratio. The authors' code does the same.

    Args:
        data_dir: folder of the images. None means the NOISEWORKS_DATA directory.
        image_size: height and width of images after resizing, in pixels. It must be a multiple of 8.
    """

    def __init__(self, data_dir: str | None = None, image_size: int = 768) -> None:
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8, got {image_size}")
        self.data_dir = data_dir
        self.image_shape = (3, image_size, image_size)

    def pairs(self, seed: int) -> "_FilePairs":
        return _FilePairs(data_directory(self.data_dir, "PairsInFolder"), self.image_shape[1])


class _FilePairs:
    """The image pairs. They are read on access."""

    def __init__(self, root: Path, image_size: int) -> None:
        required_folder(root, "data_dir")
        self.root = root
        self.image_size = image_size
        self.listed = self._list_pairs() if (root / LIST).is_file() else self._neighbours()
        name, count = Counter(pair.name for pair in self.listed).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{root} has several pairs named {name}; remove all but one, or rename their files")

    def _neighbours(self) -> list[_Pair]:
        names = image_names(self.root)
        if len(names) < 2:
            raise ValueError(f"{self.root} has only one image, {names[0]}, but a pair needs two")
        return [_Pair(*both, "") for both in pairwise(names)]

    def _list_pairs(self) -> list[_Pair]:
        file = self.root / LIST
        rows = [row for _, row in entries(file)]
        if not rows:
            raise ValueError(f"{file} is empty; expected the columns {', '.join(COLUMNS)} and one line per pair")
        if set(rows[0]) not in (set(COLUMNS), set(COLUMNS[:2])):
            raise ValueError(f"{file} must have the columns {', '.join(COLUMNS)}, got {', '.join(map(str, rows[0]))}")
        pairs = [_Pair(row["a"], row["b"], row.get("prompt") or "") for row in rows]
        for number, pair in enumerate(pairs, start=2):
            for name in (pair.first, pair.second):
                if not name or not (self.root / name).is_file():
                    raise FileNotFoundError(f"{file}, line {number}: {self.root / (name or '?')} does not exist")
        return pairs

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        pairs = [self.listed[row] for row in request.indices.tolist()]
        return {
            "first": torch.stack([self._read(pair.first) for pair in pairs]),
            "second": torch.stack([self._read(pair.second) for pair in pairs]),
            "data_range": 255,
            "prompt": [pair.prompt for pair in pairs],
            "name": [pair.name for pair in pairs],
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
        }

    def _read(self, name: str) -> Tensor:
        image = Image.fromarray(read_pixels(self.root / name, channels=3).transpose(1, 2, 0))
        resized = np.array(image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC))
        return torch.from_numpy(resized).permute(2, 0, 1)
