"""Compute the latents and the caption embeddings of a dataset once, on all ranks, and cache them on disk."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.classification.cached_features import source_fingerprint
from datamodules.classification.image_sets import ImageSource
from datamodules.distributed.collectives import broadcast, rank
from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.cached_array import Parts, cached_array
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedRows
from datamodules.prompts.cropped_images import CroppedImages
from lightning_modules.backbones.diffusion.text_encoders import quiet_truncation
from lightning_modules.backbones.diffusion.text_to_image import TextToImage

AT_ONCE = 64
"""Number of images, or of captions, that are encoded at a time."""


class OneSizeArrays:
    """Index several arrays, one for each dataset and image size, as if they were one array.

    Rows that are fetched together must have the same size.

    Args:
        arrays: one array for each dataset and size.
        which: for each row, the index of the array that contains it, `[N]`.
        place: for each row, its index within this array, `[N]`.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]], which: NDArray[np.int64], place: NDArray[np.int64]) -> None:
        self.arrays = arrays
        self.which = which
        self.place = place

    def __getitem__(self, row: NDArray[np.int64]) -> NDArray[Any]:
        which, place = self.which[row], self.place[row]
        if (which == which[0]).all():
            return self.arrays[which[0]][place]
        found = np.empty((len(row), *self.arrays[which[0]].shape[1:]), self.arrays[which[0]].dtype)
        for number in np.unique(which):
            found[which == number] = self.arrays[number][place[which == number]]
        return found


class HalfPrecision:
    """Index an array with the bits of bfloat16 numbers, a type that NumPy lacks. The results are tensors."""

    def __init__(self, bits: NDArray[np.uint16]) -> None:
        self.bits = bits

    def __getitem__(self, row: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.bits[row]).view(torch.bfloat16)


def cache_latents(network: TextToImage, data: CaptionedImages, folder: str, device: torch.device) -> None:
    """Replace a DataModule's images with latent moments, and its captions with embeddings.

    This function must be called on every rank. Images are centre-cropped. If training mirrors images randomly, the
    latents of the mirrored images are cached too. The name of a cache entry contains a digest of all inputs: for
    latents, the images, the crops and the autoencoder; for embeddings, the captions and the text encoders.

    Args:
        network: model with an autoencoder and text encoders, on `device`.
        data: DataModule whose `setup` has been called.
        folder: cache folder that all ranks can access.
        device: device on which latents and embeddings are computed.
    """
    if data.augmentation.crop_padding:
        raise ValueError(
            "with cache_dir, images are centre-cropped: data.augmentation.crop_padding must be 0, or cache_dir null, "
            f"got {data.augmentation.crop_padding}"
        )
    if data.tags is not None:
        raise ValueError("with cache_dir, captions are embedded once: data.tags must be null, or cache_dir null")
    sets = [one for one in (data.train_set, data.validation_set) if one is not None]
    if any(one.captioned.lanes is not None for one in sets):
        raise ValueError(
            "with cache_dir, all images are read before training: set cache_dir to null for StreamedShards"
        )
    _cache_set(network, sets, data.augmentation.flip, folder, device)
    if data.prior_set is not None:
        _cache_set(network, [data.prior_set], data.augmentation.flip, folder, device)


def _cache_set(
    network: TextToImage, sets: Sequence[CaptionedRows], flip: bool, folder: str, device: torch.device
) -> None:
    captioned = sets[0].captioned
    arrays, mirrored = _latents(network, captioned.source, flip, folder, device)
    count = len(captioned.source.label)
    parts: dict[str, tuple[Any, NDArray[np.int64], int]] = {
        key: (array, np.arange(count), mirrored) for key, array in arrays.items()
    }
    texts, text_of = np.unique(captioned.captions or [], return_inverse=True)

    def prompts(start: int, stop: int) -> NDArray[Any]:
        """Embed texts once; each field of the rows is a field of `Prompts`, in the precision of the text encoders."""
        with quiet_truncation(network.pipeline):
            embedded = network.encode_prompts(texts[start:stop].tolist())
        fields = {key: getattr(embedded, key).cpu() for key in network.prompt_fields}
        bits = {
            key: (each.view(torch.uint16) if each.dtype == torch.bfloat16 else each).numpy()
            for key, each in fields.items()
        }
        rows = np.empty(stop - start, [(key, each.dtype, each.shape[1:]) for key, each in bits.items()])
        for key, each in bits.items():
            rows[key] = each
        return rows

    known = {"captions": hashlib.sha256("\n".join(texts).encode()).hexdigest()} | _digest(network.text_encoders)
    if network.clip_skip is not None:
        known["clip_skip"] = network.clip_skip
    rows = _array(folder, "prompts", known, len(texts), prompts)
    for key in network.prompt_fields:
        stored = rows[key]
        parts[key] = HalfPrecision(stored) if stored.dtype == np.uint16 else stored, text_of, 0
    for one in sets:
        own = one.row.numpy()
        one.give_instead({key: (array, row[own], distance) for key, (array, row, distance) in parts.items()})


def _latents(
    network: TextToImage, source: ImageSource, flip: bool, folder: str, device: torch.device
) -> tuple[dict[str, OneSizeArrays], int]:
    """Compute the latent moments of images and of their source images, and resize masks to the size of the latents.

    With `flip`, the moments and the masks of the mirrored images are also computed.

    Returns:
        Arrays with the rows of all images followed by the rows of all mirrored images, and the offset from the row of
        an image to the row of its mirrored image. Without mirrored images, the offset is 0.
    """
    parts = source.parts if isinstance(source, CroppedImages) else [source]
    masked = isinstance(source, CroppedImages) and source.masked
    which, place = np.empty(len(source.label), np.int64), np.empty(len(source.label), np.int64)
    counts: list[int] = []
    found: dict[str, list[NDArray[Any]]] = {}
    first = 0
    for part in parts:
        for rows, arrays in _latents_of_sizes(network, part, flip, masked, folder, device):
            which[first + rows], place[first + rows] = len(counts), np.arange(len(rows))
            counts.append(len(rows))
            for key, array in arrays.items():
                found.setdefault(key, []).append(array)
        first += len(part.label)
    if flip:
        which, place = np.concatenate([which, which]), np.concatenate([place, place + np.array(counts)[which]])
    return {key: OneSizeArrays(each, which, place) for key, each in found.items()}, len(source.label) * flip


def _latents_of_sizes(
    network: TextToImage, source: ImageSource, flip: bool, masked: bool, folder: str, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
    """Compute the latents of a dataset; for each size of images, yield the rows of the images and the arrays."""
    cropped = source if isinstance(source, CroppedImages) else None
    bucket = np.zeros(len(source.label), dtype=np.int64) if cropped is None else cropped.bucket
    images = source_fingerprint(source if cropped is None else cropped.source)
    masks = "" if cropped is None or cropped.masks is None else source_fingerprint(cropped.masks)
    for number in np.unique(bucket):
        rows = np.flatnonzero(bucket == number)
        crop = {} if cropped is None else cropped.crop_of(rows)
        shape = list(source.fetch(torch.from_numpy(rows[:1]), None).shape[1:])
        known = {"images": images, "rows": hashlib.sha256(rows.data).hexdigest(), "shape": shape, "mirrored": flip}
        total = len(rows) * (1 + flip)

        def fetched(fetch: Any, start: int, stop: int, rows: NDArray[np.int64] = rows) -> Tensor:
            index = np.arange(start, stop)
            image = fetch(torch.from_numpy(rows[index % len(rows)]), None).to(device).float()
            turned = torch.from_numpy(index >= len(rows)).to(device).view(-1, *[1] * (image.ndim - 1))
            return torch.where(turned, image.flip(-1), image)

        def moments(start: int, stop: int, fetched: Any = fetched, fetch: Any = source.fetch) -> NDArray[Any]:
            return network.moments(fetched(fetch, start, stop) / source.data_range).float().cpu().numpy()

        few = max(1, AT_ONCE // shape[0]) if len(shape) == 4 else AT_ONCE  # clips have many frames
        identity = known | crop | _digest(network.vae)
        array = _array(folder, "latents", identity, total, moments, few)
        found = {"moments": array}
        if network.takes_source:
            assert cropped is not None
            assert cropped.conditions is not None
            identity = identity | {"images": source_fingerprint(cropped.conditions)}
            compute = partial(moments, fetch=cropped.fetch_conditions)
            found["source_moments"] = _array(folder, "latents", identity, total, compute)
        if masked and not masks:
            found["loss_mask"] = np.broadcast_to(np.float32(1), (total, 1, *array.shape[-2:]))
        elif masks:
            assert cropped is not None
            size = array.shape[-2:]
            fetch = partial(fetched, cropped.fetch_masks)

            def mask(start: int, stop: int, fetch: Any = fetch, size: Any = size) -> NDArray[Any]:
                return interpolate(fetch(start, stop) / 255, size, mode="area").cpu().numpy()

            found["loss_mask"] = _array(folder, "masks", known | crop | {"masks": masks, "of": size}, total, mask)
        yield rows, found


def _digest(part: torch.nn.Module) -> dict[str, Any]:
    return {"network": hash_of_module(part)}


def _array(
    folder: str,
    name: str,
    identity: dict[str, Any],
    count: int,
    compute: Callable[[int, int], NDArray[Any]],
    at_once: int = AT_ONCE,
) -> NDArray[Any]:
    if broadcast(identity) != identity:
        raise ValueError(f"the images, captions or pipeline of process {rank()} differ from those of process 0")

    def computed(numbers: list[int]) -> Parts:
        with torch.no_grad():
            for number in numbers:
                start = number * at_once
                yield number, compute(start, min(start + at_once, count))

    return cached_array(Path(folder), name, identity, -(-count // at_once), computed)
