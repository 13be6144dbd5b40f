"""A folder of the user's noisy images, without clean images."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.files.bayer import SUFFIXES as RAW_SUFFIXES
from datamodules.files.bayer import read_raw
from datamodules.files.image_files import SUFFIXES, UnreadableImage, image_names
from datamodules.files.pixels import read_pixels
from datamodules.loading.global_batches import Request


class NoisyFolder:
    """Images in a folder and its subfolders. The images are decoded on access.

    All files are decoded once at the start to find damaged files. This check takes little time compared with
    restoration. Damaged files are skipped, and `unreadable` lists them with the reasons.

    Args:
        folder: folder of images.
        channels: number of channels of the returned images, 1 or 3. If it is 3, grey images become three equal
            channels. If it is 1, colour images count as unreadable. None leaves the channels of each image unchanged.
        data_range: stored value of a white pixel. It is required for 16-bit images.

    Raises:
        FileNotFoundError: if the folder does not exist or has no image.
        ValueError: if two file names differ only in their suffix, or if no image can be read.
    """

    suffixes: tuple[str, ...] = SUFFIXES

    def __init__(self, folder: str, channels: int | None = None, data_range: int | None = None) -> None:
        self.folder = Path(folder).expanduser()
        self.channels = channels
        self.data_range = data_range
        if not self.folder.is_dir():
            raise FileNotFoundError(f"data.predict_dir {self.folder} is not a folder")
        found = self._found()
        if not found:
            raise FileNotFoundError(
                f"data.predict_dir {self.folder} has no image; expected files that end with {', '.join(self.suffixes)}"
            )
        self.files: list[str] = []
        self.sizes: list[tuple[int, ...]] = []
        self.unreadable: list[str] = []
        for file in found:
            try:
                pixels = self._read(file)
            except UnreadableImage as error:
                self.unreadable.append(str(error))
            else:
                self.files.append(file)
                self.sizes.append((*pixels.shape, pixels.itemsize))
        if not self.files:
            raise ValueError(f"data.predict_dir {self.folder}: no image can be read: {'; '.join(self.unreadable)}")
        self.names = [Path(file).with_suffix("").as_posix() for file in self.files]
        name, count = Counter(self.names).most_common(1)[0]
        if count > 1:
            raise ValueError(f"data.predict_dir {self.folder} has several images named {name}; rename all but one")

    def _found(self) -> list[str]:
        return image_names(self.folder)

    def _read(self, file: str) -> Any:
        path = self.folder / file
        pixels = read_pixels(path, None if self.channels == 1 else self.channels, self.data_range, "data.data_range")
        if self.channels == 1 and len(pixels) != 1:
            raise UnreadableImage(
                f"{path} is a colour image, but data.training or data.test are grey; convert it to grey"
            )
        return pixels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        noisy = torch.stack([torch.from_numpy(self._read(self.files[row])) for row in rows])
        return {
            "noisy": noisy,
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
            "name": [self.names[row] for row in rows],
            "data_range": 255 if noisy.dtype == torch.uint8 else self.data_range,
        }


class RawFolder(NoisyFolder):
    """Raw images in a folder and its subfolders. They are packed, brightened, and otherwise read as by `NoisyFolder`.

    Args:
        folder: folder of raw images.
        ratio: factor by which images are brightened. It replaces the exposure ratio, which these images do not have.
        channels: 4 for Bayer sensors, 9 for X-Trans sensors.
    """

    suffixes = RAW_SUFFIXES

    def __init__(self, folder: str, ratio: float = 1.0, channels: int = 4) -> None:
        self.ratio = ratio
        super().__init__(folder, channels, data_range=65535)

    def _found(self) -> list[str]:
        found = self.folder.rglob("*")
        files = (path for path in found if path.suffix.lower() in self.suffixes and path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def _read(self, file: str) -> Any:
        try:
            raw = read_raw(self.folder / file, xtrans=self.channels == 9)
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
        return raw.packed().astype(np.float32) * np.float32(self.ratio / (raw.white - raw.black))
