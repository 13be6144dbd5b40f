"""Street View House Numbers, digits in photographs: 73,257 training and 26,032 test images, colour, 32 x 32 pixels.

Source: Netzer, Wang, Coates, Bissacco, Wu and Ng, Reading Digits in Natural Images with Unsupervised Feature Learning,
NIPS Workshop on Deep Learning and Unsupervised Feature Learning 2011.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision

from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.files.data_directory import data_directory, download_directory
from datamodules.files.limits import to_int64
from datamodules.files.mat_files import read_mat


class SVHN(ImageSet):
    """SVHN in torchvision's layout: `train_32x32.mat` and `test_32x32.mat`, in `data_dir` or its subfolder `svhn`.

    In the files, the digit 0 has the label 10. `SVHN` changes the label of this digit to 0.

    Args:
        data_dir: folder that contains the files. None means the NOISEWORKS_DATA directory.
        download: whether to download missing files (64 and 182 MB).
    """

    num_classes = 10
    image_shape = (3, 32, 32)

    def __init__(self, data_dir: str | None = None, download: bool = False) -> None:
        self.data_dir = data_dir
        self.download = download

    def fetch_missing(self) -> None:
        if self.download:
            root = download_directory(self.data_dir)
            for split in ("train", "test"):
                torchvision.datasets.SVHN(str(root), split=split, download=True)

    def training(self) -> ImagesInMemory:
        return self._read("train")

    def test(self) -> ImagesInMemory:
        return self._read("test")

    def _read(self, split: str) -> ImagesInMemory:
        directory = data_directory(self.data_dir, "SVHN")
        name = f"{split}_32x32.mat"
        places = [Path(directory, folder, name) for folder in ("", "svhn", "SVHN")]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"SVHN: found {name} neither in {directory} nor in its folder svhn; set data_dir to the folder that "
                f"contains it, or set download to true"
            )
        try:
            stored, given = (read_mat(file, key) for key in ("X", "y"))
            image = torch.from_numpy(np.ascontiguousarray(stored.transpose(3, 2, 0, 1)))
        except ValueError as error:
            raise ValueError(f"SVHN: {file} is damaged or not an SVHN file ({error}); fetch it again") from error
        label = torch.from_numpy(to_int64(given, 1, self.num_classes, file, "label").reshape(-1)) % 10
        if len(image) != len(label) or tuple(image.shape[1:]) != self.image_shape or image.dtype != torch.uint8:
            raise ValueError(
                f"SVHN: {file} has {image.dtype} images {list(image.shape)} and {len(label)} labels, expected one "
                f"label per image [3, 32, 32] of uint8; fetch it again"
            )
        return ImagesInMemory(image, label)
