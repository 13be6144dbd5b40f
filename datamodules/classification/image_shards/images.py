"""Labelled images in shards. Each image can be read on its own, by its position."""

import contextlib
import functools
import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.classification.image_sets import EncodedImages
from datamodules.classification.image_shards.named_splits import NamedSplits
from datamodules.classification.image_shards.parquet_shards import ROWS_AT_ONCE, ParquetShard
from datamodules.classification.image_shards.tar_shards import ShardIndex, read_tar_index
from datamodules.files.array_files import read_npz
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, UnreadableImage, chosen_crop, read_crop, size_in_header
from datamodules.files.whole_files import whole_file

KINDS = (".tar", ".parquet")
_SIZES: dict[tuple[Any, ...], NDArray[np.int64]] = {}
"""Cache of image heights and widths: one array `[N, 2]` per shard, with keys from `ImagesInShards.identity`."""


class ImagesInShards(EncodedImages):
    """Images in shards, decoded on access.

    Args:
        shards: shard names, relative to the data directory and without suffix.
        label: one array per shard, which contains the labels of the shard's samples.
        crop: crop of each image.
    """

    def __init__(self, shards: Sequence[str], label: Sequence[NDArray[np.int64]], crop: Crop) -> None:
        self.shards = shards
        self.label = torch.from_numpy(np.concatenate(label))
        self.first_row = np.cumsum([0, *(len(each) for each in label)])
        self.crop = crop
        self.num_uniform = crop.num_uniform

    @property
    def names(self) -> list[str]:
        return [f"{shard}/{name}" for number, shard in enumerate(self.shards) for name in self.sample_names(number)]

    @abstractmethod
    def sample_names(self, shard: int) -> list[str]:
        """List the names of the samples of a shard."""

    @abstractmethod
    def encode(self, shard: NDArray[np.int64], place: NDArray[np.int64]) -> Iterator[tuple[int, str, bytes]]:
        """Read encoded images.

        Args:
            shard: index of the shard of each image, `[B]`.
            place: position of each image within its shard, `[B]`.

        Yields:
            For each image, in any order: its position in `shard`, its name for error messages, and its encoded bytes.
        """

    def locate(self, row: NDArray[np.int64]) -> Iterator[tuple[int, str, bytes]]:
        shard = np.searchsorted(self.first_row, row, side="right") - 1
        return self.encode(shard, row - self.first_row[shard])

    @abstractmethod
    def identity(self, shard: int) -> tuple[Any, ...]:
        """Return a cache key that identifies a shard file and its images."""

    def sizes(self) -> list[tuple[int, int]]:
        """Read the height and width of each image. The process caches the sizes of a shard until this shard changes."""
        found = [self._sizes_in(shard) for shard in range(len(self.shards))]
        return [(height, width) for each in found for height, width in each.tolist()]

    def encoded(self) -> Iterator[bytes]:
        return (content for row in range(len(self.label)) for *_, content in self.locate(np.array([row])))

    def _sizes_in(self, shard: int) -> NDArray[np.int64]:
        key = self.identity(shard)
        if key not in _SIZES:
            first, last = int(self.first_row[shard]), int(self.first_row[shard + 1])
            sizes = np.empty((last - first, 2), dtype=np.int64)
            for start in range(first, last, ROWS_AT_ONCE):
                row = np.arange(start, min(start + ROWS_AT_ONCE, last))
                for position, name, content in self.locate(row):
                    sizes[start - first + position] = size_in_header(name, content)
            _SIZES[key] = sizes
        return _SIZES[key]

    def read(self, row: Tensor, uniform: Tensor | None, crop: Crop) -> Tensor:
        batch = torch.empty(len(row), 3, *crop.shape, dtype=torch.uint8)
        numbers = None if uniform is None else uniform.tolist()
        for position, name, content in self.locate(row.numpy()):
            own = None if numbers is None else numbers[position]
            batch[position] = torch.from_numpy(read_crop(name, crop, own, content)).permute(2, 0, 1)
        return batch


class ImagesByOffset(ImagesInShards):
    """Images that are read by byte offset, from tar shards or from copies of parquet shards.

    Args:
        shards: shard names, relative to the data directory and without suffix.
        index: one index per shard, with the byte ranges and labels of its samples.
        crop: crop of each image.
        paths: paths of the shards, for error messages.
        files: files from which the images are read: the shards themselves or copies of them.
    """

    def __init__(
        self,
        shards: Sequence[str],
        index: Sequence[ShardIndex],
        crop: Crop,
        paths: Sequence[Path],
        files: Sequence[Path],
    ) -> None:
        super().__init__(shards, [each.label for each in index], crop)
        self.index = index
        self.paths = paths
        self.files = files

    def sample_names(self, shard: int) -> list[str]:
        return [os.fsdecode(name) for name in self.index[shard].name]

    def identity(self, shard: int) -> tuple[Any, ...]:
        return identity_of(self.files[shard])

    def encode(self, shard: NDArray[np.int64], place: NDArray[np.int64]) -> Iterator[tuple[int, str, bytes]]:
        for position, (number, at) in enumerate(zip(shard.tolist(), place.tolist(), strict=True)):
            found = self.index[number]
            name, size = f"{self.paths[number]}: {os.fsdecode(found.name[at])}", int(found.size[at])
            try:
                file = os.open(self.files[number], os.O_RDONLY)
                try:
                    content = os.pread(file, size, int(found.offset[at]))
                finally:
                    os.close(file)
            except OSError as error:
                raise UnreadableImage(f"{name} cannot be read ({error})") from error
            yield position, name, content


class ImagesInParquet(ImagesInShards):
    """Images in parquet shards. Reading an image reads its whole row group.

    Args:
        shards: shard names, relative to the data directory and without suffix.
        files: the shards.
        crop: crop of each image.
        most_groups: largest number of row groups that are kept in memory.
    """

    def __init__(self, shards: Sequence[str], files: Sequence[ParquetShard], crop: Crop, most_groups: int = 1) -> None:
        super().__init__(shards, [file.labels() for file in files], crop)
        self.files = [(file.path, file.image_key, file.label_key, file.captioned) for file in files]
        self.groups = [file.first_row for file in files]
        self.most_groups = most_groups
        self._kept: dict[tuple[int, int], Any] = {}

    def sample_names(self, shard: int) -> list[str]:
        return [str(row) for row in range(self.groups[shard][-1])]

    def identity(self, shard: int) -> tuple[Any, ...]:
        path, image_key, *_ = self.files[shard]
        own = identity_of(path) if isinstance(path, Path) else (path.url,)
        return *own, image_key

    def encode(self, shard: NDArray[np.int64], place: NDArray[np.int64]) -> Iterator[tuple[int, str, bytes]]:
        pairs = zip(shard.tolist(), place.tolist(), strict=True)
        group = [(number, int(np.searchsorted(self.groups[number], at, side="right")) - 1) for number, at in pairs]
        last = {each: position for position, each in enumerate(group)}
        # Each row group is read once per batch: first those in memory, which are freed first, and at last those that
        # occur last, which the next batch may need.
        for position in sorted(range(len(group)), key=lambda at: (group[at] not in self._kept, last[group[at]])):
            (number, part), at = group[position], int(place[position])
            images = self._read_group(number, part)
            name = f"{self.files[number][0]}: row {at}"
            content = images[at - int(self.groups[number][part])].as_py()
            if content is None:
                raise UnreadableImage(f"{name} has no image; replace or remove it")
            yield position, name, content

    def _read_group(self, number: int, part: int) -> Any:
        """Return the encoded images of a row group, and keep them until `most_groups` others have been read."""
        if (number, part) not in self._kept:
            if len(self._kept) == self.most_groups:  # free a group before reading the next one
                del self._kept[next(iter(self._kept))]
            self._kept[number, part] = ParquetShard(*self.files[number]).group(part)
        return self._kept[number, part]


def identity_of(path: Path) -> tuple[str, int, int]:
    """Return the path, the size and the modification time of a file."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def shard_paths(root: Path, pattern: str, key: str) -> list[Path]:
    """List the shards that match a pattern, sorted by name. All shards must have the same format.

    Args:
        root: data directory.
        pattern: folder in `root`, or a pattern such as `data/train-*.parquet`.
        key: name of the argument that contains the pattern, for error messages.
    """
    matched = [root / pattern] if (root / pattern).is_dir() else sorted(root.glob(pattern))
    files = [file for path in matched for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    found = [file for file in files if file.suffix.lower() in KINDS and not file.name.startswith(".")]
    if not found:
        packed = next((file.name for file in files if ".tar." in file.name or file.suffix == ".tgz"), None)
        also = "" if packed is None else f"; {packed} is compressed and cannot be indexed: decompress it to .tar"
        raise FileNotFoundError(f"{key}: {root / pattern} holds no .tar or .parquet file{also}")
    if len({file.suffix.lower() for file in found}) > 1:
        raise ValueError(f"{key}: {root / pattern} holds both .tar and .parquet files; select one format")
    return found


def shard_names(root: Path, paths: Sequence[Path]) -> list[str]:
    """Return the names of shards: their paths relative to the data directory, without suffix."""
    return [Path(os.path.relpath(path, root)).with_suffix("").as_posix() for path in paths]


class ImageShards(NamedSplits):
    """Labelled images in any number of local shards.

    Shards are tar files in WebDataset format, or parquet files like those of image datasets on the Hugging Face Hub.

    In a tar file, each image (`<key>.jpg` or another format) has its label in `<key>.cls` or `<key>.json`. A parquet
    file has a column of encoded images and a column of labels. Images are read individually by position. Only labels
    and positions are kept in memory. The position of a sample is fixed, so label noise, folds and label tables work as
    for image files. Label tables identify a sample by its index, or by its name: `<shard>/<member>` in a tar file,
    `<shard>/<row>` in parquet.

    Without `cache_dir`, every start reads the headers of all tar files, which takes about a minute per million images.
    For parquet files without `cache_dir`, each access to an image reads the whole row group of this image, often 100
    rows.

    Args:
        num_classes: number of classes; labels are 0 ... `num_classes` - 1.
        data_dir: folder of the shards. None means the NOISEWORKS_DATA directory.
        train: training shards: a folder in `data_dir`, or a pattern such as `data/train-*.parquet`.
        validation: validation shards, specified like `train`. None means no validation shards.
        test: test shards, specified like `train`. None means no test shards.
        image_key: parquet column of encoded images.
        label_key: name of the label column in parquet files. In `.json` members of tar files, it is the key of the
            label.
        image_size: height and width of the input images of the network, in pixels.
        resize: length of the short side of validation and test images after resizing, before the centre crop, in
            pixels. None means `image_size * 256 / 224`.
        min_area: smallest area of a random resized training crop, as a fraction of the area of the image, in (0, 1].
            None means that training images are resized like test images, then cropped at a random position.
        cache_dir: cache folder for the index of tar files and for copies of parquet images. The copies take as much
            space as the shards. None means no cache.
    """

    def __init__(
        self,
        num_classes: int,
        data_dir: str | None = None,
        train: str = "train*",
        validation: str | None = None,
        test: str | None = None,
        image_key: str = "image",
        label_key: str = "label",
        image_size: int = 224,
        resize: int | None = None,
        min_area: float | None = 0.08,
        cache_dir: str | None = None,
    ) -> None:
        at_least(1, num_classes=num_classes)
        self.crop = chosen_crop(image_size, resize, min_area)
        self.num_classes = num_classes
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir
        self.splits = {"train": train, "validation": validation, "test": test}
        self.image_key = image_key
        self.label_key = label_key
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        for key, pattern in self.splits.items():
            if pattern is not None and (not pattern or Path(pattern).is_absolute()):
                raise ValueError(f"{key} must be a folder or a pattern inside data_dir, got {pattern!r}")

    @functools.cached_property
    def class_names(self) -> Sequence[str] | None:  # type: ignore[override]
        """Class names from the first training shard; None unless this is a parquet file with a name for each class."""
        with contextlib.suppress(OSError, ValueError):  # raised again on reading
            path = self._paths("train")[0]
            found = self._parquet(path).class_names if path.suffix.lower() == ".parquet" else None
            return found if len(found or ()) == self.num_classes else None
        return None

    def fetch_missing(self) -> None:
        """Fill `cache_dir`."""
        named = [split for split, pattern in self.splits.items() if pattern is not None]
        if self.cache_dir is not None:
            with contextlib.suppress(OSError, ValueError):  # all ranks raise the error when they read
                for path in (path for split in named for path in self._paths(split)):
                    self._index(path)

    def _paths(self, split: str) -> list[Path]:
        """List the shards of a split, sorted by name. All shards must have the same format."""
        return shard_paths(data_directory(self.data_dir, "ImageShards"), str(self.splits[split]), split)

    def read_split(self, split: str) -> ImagesInShards:
        paths = self._paths(split)
        root = data_directory(self.data_dir, "ImageShards")
        names = shard_names(root, paths)
        source: ImagesInShards
        if paths[0].suffix.lower() == ".parquet":
            opened = [self._parquet(path) for path in paths]
            if self.cache_dir is None:
                source = ImagesInParquet(names, opened, self.crop)
                self._check(source, paths)
                return source
        index, files = zip(*(self._index(path) for path in paths), strict=True)
        source = ImagesByOffset(names, index, self.crop, paths, files)
        self._check(source, paths)
        return source

    def _check(self, source: ImagesInShards, paths: Sequence[Path]) -> None:
        """Reject labels that are out of range; the error message names the first such shard and sample."""

        def place_of(row: int) -> str:
            shard = int(np.searchsorted(source.first_row, row, side="right")) - 1
            return f"{paths[shard]}: the sample {source.sample_names(shard)[row - int(source.first_row[shard])]}"

        self.check_labels(source.label, place_of)

    def _parquet(self, path: Path) -> ParquetShard:
        return ParquetShard(path, self.image_key, self.label_key)

    def _index(self, path: Path) -> tuple[ShardIndex, Path]:
        """Return the index of a shard, from the cache if possible, and the file from which its images are read."""
        is_tar = path.suffix.lower() == ".tar"
        if self.cache_dir is None:
            return read_tar_index(path, self.label_key), path
        identity = " ".join(map(str, (*identity_of(path), self.image_key, self.label_key)))
        kept = self.cache_dir / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"
        images = path if is_tar else kept.with_suffix(".images")
        if not kept.is_file() or not images.is_file():
            index = read_tar_index(path, self.label_key) if is_tar else copy_encoded(self._parquet(path), images)
            with whole_file(kept) as partial:
                np.savez(partial, **index._asdict())
        return ShardIndex(**read_npz(kept, ShardIndex._fields)), images


def copy_encoded(shard: ParquetShard, file: Path) -> ShardIndex:
    """Copy the encoded images of a parquet shard into one file, and return their byte positions in this file."""
    rank_zero_info(f"ImageShards: copying {len(shard)} images of {shard.path} to {file}")
    sizes = []
    with whole_file(file) as partial, partial.open("wb") as stream:
        for encoded in shard.images():
            stream.write(encoded)
            sizes.append(len(encoded))
    size = np.array(sizes, dtype=np.int64)
    name = np.array([str(row).encode() for row in range(len(size))], dtype=np.bytes_)
    return ShardIndex(name, shard.labels(), size.cumsum() - size, size)
