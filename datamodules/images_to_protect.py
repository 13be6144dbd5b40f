"""Photographs with masks of the regions to protect: faces, persons, objects."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.data_directory import data_directory
from datamodules.global_batches import Request
from datamodules.image_files import SUFFIXES, UnreadableImage
from datamodules.seeded_batches import SeededBatches

LAYOUT = "expected images/<name>.png, and masks/<name>.png or masks/<name>/seen*.png and unseen*.png, white where kept"


class ImagesToProtect(SeededBatches):
    """A folder of photographs, each with masks that are white where an editor keeps the image.

    The layout is `images/<name>.png`, any format that Pillow reads, and for each image either `masks/<name>.png` or a
    folder `masks/<name>` with one or several `seen*.png`, a mask for each region, and any number of `unseen*.png`,
    masks of editors that protection does not know; all images need the same number of these. `prompts.json`, where
    there is one, has a list of texts for each name. Images are resized to a square.

    Args:
        data_dir: the folder; None takes where the environment variable NOISEWORKS_DATA points.
        batch_size: images of a training step over all processes, where a model is fitted to them.
        image_size: height and width that images and masks are resized to, in pixels; a multiple of 8.
        evaluation_batch_size: images that are protected at once over all processes; None takes `batch_size`.
        num_workers: loader processes; None takes one for each free core, up to 8.
        seed: of order; None takes `seed_everything`.

    Raises:
        FileNotFoundError: if images or masks are missing, naming the first.
        ValueError: if an argument is out of range, images differ in their number of unseen masks, or a name of
            `prompts.json` is no image.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        batch_size: int = 1,
        image_size: int = 512,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, evaluation_batch_size, num_workers=num_workers, seed=seed)
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8, got {image_size}")
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir

    def set_up_training(self) -> None:
        self.train_set = _Photographs(data_directory(self.data_dir, "ImagesToProtect"), self.image_size)

    def set_up_test(self) -> None:
        self.test_set = _Photographs(data_directory(self.data_dir, "ImagesToProtect"), self.image_size)

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["image"] = self.in_unit_interval(batch["image"], 255)
        return batch


class _Photographs:
    """What the folder holds, read when it is asked for."""

    def __init__(self, root: Path, image_size: int) -> None:
        self.image_size = image_size
        self.images = _files(root / "images")
        if not self.images:
            raise FileNotFoundError(f"ImagesToProtect: no images in {root / 'images'}; {LAYOUT}")
        self.seen, self.unseen = zip(*(_masks(root / "masks", image.stem) for image in self.images), strict=True)
        if len({len(paths) for paths in self.unseen}) > 1:
            counts = ", ".join(f"{len(p)} of {i.stem}" for i, p in zip(self.images, self.unseen, strict=True))
            raise ValueError(f"{root / 'masks'}: every image needs the same number of unseen*.png, got {counts}")
        self.prompts: dict[str, list[str]] = {}
        if (file := root / "prompts.json").is_file():
            self.prompts = json.loads(file.read_text())
            if unknown := sorted(set(self.prompts) - {image.stem for image in self.images}):
                raise ValueError(f"{file} has prompts for {unknown[0]}, which is no image of {root / 'images'}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        most = max(len(self.seen[row]) for row in rows)
        regions = torch.zeros(len(rows), most, self.image_size, self.image_size, dtype=torch.bool)
        for place, row in enumerate(rows):
            regions[place, : len(self.seen[row])] = self._read_masks(self.seen[row])
        union = regions.any(dim=1, keepdim=True)
        unseen = [self._read_masks(self.unseen[row]) for row in rows]
        return {
            "image": torch.stack([self._read(self.images[row], "RGB") for row in rows]),
            "regions": regions,
            "editor_keeps": torch.cat([union, torch.stack(unseen)], dim=1) if self.unseen[0] else union,
            "prompt": [self.prompts.get(self.images[row].stem, [""]) for row in rows],
            "name": [self.images[row].stem for row in rows],
            "index": request.indices,
            "global_size": request.global_size,
        }

    def _read_masks(self, paths: Sequence[Path]) -> Tensor:
        """`[n, S, S]`, bool, where the masks are brighter than one half."""
        return torch.cat([self._read(path, "L") for path in paths]) > 127

    def _read(self, path: Path, mode: str) -> Tensor:
        try:
            with Image.open(path) as file:
                image = file.convert(mode).resize((self.image_size, self.image_size))
        except OSError as error:
            raise UnreadableImage(f"{path} is not a readable image: {error}") from error
        return torch.from_numpy(np.array(image)).view(self.image_size, self.image_size, -1).permute(2, 0, 1)


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)


def _masks(folder: Path, name: str) -> tuple[list[Path], list[Path]]:
    """The masks of an image that protection knows, and those that it does not."""
    seen, unseen = _files(folder / name, "seen*"), _files(folder / name, "unseen*")
    seen = seen or _files(folder, f"{name}.*")
    if not seen:
        raise FileNotFoundError(f"ImagesToProtect: no mask of {name} in {folder}; {LAYOUT}")
    return seen, unseen
