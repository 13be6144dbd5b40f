"""A folder of generated images, which a killed call continues and any number of ranks fill.

images/000000.png ...   the images; their metadata holds prompt, seed, class and settings
standard/ or plain/     the same from plain initial noise, for pairs; named after the noise
images.parquet          a row per image: files, prompt, seed, class
contact_sheet.png       the first images with their prompts
settings.json           what all images depend on
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.drawing.image_grid import draw_image_grid
from callbacks.drawing.samples import save_samples
from callbacks.generation.image_generators import IMAGES, ImageGenerator
from callbacks.generation.image_requests import ImageRequest, in_blocks
from datamodules.distributed.collectives import broadcast, rank
from datamodules.files.pixels import read_pixels
from datamodules.files.png import write_png
from datamodules.files.whole_files import remove_partial_files, save_figure, whole_file
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.stores import png_files
from lightning_modules.interfaces import ImageColumn

TABLE, SHEET = "images.parquet", "contact_sheet.png"
ROWS, COLUMNS, IN_ALL, LETTERS = 8, 8, 64, 24
"""Most rows and columns of the contact sheet with prompts, images in the one without, and letters of a prompt."""


class BlockFiles:
    """Store of images that are generated block by block, one PNG file for each image; a key is a block's number.

    Args:
        root: folder of the folders.
        folders: names of the folders; each holds an image for each request.
        blocks: the requests of each block.
        settings: settings of all images, for their metadata.
        seed_per_image: whether the images of a block have their own seeds instead of that of the first one.
    """

    def __init__(
        self,
        root: Path,
        folders: Sequence[str],
        blocks: Sequence[Sequence[ImageRequest]],
        settings: Mapping[str, Any],
        seed_per_image: bool,
    ) -> None:
        self.folder = root / folders[0]
        self.files = [png_files(root / name) for name in folders]
        self.blocks = blocks
        self._settings = settings
        self._seed_per_image = seed_per_image

    def is_empty(self) -> bool:
        return all(files.is_empty() for files in self.files)

    def tidy(self) -> None:
        for files in self.files:
            files.tidy()

    def seed_and_place(self, key: int, place: int) -> tuple[int, int | None]:
        """Return the seed of an image, and its position among those that share the seed, if any do."""
        block = self.blocks[key]
        return (block[place].seed, None) if self._seed_per_image or len(block) == 1 else (block[0].seed, place)

    def texts(self, key: int, place: int) -> dict[str, str]:
        """Return the metadata of an image."""
        request = self.blocks[key][place]
        seed, shared = self.seed_and_place(key, place)
        known = {"prompt": request.prompt, "class": request.label, "seed": seed, "place_in_batch": shared}
        texts = {name: str(value) for name, value in known.items() if value is not None}
        return {**texts, "settings": json.dumps(self._settings, sort_keys=True)}

    def missing(self, keys: Sequence[int], digests: Sequence[str] | None = None) -> list[int]:
        """List the positions of the blocks that lack an image; with digests, also of those with a damaged one."""

        def lacks(key: int) -> bool:
            names = [request.name for request in self.blocks[key]]
            given = None if digests is None else [digest_of_texts(self.texts(key, at)) for at in range(len(names))]
            return any(files.missing(names, given) for files in self.files)

        return [position for position, key in enumerate(keys) if lacks(key)]

    def write(self, key: int, value: Sequence[NDArray[np.uint8]], digest: str = "") -> None:
        for files, images in zip(self.files, value, strict=True):
            for place, (request, image) in enumerate(zip(self.blocks[key], images, strict=True)):
                texts = self.texts(key, place)
                write_png(files.path(request.name), image, digest_of_texts(texts), texts)

    def close(self) -> None:
        pass


def digest_of_texts(texts: Mapping[str, str]) -> str:
    """Hash the metadata of an image."""
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:32]


def write_folder(
    output: Path, generator: ImageGenerator, requests: Sequence[ImageRequest], batch_size: int
) -> dict[str, Any]:
    """Generate the images that a folder lacks; all ranks call this together.

    Args:
        output: the folder, visible to all ranks.
        generator: the generator, on this rank's device.
        requests: the images.
        batch_size: images generated at once.

    Returns:
        The settings.

    Raises:
        ValueError: if the folder holds images of other requests or settings; the message names the differences.
        PeerFailure: if another rank failed or was killed.
    """
    blocks = in_blocks(requests, batch_size)
    settings = broadcast(generator.settings() if rank() == 0 else {})
    listed = json.dumps([[request.prompt, request.label, request.seed] for request in requests])
    settings |= {"batch_size": batch_size}
    requested = hashlib.sha256(listed.encode()).hexdigest()[:32]
    recorded = {**generator.configuration, **settings, "images": len(requests), "requests": requested}
    store = BlockFiles(output, generator.folders, blocks, settings, generator.seed_per_image)

    def compute(numbers: list[int]) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
        for number in numbers:
            yield number, generator.images(blocks[number])

    keys = list(range(len(blocks)))
    with ResumableMap(
        store, recorded, output / "settings.json", remedy="choose another --output", name="images"
    ) as job:
        job.run(keys, compute, [""] * len(keys))
        job.peers.on_first_rank(lambda: finish(output, store, requests, settings.get("negative_prompt")))
    return settings


def finish(output: Path, store: BlockFiles, requests: Sequence[ImageRequest], negative_prompt: str | None) -> None:
    """Write the table of the images and the contact sheet."""
    remove_partial_files(output, "*")
    write_table(output / TABLE, store, negative_prompt)
    folders = {files.folder.name: files.path for files in store.files}
    if requests[0].prompt is None:
        images = [pixels_of(folders[IMAGES](request.name)) for request in requests[:IN_ALL]]
        save_samples(torch.stack(images), output / SHEET)
        return
    columns = columns_of(requests, folders)
    save_figure(draw_image_grid(columns), output / SHEET, dpi=120)


def write_table(path: Path, store: BlockFiles, negative_prompt: str | None) -> None:
    """Write the images as a table, with the file relative to the table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    requests = [request for block in store.blocks for request in block]
    seeds = [store.seed_and_place(key, at) for key, block in enumerate(store.blocks) for at in range(len(block))]
    columns = {
        "file": pa.array([f"{IMAGES}/{each.name}.png" for each in requests], pa.string()),
        **{
            f"{files.folder.name}_file": pa.array([f"{files.folder.name}/{each.name}.png" for each in requests])
            for files in store.files[1:]
        },
        "prompt": pa.array([each.prompt for each in requests], pa.string()),
        "negative_prompt": pa.array([negative_prompt for _ in requests], pa.string()),
        "prompt_index": pa.array([each.prompt_index for each in requests], pa.int64()),
        "class": pa.array([each.label for each in requests], pa.int64()),
        "seed": pa.array([seed for seed, _ in seeds], pa.int64()),
        "place_in_batch": pa.array([place for _, place in seeds], pa.int64()),
    }
    with whole_file(path) as partial:
        pq.write_table(pa.table(columns), partial)


def pixels_of(path: Path) -> Tensor:
    """Read an image, uint8 `[C, H, W]`."""
    return torch.from_numpy(read_pixels(path))


def columns_of(
    requests: Sequence[ImageRequest], folders: Mapping[str, Callable[[str], Path]]
) -> dict[str, ImageColumn]:
    """Arrange images as columns: a row for each prompt, and pairs side by side, from plain noise first."""
    of_prompt: dict[int | None, list[ImageRequest]] = {}
    for request in requests:
        of_prompt.setdefault(request.prompt_index, []).append(request)
    rows = list(of_prompt.values())[:ROWS]
    captions = [(row[0].prompt or "")[:LETTERS] for row in rows]
    columns: dict[str, ImageColumn] = {}
    for copy in range(min(len(rows[0]), COLUMNS // len(folders))):
        for folder, path in reversed(list(folders.items())):
            images = torch.stack([pixels_of(path(row[copy].name)) for row in rows]).float() / 255
            name = f"image {copy}" if len(folders) == 1 else f"{'improved' if folder == IMAGES else folder} {copy}"
            columns[name] = ImageColumn(images, captions if not columns else ())
    return columns
