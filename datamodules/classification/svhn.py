"""Street View House Numbers: 73,257 + 26,032 colour images of digits cut from photographs, 32 x 32 pixels.

Source: Netzer, Wang, Coates, Bissacco, Wu and Ng, Reading Digits in Natural Images with Unsupervised Feature Learning,
NIPS Workshop on Deep Learning and Unsupervised Feature Learning 2011.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision

from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.files.data_directory import data_directory, download_directory


class SVHN(ImageSet):
    """SVHN from torchvision's layout: `train_32x32.mat` and `test_32x32.mat`, in `data_dir` or its folder `svhn`.

    The files call the digit 0 class 10; here it is 0.

    Args:
        data_dir: folder that holds the files; None looks where NOISEWORKS_DATA points.
        download: fetch missing files (64 and 182 MB).

    Raises:
        FileNotFoundError: if a file is missing and `download` is false.
        ValueError: if a file is damaged.
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
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        directory = data_directory(self.data_dir, "SVHN")
        name = f"{split}_32x32.mat"
        places = [Path(directory, folder, name) for folder in ("", "svhn", "SVHN")]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"SVHN: found {name} neither in {directory} nor in its folder svhn; set data_dir to the folder that "
                f"holds it, or download to true to fetch it"
            )
        try:
            content = loadmat(file)
            image = torch.from_numpy(np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)))
            label = torch.from_numpy(content["y"].astype(np.int64).reshape(-1)) % 10
        except (MatReadError, KeyError, ValueError, OSError, NotImplementedError, TypeError) as error:
            raise ValueError(f"SVHN: {file} is damaged or no SVHN file ({error}); fetch it again") from error
        if len(image) != len(label) or tuple(image.shape[1:]) != self.image_shape or image.dtype != torch.uint8:
            raise ValueError(
                f"SVHN: {file} holds {image.dtype} images {list(image.shape)} and {len(label)} labels, and not one "
                f"label for each image [3, 32, 32] of uint8; fetch it again"
            )
        return ImagesInMemory(image, label)
