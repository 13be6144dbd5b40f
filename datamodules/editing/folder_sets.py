"""Photographs with masks of the regions to protect, such as faces, persons or objects."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.editing.protected_set import ProtectedSet
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import SUFFIXES, UnreadableImage, eight_bits, opened_image
from datamodules.files.text_files import parse_json, read_text
from datamodules.loading.global_batches import Request

LAYOUT = "expected images/<name>.png, and masks/<name>.png or masks/<name>/seen*.png and unseen*.png, white where kept"
PROMPTS = '{"<name>": ["edit", ...]} or {"<name>": {"source": "what it shows", "edits": ["edit", ...]}}'


class MaskedPhotographs(ProtectedSet):
    """A folder of photographs with masks.

    A mask is white in the region that an editor keeps.

    Images are `images/<name>.png`, or have another format that `ImageFolder` reads. The masks of an image are either
    `masks/<name>.png` or a folder `masks/<name>`. Such a folder has one or more files `seen*.png`, one per region, and
    any number of files `unseen*.png`. Unseen masks are masks that editors use but that the protection does not know.
    All images need the same number of unseen masks. Images are rotated according to their metadata and resized to a
    square.

    If a file `prompts.json` exists, testing reads a list of editing prompts for each image from this file. The file may
    also contain a caption of each image (`source`), which some metrics need. The two formats are:

        {"<name>": ["a man in prison"], ...}
        {"<name>": {"source": "a photo of a man", "edits": ["a man in prison"]}, ...}

    Args:
        data_dir: folder of the photographs. None means the NOISEWORKS_DATA directory.
        image_size: height and width of images and masks after resizing, in pixels. It must be a multiple of 8.
    """

    def __init__(self, data_dir: str | None = None, image_size: int = 512) -> None:
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8, got {image_size}")
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir

    def training(self, seed: int) -> "_Photographs":
        return _Photographs(data_directory(self.data_dir, "MaskedPhotographs"), self.image_shape[1])

    def test(self, seed: int, with_prompts: bool) -> "_Photographs":
        photographs = self.training(seed)
        if with_prompts:
            photographs.read_prompts()
        return photographs


class _Photographs:
    """The photographs and masks of a folder. They are read on access."""

    def __init__(self, root: Path, image_size: int) -> None:
        self.image_size = image_size
        self.images = _files(root / "images")
        if not self.images:
            raise FileNotFoundError(f"MaskedPhotographs: no images in {root / 'images'}; {LAYOUT}")
        self.seen, self.unseen = zip(*(_masks(root / "masks", image.stem) for image in self.images), strict=True)
        if len({len(paths) for paths in self.unseen}) > 1:
            counts = ", ".join(f"{len(p)} of {i.stem}" for i, p in zip(self.images, self.unseen, strict=True))
            raise ValueError(f"{root / 'masks'}: every image needs the same number of unseen*.png, got {counts}")
        name, count = Counter(image.stem for image in self.images).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{root / 'images'} has several images named {name}; rename all but one")
        _check_readable([*self.images, *(path for paths in self.seen + self.unseen for path in paths)])
        self.prompts_file = root / "prompts.json"
        self.prompts: dict[str, list[str]] = {}
        self.source_prompts: dict[str, str] = {}

    def read_prompts(self) -> None:
        """Read the prompts from `prompts.json`, if it exists."""
        file = self.prompts_file
        if not file.is_file():
            return
        try:
            read = parse_json(read_text(file))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from error
        if not isinstance(read, dict):
            raise ValueError(f"{file} is not of the form {PROMPTS}")
        names = [image.stem for image in self.images]
        if unknown := sorted(set(read) - set(names)):
            raise ValueError(f"{file} has prompts for {unknown[0]}, which is not an image in {file.parent / 'images'}")
        for name in names:
            if name not in read:
                raise ValueError(f"{file} has no prompts for the image {name}")
            given: dict[str, Any] = read[name] if isinstance(read[name], dict) else {"edits": read[name]}
            edits: Any = given.get("edits")
            source: Any = given.get("source", "")
            if not (given.keys() <= {"source", "edits"} and _are_texts(edits) and _are_texts([source])):
                raise ValueError(f"{file}: {name} is not of the form {PROMPTS}")
            self.prompts[name] = edits
            if "source" in given:
                self.source_prompts[name] = source
        if self.source_prompts and (missing := [name for name in names if name not in self.source_prompts]):
            raise ValueError(f"{file}: some images have a source, but {missing[0]} has none; give every image a source")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        most = max(len(self.seen[row]) for row in rows)
        regions = torch.zeros(len(rows), most, self.image_size, self.image_size, dtype=torch.bool)
        for place, row in enumerate(rows):
            regions[place, : len(self.seen[row])] = self._read_masks(self.seen[row])
        keeps = regions.any(dim=1, keepdim=True)
        if self.unseen[0]:
            keeps = torch.cat([keeps, torch.stack([self._read_masks(self.unseen[row]) for row in rows])], dim=1)
        batch: dict[str, Any] = {
            "image": torch.stack([self._read(self.images[row], "RGB") for row in rows]),
            "data_range": 255,
            "regions": regions,
            "editor_keeps": keeps,
            "prompt": [self.prompts.get(self.images[row].stem, [""]) for row in rows],
            "name": [self.images[row].stem for row in rows],
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
        }
        if self.source_prompts:
            batch["source_prompt"] = [self.source_prompts[name] for name in batch["name"]]
        return batch

    def _read_masks(self, paths: Sequence[Path]) -> Tensor:
        """Read mask files as one Boolean tensor `[n, S, S]`.

        A mask is true where the file is brighter than one half; transparent pixels count as black.
        """
        return torch.cat([self._read(path, "L") for path in paths]) > 127

    def _read(self, path: Path, mode: str) -> Tensor:
        image = decode_upright(path, "black" if mode == "L" else "white").convert(mode)
        image = image.resize((self.image_size, self.image_size))
        return torch.from_numpy(np.array(image)).view(self.image_size, self.image_size, -1).permute(2, 0, 1)


def decode_upright(path: Path, background: str = "white") -> Image.Image:
    """Decode an image, rotate it according to its metadata, and composite transparent pixels on a background."""
    with opened_image(path) as file:
        ImageOps.exif_transpose(file, in_place=True)
        return eight_bits(file, background).copy()


def _check_readable(paths: Sequence[Path]) -> None:
    """Decode all files, so that damaged files are rejected early.

    Decoding takes much less time than computing the protection.
    """
    damaged = []
    for path in paths:
        try:
            decode_upright(path)
        except UnreadableImage as error:
            damaged.append(str(error))
    if damaged:
        raise UnreadableImage(f"{'; '.join(damaged)}: replace or remove {'it' if len(damaged) == 1 else 'them'}")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(text, str) for text in value)


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)


def _masks(folder: Path, name: str) -> tuple[list[Path], list[Path]]:
    """Find the masks of an image.

    The first list contains the seen masks, which the protection knows. The second list contains the unseen masks, which
    the protection does not know.
    """
    seen, unseen = _files(folder / name, "seen*"), _files(folder / name, "unseen*")
    seen = seen or [path for path in _files(folder) if path.stem == name]
    if not seen:
        raise FileNotFoundError(f"MaskedPhotographs: no mask of {name} in {folder}; {LAYOUT}")
    return seen, unseen
