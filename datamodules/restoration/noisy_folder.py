"""The user's noisy images, without clean images."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.files.bayer import SUFFIXES as RAW_SUFFIXES
from datamodules.files.bayer import read_raw
from datamodules.files.data_directory import Paths, given_files
from datamodules.files.image_files import UnreadableImage, images_at
from datamodules.files.pixels import page_layout, page_names, read_pixels, scaled_if_float
from datamodules.files.tiff_files import Layout
from datamodules.loading.global_batches import Request


class NoisyFolder:
    """Images in a folder and its subfolders, or in one file. The images are decoded on access.

    Each page of a TIFF file or frame of an animation is an image, and `stacks` has the arrangement of these pages.
    Floating-point images are divided by `data_range`; they are not clipped.
    All files are decoded once at the start to find damaged files. This check takes little time compared with
    restoration. Damaged files are skipped, and `unreadable` lists them with the reasons.

    Args:
        folder: folder of images, one image file, or a list; see `given_files`.
        channels: number of channels of the returned images, 1 or 3. If it is 3, grey images become three equal
            channels. If it is 1, colour images count as unreadable. None leaves the channels of each image unchanged.
        data_range: stored value of a white pixel. It is required for 16-bit and floating-point images.
    """

    dtype: torch.dtype | None = None
    """Type in which restored images are written. None means the type of the file."""

    def __init__(self, folder: Paths, channels: int | None = None, data_range: float | None = None) -> None:
        self.channels = channels
        self.data_range = data_range
        self.folder, found = self._find(folder)
        self.files: list[tuple[str, int]] = []
        self.names: list[str] = []
        self.stacks: dict[str, Layout] = {}
        self.sizes: list[tuple[int, ...]] = []
        self.unreadable: list[str] = []
        for file in found:
            stem = Path(file).with_suffix("").as_posix()
            try:
                layout = self._layout(file)
                names = page_names(layout, stem)
                sizes = [self._size(file, page) for page in range(len(names))]
            except UnreadableImage as error:
                self.unreadable.append(str(error))
                continue
            self.files += [(file, page) for page in range(len(names))]
            self.names += names
            self.sizes += sizes
            if layout is not None:
                self.stacks[stem] = layout
        if not self.files:
            raise ValueError(f"data.predict_dir {self.folder}: no image can be read: {'; '.join(self.unreadable)}")
        name, count = Counter(self.names).most_common(1)[0]
        if count > 1:
            raise ValueError(f"data.predict_dir {self.folder} has several images named {name}; rename all but one")

    def _find(self, paths: Paths) -> tuple[Path, list[str]]:
        return images_at(paths, "data.predict_dir")

    def _layout(self, file: str) -> Layout | None:
        return page_layout(self.folder / file)

    def _size(self, file: str, page: int) -> tuple[int, ...]:
        pixels = self._read(file, page)
        return *pixels.shape, pixels.itemsize

    def _read(self, file: str, page: int) -> Any:
        path = self.folder / file
        channels = None if self.channels == 1 else self.channels
        pixels = read_pixels(path, channels, self.data_range, "data.data_range", page)
        if self.channels == 1 and len(pixels) != 1:
            raise UnreadableImage(
                f"{path} is a colour image, but data.training or data.test are grey; convert it to grey"
            )
        return scaled_if_float(pixels, self.data_range)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        noisy = torch.stack([torch.from_numpy(self._read(*self.files[row])) for row in rows])
        return {
            "noisy": noisy,
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
            "name": [self.names[row] for row in rows],
            "data_range": 255 if noisy.dtype == torch.uint8 else self.data_range,
            "dtype": self.dtype or noisy.dtype,
        }


class RawFolder(NoisyFolder):
    """Raw images in a folder and its subfolders, or one raw image, packed and brightened.

    Damaged files are skipped, as in `NoisyFolder`.

    Args:
        folder: folder of raw images, one raw image, or a list; see `given_files`.
        ratio: factor by which images are brightened. It replaces the exposure ratio, which these images do not have.
        channels: 4 for Bayer sensors, 9 for X-Trans sensors.
    """

    dtype = torch.uint16

    def __init__(self, folder: Paths, ratio: float = 1.0, channels: int = 4) -> None:
        self.ratio = ratio
        super().__init__(folder, channels, data_range=65535)

    def _find(self, paths: Paths) -> tuple[Path, list[str]]:
        return given_files(paths, "data.predict_dir", raw_names)

    def _layout(self, file: str) -> None:
        return None

    def _read(self, file: str, page: int) -> Any:
        try:
            raw = read_raw(self.folder / file, xtrans=self.channels == 9)
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
        return raw.pack().astype(np.float32) * np.float32(self.ratio / (raw.white - raw.black))


def raw_names(folder: Path) -> list[str]:
    """List the raw images in a folder and its subfolders, as sorted relative names."""
    files = [each for each in folder.rglob("*") if each.suffix.lower() in RAW_SUFFIXES and each.is_file()]
    if not files:
        ends = ", ".join(RAW_SUFFIXES)
        raise FileNotFoundError(f"data.predict_dir: {folder} holds no raw image; expected files that end with {ends}")
    return sorted(each.relative_to(folder).as_posix() for each in files)
