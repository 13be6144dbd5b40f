"""Generate a folder of images on any number of ranks. A call that was killed can be continued.

images/000000.png ...   the images, or clips as animated PNG; their metadata contains prompt, seed, class and settings
standard/ or plain/     with pairs: the same images from plain initial noise; named after the kind of noise
images.parquet          a table with one row per image: files, prompt, seed, class
contact_sheet.png       the first images with their prompts
settings.json           everything on which the images depend
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from callbacks.drawing.samples import save_rows, save_samples
from callbacks.generation.image_generators import IMAGES, ImageGenerator
from callbacks.generation.image_requests import ImageRequest, in_blocks
from datamodules.distributed.collectives import broadcast, rank
from datamodules.files.pixels import read_pixels
from datamodules.files.png import write_png
from datamodules.files.whole_files import remove_partial_files, whole_file
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.stores import png_files

TABLE, SHEET = "images.parquet", "contact_sheet.png"
ROWS, COLUMNS, IN_ALL, SIDE = 8, 8, 64, 192
"""Maximum numbers in a contact sheet: rows, columns, and images if there are no prompts; pixels of an image's side."""


class BlockStore:
    """A store of images that are generated in blocks, with one PNG file per image; its keys are block numbers.

    Args:
        root: folder that contains the image folders.
        folders: names of the image folders, each of which contains one image for each request.
        blocks: requests of each block.
        settings: settings that all images share, which are written to the images' metadata.
        seed_per_image: whether each image of a block has its own seed; if false, the first image's seed determines the
            whole block.
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
        """Return the seed of an image. If several images share it, also return the image's position among them."""
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
        """List the positions of blocks that lack an image.

        If `digests` is given, damaged images count as missing.
        """

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


def generate_folder(
    output: Path, generator: ImageGenerator, requests: Sequence[ImageRequest], batch_size: int
) -> dict[str, Any]:
    """Generate the images that are missing in a folder. Must be called on every rank.

    Args:
        output: the folder, to which all ranks must have access.
        generator: image generator on this rank's device.
        requests: requested images.
        batch_size: number of images that are generated as one batch.

    Returns:
        The settings.
    """
    blocks = in_blocks(requests, batch_size)
    settings = broadcast(generator.settings() if rank() == 0 else {})
    listed = json.dumps([[request.prompt, request.label, request.seed] for request in requests])
    settings |= {"batch_size": batch_size}
    requested = hashlib.sha256(listed.encode()).hexdigest()[:32]
    recorded = {**generator.configuration, **settings, "images": len(requests), "requests": requested}
    store = BlockStore(output, generator.folders, blocks, settings, generator.seed_per_image)

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


def finish(output: Path, store: BlockStore, requests: Sequence[ImageRequest], negative_prompt: str | None) -> None:
    """Write the table of the images and the contact sheet."""
    remove_partial_files(output, "*")
    write_image_table(output / TABLE, store, negative_prompt)
    folders = {files.folder.name: files.path for files in store.files}
    if requests[0].prompt is None:
        images = [pixels_of(folders[IMAGES](request.name)) for request in requests[:IN_ALL]]
        save_samples(torch.stack(images), output / SHEET)
        return
    save_rows(*rows_of(requests, folders), output / SHEET, SIDE)


def write_image_table(path: Path, store: BlockStore, negative_prompt: str | None) -> None:
    """Write a table of the images. The file paths in the table are relative to its folder."""
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet as pq

    rows = []
    for key, block in enumerate(store.blocks):
        for at, each in enumerate(block):
            files = {f"{files.folder.name}_file": f"{files.folder.name}/{each.name}.png" for files in store.files[1:]}
            seed, place = store.seed_and_place(key, at)
            texts: dict[str, str | None] = {"file": f"{IMAGES}/{each.name}.png", **files}
            texts |= {"prompt": each.prompt, "negative_prompt": negative_prompt}
            numbers = {"prompt_index": each.prompt_index, "class": each.label, "seed": seed, "place_in_batch": place}
            rows.append(json.dumps({**texts, **numbers}))
    schema = pa.schema([*((name, pa.string()) for name in texts), *((name, pa.int64()) for name in numbers)])
    whole_rows = pa.json.ReadOptions(block_size=max(2**20, 2 * max(map(len, rows))))
    options = pa.json.ParseOptions(explicit_schema=schema)
    with whole_file(path) as partial:  # made from JSON, because `pa.array` imports pandas
        pq.write_table(pa.json.read_json(io.BytesIO("\n".join(rows).encode()), whole_rows, options), partial)


def pixels_of(path: Path) -> Tensor:
    """Read an image, or the first frame of a clip, for the sheet, uint8 `[C, H, W]`.

    A large image is averaged over squares of pixels.
    """
    image = torch.from_numpy(read_pixels(path, page=0))
    return F.avg_pool2d(image.float(), max(1, min(image.shape[1:]) // SIDE)).round().byte()


def rows_of(
    requests: Sequence[ImageRequest], folders: Mapping[str, Callable[[str], Path]]
) -> tuple[Tensor, list[str], list[str]]:
    """Arrange images in one row per prompt. In a pair, the image from plain noise precedes that from improved noise.

    Returns:
        Images `[R, n, C, H, W]`, uint8, the R captions, and the n names of the columns.
    """
    of_prompt: dict[int | None, list[ImageRequest]] = {}
    for request in requests:
        of_prompt.setdefault(request.prompt_index, []).append(request)
    rows = list(of_prompt.values())[:ROWS]
    kinds = ["improved" if folder == IMAGES else folder for folder in reversed([*folders])]
    pairs = f"{', '.join(kinds)}: " if len(kinds) > 1 else ""
    copies = range(min(len(rows[0]), COLUMNS // len(folders)))
    images = [
        [pixels_of(path(row[copy].name)) for copy in copies for path in reversed([*folders.values()])] for row in rows
    ]
    names = [f"{kind if pairs else 'image'} {copy}" for copy in copies for kind in kinds]
    return torch.stack([torch.stack(row) for row in images]), [pairs + (row[0].prompt or "") for row in rows], names
