"""Images read with the package `datasets`, from the Hugging Face Hub or from a local folder."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_sets import EncodedImages
from datamodules.classification.image_shards.named_splits import NamedSplits
from datamodules.classification.image_shards.parquet_shards import ROWS_AT_ONCE
from datamodules.files.image_files import Crop, UnreadableImage, chosen_crop, read_crop, size_in_header
from datamodules.files.limits import sentence

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
BUILDERS = ("imagefolder", "parquet", "arrow", "cache")
"""Allowed builders of `datasets`: they read only images and tables, and do not query databases or follow links."""


class ImagesInDataset(EncodedImages):
    """Images in a memory-mapped `datasets.Dataset`, decoded on access.

    Args:
        data: the dataset.
        name: name of the dataset and the split, for error messages.
        split: name of the split; a sample is named `<split>/<row>`.
        image_key: column of images.
        label_key: column of integer labels; None means that labels are not read, and that all labels are 0.
        crop: crop of each image.
    """

    def __init__(self, data: Any, name: str, split: str, image_key: str, label_key: str | None, crop: Crop) -> None:
        import pyarrow

        types = {field.name: field.type for field in data.features.arrow_schema}
        for key, column in (("image_key", image_key), ("label_key", label_key)):
            if column is not None and column not in types:
                raise ValueError(f"{name}: {key} {column} is not a column; the columns are {', '.join(types)}")
        image = types[image_key]
        if not (pyarrow.types.is_struct(image) and {"bytes", "path"} <= {field.name for field in image}):
            raise ValueError(f"{name}: the column {image_key} must hold images, got {data.features[image_key]}")
        self.label = torch.zeros(len(data), dtype=torch.int64)
        if label_key is not None:
            if not pyarrow.types.is_integer(types[label_key]):
                raise ValueError(
                    f"{name}: the column {label_key} must hold whole numbers, got {data.features[label_key]}"
                )
            label = whole_column(data, label_key, name, "label")
            self.label = torch.from_numpy(label.to_numpy().astype(np.int64))
        self.images = data.select_columns([image_key]).with_format("arrow")
        self.name = name
        self.split = split
        self.image_key = image_key
        self.crop = crop
        self.num_uniform = crop.num_uniform

    @property
    def names(self) -> list[str]:
        return [f"{self.split}/{row}" for row in range(len(self.label))]

    def _encode(self, rows: Sequence[int]) -> Iterator[tuple[str, bytes | None]]:
        """Per row, yield two values: a name for error messages and the encoded image, or the image's path and None."""
        for row, each in zip(rows, self.images[list(rows)][self.image_key].to_pylist(), strict=True):
            described, image = f"{self.name}: row {row}", each or {}
            if image.get("bytes") is None and not image.get("path"):
                raise UnreadableImage(f"{described} has no image; replace or remove it")
            yield (described, image["bytes"]) if image.get("bytes") is not None else (image["path"], None)

    def sizes(self) -> list[tuple[int, int]]:
        every = range(len(self.label))
        starts = every[::ROWS_AT_ONCE]
        return [size_in_header(*each) for start in starts for each in self._encode(every[start:][:ROWS_AT_ONCE])]

    def encoded(self) -> Iterator[bytes]:
        for row in range(len(self.label)):
            [(place, content)] = self._encode([row])
            yield Path(place).read_bytes() if content is None else content

    def read(self, row: Tensor, uniform: Tensor | None, crop: Crop) -> Tensor:
        batch = torch.empty(len(row), 3, *crop.shape, dtype=torch.uint8)
        numbers = [None] * len(row) if uniform is None else uniform.tolist()
        for position, ((place, encoded), own) in enumerate(zip(self._encode(row.tolist()), numbers, strict=True)):
            batch[position] = torch.from_numpy(read_crop(place, crop, own, encoded)).permute(2, 0, 1)
        return batch


def whole_column(data: Any, key: str, name: str, what: str) -> Any:
    """Read a column as an Arrow array.

    Args:
        data: a `datasets.Dataset`.
        key: name of the column.
        name: name of the dataset and the split, for error messages.
        what: description of a value, for error messages.
    """
    values = data.select_columns([key]).with_format("arrow")[:][key]
    if values.null_count:
        missing = int(values.combine_chunks().is_null().to_numpy(zero_copy_only=False).argmax())
        raise ValueError(f"{name}: row {missing} has no {what}")
    return values


class HuggingFaceImages(NamedSplits):
    """Labelled images read with the package `datasets` (extra `hub-data`), without running code from the dataset.

    The dataset is on the Hugging Face Hub or in a local folder. A dataset on the Hub is downloaded once, to the cache
    of `datasets`. A local folder contains either a dataset saved by `save_to_disk`, or images in one folder per class
    (`imagefolder`). Images are read by position from memory-mapped files. Label noise, folds and resuming therefore
    work as for image files. Label tables identify a sample by its index, or by its name `<split>/<row>`. To read
    parquet and tar files without copying them, use `ImageShards`.

    Args:
        name: name of the dataset on the Hub, such as `uoft-cs/cifar10`, or a local folder.
        num_classes: number of classes; labels are 0 ... `num_classes` - 1.
        config: name of the dataset's configuration on the Hub; None means its default.
        train: training split, such as `train` or `train[:90%]`.
        validation: validation split; None means no validation split.
        test: test split; None means no test split.
        image_key: column of images.
        label_key: column of labels.
        image_size: height and width of the network's input, in pixels.
        resize: length of the short side of validation and test images after resizing, before the centre crop, in
            pixels; None means `image_size * 256 / 224`.
        min_area: smallest area of a random resized training crop, as a fraction of the image's area, in (0, 1]; None
            means that training images are resized like test images, then cropped at a random position.
        revision: branch, tag or commit of a dataset on the Hub; None means its main branch.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        config: str | None = None,
        train: str = "train",
        validation: str | None = None,
        test: str | None = "test",
        image_key: str = "image",
        label_key: str = "label",
        image_size: int = 224,
        resize: int | None = None,
        min_area: float | None = 0.08,
        revision: str | None = None,
    ) -> None:
        at_least(1, num_classes=num_classes)
        self.crop = chosen_crop(image_size, resize, min_area)
        self.image_shape = (3, image_size, image_size)
        self.num_classes = num_classes
        self.name = name
        self.config = config
        self.splits = {"train": train, "validation": validation, "test": test}
        self.image_key = image_key
        self.label_key = label_key
        self.revision = revision

    def fetch_missing(self) -> None:
        with contextlib.suppress(ImportError, OSError, ValueError):  # all ranks raise the error when they read
            self._load("train")

    def read_split(self, key: str) -> ImagesInDataset:
        split = str(self.splits[key])
        described = f"{self.name}, split {split}"
        data = self._load(key)
        source = ImagesInDataset(data, described, split, self.image_key, self.label_key, self.crop)
        self.check_labels(source.label, lambda row: f"{described}: row {row}")
        names = getattr(data.features[self.label_key], "names", None)
        if self.class_names is None and names is not None and len(names) == self.num_classes:
            self.class_names = names
        return source

    def _load(self, key: str) -> Any:
        split = str(self.splits[key])
        return loaded_split(self.name, split, key, "HuggingFaceImages", self.config, self.revision)


def loaded_split(
    name: str, split: str, key: str, needed_by: str, config: str | None = None, revision: str | None = None
) -> Any:
    """Load a split as a memory-mapped dataset.

    Args:
        name: name of the dataset on the Hub, or a local folder.
        split: the split, such as `train` or `train[:90%]`.
        key: name of the argument that selects the split, for error messages.
        needed_by: name of the class that needs the dataset, for error messages.
        config: name of the dataset's configuration on the Hub; None means its default.
        revision: branch, tag or commit of a dataset on the Hub; None means its main branch.
    """
    try:
        import datasets
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{needed_by} needs the package datasets: pip install 'noiseworks[hub-data]'", name="datasets"
        ) from error
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise, it reports even local folders to a server
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not HUB_NAME.fullmatch(name):
            raise FileNotFoundError(f"{name} is not a folder, and not the name of a dataset such as uoft-cs/cifar10")
        if name.isidentifier() and find_spec(f"datasets.packaged_modules.{name}") is not None:
            raise ValueError(f"{name} is a builder, not a dataset, and would read any files; give a dataset's name")
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(folder))
            splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
            if split not in splits:
                raise ValueError(f"{key} is {split}, but the dataset has the splits {', '.join(splits)}")
            return splits[split]
        if folder.is_dir():  # set the builder, because a README.md could list web addresses
            builder = datasets.load_dataset_builder("imagefolder", data_dir=str(folder))
        else:
            builder = datasets.load_dataset_builder(name, config, revision=revision)
        kind = type(builder).__module__.rpartition(".")[2]
        if kind not in BUILDERS:
            raise ValueError(f"it is read by the builder {kind} of datasets, but only images and parquet are supported")
        builder.download_and_prepare()
        return builder.as_dataset(split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"there is no dataset {name} on the Hugging Face Hub, or it is private or gated: accept its "
            f"conditions there, and log in with `hf auth login` ({sentence(error)})"
        ) from error
    except ConnectionError as error:
        raise FileNotFoundError(
            f"{name} is not a folder, is not in the cache of datasets, and cannot be downloaded: {sentence(error)}"
        ) from error
    except Exception as error:  # datasets and pyarrow raise many exception types
        raise ValueError(f"the dataset {name} cannot be read: {sentence(error)}") from error
