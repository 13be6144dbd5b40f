"""Compute latents and caption embeddings of a whole dataset once, sharded over ranks, and cache them on disk."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.classification.cached_features import source_fingerprint
from datamodules.distributed.collectives import broadcast, rank
from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.cached_array import Parts, cached_array
from datamodules.prompts.captioned_images import CaptionedImages
from lightning_modules.backbones.diffusion.latent_diffusion import LatentDiffusion

AT_ONCE = 64
"""Number of images or captions in a part."""


def cache_latents(network: LatentDiffusion, data: CaptionedImages, folder: str, device: torch.device) -> None:
    """Replace a DataModule's images by latent moments, and captions by embeddings.

    Must be called on every rank. Images are not augmented: they are centre-cropped and never mirrored. A cache entry's
    name contains a digest of its inputs: images, image size and autoencoder, or captions and text encoders.

    Args:
        network: pipeline with autoencoder and text encoders, on `device`.
        data: DataModule whose `setup` has run.
        folder: cache folder, visible to all ranks.
        device: device that computes latents and embeddings.

    Raises:
        ValueError: if training images are augmented, or if ranks have different images, captions or pipelines.
    """
    if data.augmentation.flip or data.augmentation.crop_padding:
        raise ValueError("cache_dir keeps images as they are: data.augmentation must be left out, or cache_dir null")
    rows = [one for one in (data.train_set, data.validation_set) if one is not None]
    captioned = rows[0].captioned
    source = captioned.source
    count = len(source.label)

    def moments(start: int, stop: int) -> Tensor:
        image = source.fetch(torch.arange(start, stop), None).to(device)
        return network.moments(image.float() / source.data_range)

    known = {"images": source_fingerprint(source), "shape": list(data.image_shape)}
    parts = {"moments": _array(folder, "latents", known | _digest(network.vae), count, moments)}
    row_of = {"moments": np.arange(count)}
    texts, text_of = np.unique(captioned.captions or [], return_inverse=True)

    def field(key: str, start: int, stop: int) -> Tensor:
        return getattr(network.encode_prompts(texts[start:stop].tolist()), key)

    known = {"captions": hashlib.sha256("\n".join(texts).encode()).hexdigest()} | _digest(network.text_encoders)
    for key in network.prompt_fields:
        parts[key] = _array(folder, key, known, len(texts), partial(field, key))
        row_of[key] = text_of
    for one in rows:
        own = one.row.numpy()
        one.give_instead({key: (array, row_of[key][own]) for key, array in parts.items()})


def _digest(part: torch.nn.Module) -> dict[str, Any]:
    return {"network": hash_of_module(part)}


def _array(
    folder: str, name: str, identity: dict[str, Any], count: int, compute: Callable[[int, int], Tensor]
) -> NDArray[Any]:
    if broadcast(identity) != identity:
        raise ValueError(f"process {rank()} has other images, captions or pipeline than process 0")

    def computed(numbers: list[int]) -> Parts:
        with torch.no_grad():
            for number in numbers:
                start = number * AT_ONCE
                yield number, compute(start, min(start + AT_ONCE, count)).float().cpu().numpy()

    return cached_array(Path(folder), name, identity, -(-count // AT_ONCE), computed)
