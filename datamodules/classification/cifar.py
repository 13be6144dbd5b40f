"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test colour images of 32 x 32 pixels."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor

from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.files.data_directory import data_directory, download_directory
from datamodules.files.limits import check_is_file, check_unpacked


def decode_parquet(files: list[Path], image_key: str, label_key: str) -> tuple[Tensor, Tensor]:
    """Read parquet files of labelled images in the Hugging Face layout: one encoded image and one label per row.

    Args:
        files: parquet files of one split, in order.
        image_key: name of the column of encoded images, each of which is a struct `{bytes, path}`.
        label_key: name of the column of integer labels.

    Returns:
        Images `[N, C, H, W]`, uint8, and labels `[N]`, int64.
    """
    import pyarrow.parquet

    images: list[np.ndarray] = []
    labels: list[int] = []
    for file in files:
        try:
            check_is_file(file)
            described = pyarrow.parquet.read_metadata(file)
            if described.num_rows > (stored := file.stat().st_size):
                raise ValueError(f"it declares {described.num_rows} images, but has only {stored} bytes")
            groups = range(described.num_row_groups)
            check_unpacked(file, sum(described.row_group(number).total_byte_size for number in groups))
            table = pyarrow.parquet.read_table(file, columns=[image_key, label_key])
            check_unpacked(file, table.nbytes)
            encoded = table[image_key].combine_chunks().field("bytes").to_pylist()
            images += [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in encoded]
            labels += [int(one) for one in table[label_key].cast("int64").to_pylist()]
        except Exception as error:  # pyarrow and Pillow raise many exception types
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(
                f"{file} is damaged or lacks the columns {image_key}, {label_key} ({reason}); fetch it again"
            ) from error
    if len(sizes := {image.shape for image in images}) != 1:
        raise ValueError(f"{files[0].parent} has images of {len(sizes)} sizes, expected one; fetch the set again")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


class CIFAR(ImageSet):
    """Base class of `CIFAR10` and `CIFAR100`, not meant to be used directly.

    Args:
        data_dir: folder that contains the dataset, in the layout of torchvision or of Hugging Face. None means the
            NOISEWORKS_DATA directory.
        download: whether to download the dataset if it is missing. The download has torchvision's layout.
    """

    image_shape = (3, 32, 32)
    name: str
    archive: str
    torchvision_class: type[torchvision.datasets.CIFAR10]
    label_key: str

    def __init__(self, data_dir: str | None = None, download: bool = False) -> None:
        self.data_dir = data_dir
        self.download = download

    def fetch_missing(self) -> None:
        if self.download:
            root = download_directory(self.data_dir)
            if not self._parquet(root, "train"):
                self.torchvision_class(root, download=True)

    def training(self) -> ImagesInMemory:
        return self._read("train")

    def test(self) -> ImagesInMemory:
        return self._read("test")

    def _read(self, split: str) -> ImagesInMemory:
        directory = data_directory(self.data_dir, self.name)
        if files := self._parquet(directory, split):
            return ImagesInMemory(*decode_parquet(files, "img", self.label_key))
        try:
            images: Any = self.torchvision_class(directory, train=split == "train")
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"{self.name}: found neither {directory / self.archive} (torchvision's layout, complete and undamaged) "
                f"nor {split}-*.parquet (Hugging Face's layout) in {directory} or a subfolder named after the set; "
                f"set data_dir, or set download to true"
            ) from error
        image = torch.from_numpy(images.data).permute(0, 3, 1, 2).contiguous()
        return ImagesInMemory(image, torch.tensor(images.targets))

    def _parquet(self, directory: Path, split: str) -> list[Path]:
        short = self.name.lower().replace("-", "")
        for folder in ("", "plain_text", short, f"{short}/plain_text", f"{short}/{short}"):
            if files := sorted(Path(directory, folder).glob(f"{split}-*.parquet")):
                return files
        return []


class CIFAR10(CIFAR):
    """CIFAR-10, read from torchvision's `cifar-10-batches-py` or Hugging Face parquet files."""

    num_classes = 10
    name = "CIFAR-10"
    archive = "cifar-10-batches-py"
    torchvision_class = torchvision.datasets.CIFAR10
    label_key = "label"
    class_names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]  # noqa: RUF012


class CIFAR100(CIFAR):
    """CIFAR-100 with its 100 fine labels, read from torchvision's `cifar-100-python` or Hugging Face parquet files."""

    num_classes = 100
    name = "CIFAR-100"
    archive = "cifar-100-python"
    torchvision_class = torchvision.datasets.CIFAR100
    label_key = "fine_label"
    class_names = [  # noqa: RUF012
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
        "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee",
        "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant",
        "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower",
        "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
        "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate",
        "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark",
        "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
        "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout", "tulip",
        "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    ]  # fmt: skip
