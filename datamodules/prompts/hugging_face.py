"""Images with captions, read by the package `datasets` from the Hugging Face Hub or from a local folder."""

import contextlib
from typing import Any

from datamodules.classification.image_shards.hugging_face import ImagesInDataset, loaded_split, whole_column
from datamodules.files.image_files import Crop
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.captioned_set import Captioned, CaptionedSet
from datamodules.prompts.cropped_images import CroppedImages, check_image_size


class HuggingFaceCaptions(CaptionedSet):
    """Images with captions, read by the package `datasets` (`hub-data` extra). No code of a dataset is executed.

    The dataset is on the Hugging Face Hub or in a local folder. A dataset on the Hub is downloaded once to the cache of
    `datasets`. A local folder contains either a dataset saved by `save_to_disk` or images with `metadata.jsonl` or
    `metadata.csv` (`imagefolder`). Images are read by position from memory-mapped files. The headers of all images are
    read before training.

    Args:
        name: name of the dataset on the Hub, such as `lambdalabs/naruto-blip-captions`, or a local folder.
        config: name of the dataset's configuration on the Hub. None means the default configuration.
        split: split to read, such as `train` or `train[:1000]`.
        image_key: column that contains the images.
        caption_column: column that contains the captions. None reads no captions, which is sufficient for an
            unconditional model.
        image_size: height and width of the network's input images, in pixels. If buckets are used, it is the square
            root of the area of the largest bucket.
        resize: length of the short side before the square crop, in pixels. None means `image_size`.
        prompt: one caption for all images, such as `a photo of sks`. If it is set, captions in the dataset are not
            read.
        buckets: aspect-ratio buckets. None crops all images to squares.
        revision: branch, tag or commit of a dataset on the Hub. None means the main branch.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        split: str = "train",
        image_key: str = "image",
        caption_column: str | None = "text",
        image_size: int = 512,
        resize: int | None = None,
        prompt: str | None = None,
        buckets: Buckets | None = None,
        revision: str | None = None,
    ) -> None:
        check_image_size(image_size, resize, buckets)
        self.name = name
        self.config = config
        self.split = split
        self.image_key = image_key
        self.caption_column = caption_column
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self.resize = resize
        self.prompt = prompt
        self.buckets = buckets
        self.revision = revision

    def fetch_missing(self) -> None:
        with contextlib.suppress(ImportError, OSError, ValueError):  # all ranks raise the error when they read
            self._load()

    @property
    def location(self) -> str:
        return self.name

    def has_captions(self) -> bool:
        return self.training().captions is not None

    def training(self) -> Captioned:
        data = self._load()
        described = f"{self.name}, split {self.split}"
        captions = self._captions(data, described)
        crop = Crop(self.image_size, self.image_size)
        source = ImagesInDataset(data, described, self.split, self.image_key, None, crop)
        return Captioned(CroppedImages(source, self.image_size, self.resize, self.buckets), captions)

    def _load(self) -> Any:
        return loaded_split(self.name, self.split, "split", "HuggingFaceCaptions", self.config, self.revision)

    def _captions(self, data: Any, described: str) -> list[str] | None:
        import pyarrow

        key = self.caption_column
        if self.prompt is not None:
            return [self.prompt] * len(data)
        if key is None:
            return None
        types = {field.name: field.type for field in data.features.arrow_schema}
        if key not in types:
            raise ValueError(f"{described}: caption_column {key} is not a column; the columns are {', '.join(types)}")
        if not (pyarrow.types.is_string(types[key]) or pyarrow.types.is_large_string(types[key])):
            raise ValueError(f"{described}: the column {key} must contain captions as text, got {data.features[key]}")
        return whole_column(data, key, described, "caption").to_pylist()
