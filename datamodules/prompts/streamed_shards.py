"""Captioned images in parquet shards on a server or in a bucket, which are read while they are trained on."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_shards.images import ImagesInParquet
from datamodules.classification.image_shards.parquet_shards import ParquetShard
from datamodules.classification.image_shards.remote_files import remote_files
from datamodules.files.image_files import Crop, size_in_header
from datamodules.prompts.buckets import CoveringCrop
from datamodules.prompts.captioned_set import Captioned, CaptionedSet
from datamodules.prompts.cropped_images import CroppedImages, check_image_size

WAITS = (1.0, 4.0, 15.0)
"""Seconds to wait before a row group is read again after an error."""


class StreamedShards(CaptionedSet):
    """Dataset of images with captions in parquet shards that are not on this machine. Images are not stored.

    `fsspec` reads the shards: on the Hugging Face Hub, on a web server, or, with packages such as `s3fs`, in a bucket.
    The captions of all images are read at the start of a run, and images are read when they are needed, one row group
    at a time. In an epoch of training, each image occurs once. The order depends only on (seed, epoch), not on the
    number of ranks: row groups are shuffled and divided among `lanes`, and a batch takes its images from the lanes in
    turn, from shuffled row groups. Images of the same row group are therefore close together, unlike in other datasets.

    A fraction of the row groups is held out by `validation_fraction`. Each rank and each DataLoader worker reads the
    row groups of its own images and keeps `lanes` of them in memory. If `lanes` is a multiple of the number of ranks,
    and the batch size of `lanes`, each row group is read by one rank; use one worker for each rank.

    Args:
        urls: shards, such as `hf://datasets/OWNER/NAME@REVISION/data/train-*.parquet`; `*` is not supported on web
            servers. `config.yaml` and messages contain the URLs, so give tokens by environment variables instead.
        image_size: height and width of the network's input images, in pixels.
        resize: length of the short side before the square crop, in pixels. None means `image_size`.
        image_key: column that contains the encoded images.
        caption_column: column that contains the captions. None reads no captions, which is sufficient for an
            unconditional model.
        prompt: one caption for all images, such as `a photo of sks`. If it is set, captions in the shards are not read.
        lanes: number of row groups from which images are mixed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        image_size: int = 512,
        resize: int | None = None,
        image_key: str = "image",
        caption_column: str | None = "text",
        prompt: str | None = None,
        lanes: int = 8,
    ) -> None:
        check_image_size(image_size, resize, None)
        at_least(1, lanes=lanes, urls=len(urls))
        self.urls = urls
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self.resize = resize
        self.image_key = image_key
        self.caption_column = caption_column
        self.prompt = prompt
        self.lanes = lanes

    @property
    def location(self) -> str:
        return self.urls[0]

    def has_captions(self) -> bool:
        return self.prompt is not None or self.caption_column is not None

    def training(self) -> Captioned:
        column = None if self.prompt is not None else self.caption_column
        files = remote_files(self.urls)
        opened = [ParquetShard(file, self.image_key, column, captioned=True) for file in files]
        if not any(len(each) for each in opened):
            raise ValueError(f"there are no images in {', '.join(file.url for file in files)}")
        captions = None if column is None else [text for each in opened for text in each.captions()]
        crop = Crop(self.image_size, self.image_size)
        source = RemoteImages([file.url for file in files], opened, crop, self.lanes)
        if self.prompt is not None:
            captions = [self.prompt] * len(source.label)
        starts = zip(source.first_row[:-1], opened, strict=True)
        first_row = np.concatenate([start + each.first_row[:-1] for start, each in starts])
        group = np.searchsorted(first_row, np.arange(len(source.label)), side="right") - 1
        images = StreamedImages(source, self.image_size, self.resize)
        return Captioned(images, captions, number=group, lanes=self.lanes)


class RemoteImages(ImagesInParquet):
    """Images in parquet shards on a server. After an error of the server, a row group is read again."""

    _last: tuple[list[int], list[tuple[int, str, bytes]]] = [], []

    def locate(self, row: NDArray[np.int64]) -> Iterator[tuple[int, str, bytes]]:
        if self._last[0] != row.tolist():  # the size conditions and the images of a batch are read one after the other
            self._last = row.tolist(), list(super().locate(row))
        yield from self._last[1]

    def _read_group(self, number: int, part: int) -> Any:
        for wait in WAITS:
            try:
                return super()._read_group(number, part)
            except (OSError, ValueError) as error:
                rank_zero_warn(f"{error}; reading it again in {wait:g} s")
                time.sleep(wait)
        return super()._read_group(number, part)


class StreamedImages(CroppedImages):
    """Images whose sizes are known only once they are read, cropped to squares."""

    def __init__(self, source: RemoteImages, image_size: int, resize: int | None) -> None:
        self.source: RemoteImages = source
        self.masks = self.conditions = None
        self.label = source.label
        self.size = np.zeros((len(self.label), 2), dtype=np.int64)
        self.bucket_sizes = [(image_size, image_size)]
        self.bucketed = self.masked = self.conditioned = False
        self.bucket: NDArray[np.int64] = np.zeros(len(self.label), dtype=np.int64)
        self.crops = [CoveringCrop(image_size, image_size, (resize or image_size) / image_size)]
        self.num_uniform = CoveringCrop.num_uniform
        self.parts = [self]

    def size_conditions(self, row: Tensor, uniform: Tensor | None, mirrored: Tensor | None = None) -> Tensor:
        for position, name, content in self.source.locate(row.numpy()):
            self.size[row[position]] = size_in_header(name, content)
        return self._conditions(row.numpy(), uniform, mirrored)
