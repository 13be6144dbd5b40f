"""Captioned images in shards: tar files in WebDataset format, or parquet files as on the Hugging Face Hub."""

import os
from pathlib import Path

from datamodules.classification.image_sets import EncodedImages
from datamodules.classification.image_shards.images import (
    ImagesByOffset,
    ImagesInParquet,
    shard_names,
    shard_paths,
)
from datamodules.classification.image_shards.parquet_shards import ParquetShard
from datamodules.classification.image_shards.tar_shards import read_captioned_tar_index
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.captioned_set import Captioned, CaptionedSet
from datamodules.prompts.cropped_images import CroppedImages, check_image_size


class CaptionedShards(CaptionedSet):
    """Dataset of images with captions in any number of local shards.

    In a tar file, each image (`<key>.jpg` or another format) has its caption in `<key>.txt`, or in `<key>.json` under
    `caption_column`. A parquet file has a column of encoded images and a column of captions. Images are read
    individually by position, so sampling order and resume behaviour are the same as for image files. All captions and
    image headers are read once at the start of a run.

    Args:
        data_dir: folder of the shards. None means the NOISEWORKS_DATA directory.
        shards: a folder in `data_dir`, or a pattern such as `data/train-*.parquet`. `*` selects all shards.
        image_size: height and width of the network's input images, in pixels. If buckets are used, it is the square
            root of the area of the largest bucket.
        resize: length of the short side before the square crop, in pixels. None means `image_size`.
        image_key: parquet column that contains the encoded images.
        caption_column: parquet column that contains the captions, or key of the caption in `.json` members of a tar
            file. None reads no captions, which is sufficient for an unconditional model.
        prompt: one caption for all images, such as `a photo of sks`. If it is set, captions in the shards are not read.
        buckets: aspect-ratio buckets. None crops all images to squares.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        shards: str = "*",
        image_size: int = 512,
        resize: int | None = None,
        image_key: str = "image",
        caption_column: str | None = "text",
        prompt: str | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        check_image_size(image_size, resize, buckets)
        if not shards or Path(shards).is_absolute():
            raise ValueError(f"shards must be a folder or a pattern inside data_dir, got {shards!r}")
        self.data_dir = data_dir
        self.shards = shards
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self.resize = resize
        self.image_key = image_key
        self.caption_column = caption_column
        self.prompt = prompt
        self.buckets = buckets

    @property
    def location(self) -> str:
        return os.path.realpath(data_directory(self.data_dir, "CaptionedShards"))

    def has_captions(self) -> bool:
        return self.training().captions is not None

    def training(self) -> Captioned:
        root = data_directory(self.data_dir, "CaptionedShards")
        paths = shard_paths(root, self.shards, "shards")
        names, crop = shard_names(root, paths), Crop(self.image_size, self.image_size)
        column = None if self.prompt is not None else self.caption_column
        source: EncodedImages
        if paths[0].suffix.lower() == ".parquet":
            opened = [ParquetShard(path, self.image_key, column, captioned=True) for path in paths]
            captions = [] if column is None else [text for each in opened for text in each.captions()]
            source = ImagesInParquet(names, opened, crop)
        else:
            index, texts = zip(*(read_captioned_tar_index(path, column) for path in paths), strict=True)
            captions = [text for each in texts for text in each]
            source = ImagesByOffset(names, index, crop, paths, paths)
        if self.prompt is not None:
            captions = [self.prompt] * len(source.label)
        cropped = CroppedImages(source, self.image_size, self.resize, self.buckets)
        return Captioned(cropped, None if self.prompt is None and column is None else captions)
