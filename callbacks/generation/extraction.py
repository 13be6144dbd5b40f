"""Compute the features of real images once, and cache them on disk."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.generation.image_lists import ImageList
from callbacks.generation.statistics import Features
from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.cached_array import Parts, cached_array
from datamodules.loading.arguments import free_cores
from lightning_modules.networks.fid_inception import FIDInception

ROWS_PER_PART = 1024
"""Approximate number of images per saved part; a killed computation resumes after the last saved part."""


INCEPTION = "FIDInception"


class Shares(NamedTuple):
    """Rank, world size and device of a distributed computation."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def exact(self) -> "Shares":
        """Return a copy whose device supports float64: the CPU replaces Apple MPS."""
        return self._replace(device=torch.device("cpu")) if self.device.type == "mps" else self


ALONE = Shares()


def metric_name(kind: str, extractor: dict[str, Any] | None) -> str:
    """Name a metric: `fid`, `kid` or `is` with FID's Inception network, otherwise `fd_<name>` or `kd_<name>`.

    Args:
        kind: kind of the metric: `fid`, `kid` or `is`.
        extractor: identity of the `Extractor`; None if unknown.
    """
    if extractor is None or extractor["name"] == INCEPTION:
        return f"{kind}_clean" if extractor is not None and extractor["resize"] == "clean" else kind
    return f"{'fd' if kind == 'fid' else 'kd'}_{extractor['name']}"


class Extractor:
    """A network that maps images `[B, C, H, W]` in [0, 1] to features `[B, D]`, and the network's name in metrics.

    Args:
        network: any network. If it is an `FIDInception`, its weights are loaded here.
        name: name of the extractor in metric names; None for an `FIDInception`.
    """

    def __init__(self, network: nn.Module, name: str | None) -> None:
        self.inception = network if isinstance(network, FIDInception) else None
        if (self.inception is None) == (name is None):
            raise ValueError(
                f"extractor_name {name!r} with {type(network).__name__}: leave extractor_name out for FID's Inception "
                f"(metrics fid and kid), and set it for any other extractor (metrics fd_<extractor_name> and "
                f"kd_<extractor_name>)"
            )
        if self.inception is not None:
            self.inception.read()
        self.network = network.eval().requires_grad_(False)
        self.name = name
        hashed = network if self.inception is None else self.inception.network  # without the classifier head
        self.identity: dict[str, Any] = {
            "name": name or INCEPTION,
            "digest": hash_of_module(hashed, attributes=self.inception is None),
            "resize": self.inception and self.inception.resize,
        }

    @property
    def classifier(self) -> Tensor | None:
        """Weights `[K, D]` of the classification layer that the Inception score (IS) uses, or None."""
        return None if self.inception is None else self.inception.classifier

    def __call__(self, images: list[Tensor], device: torch.device, name_of: Callable[[int], str]) -> Tensor:
        """Compute features on a device, in float32 even under autocast.

        Args:
            images: B images, uint8 `[C, H, W]`. Their sizes may differ only for FID's Inception network, which resizes
                each image.
            device: device of the network.
            name_of: function that maps the position of an image to its name, which is used in error messages.
        """
        differing = next((place for place, image in enumerate(images) if image.shape != images[0].shape), None)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            if differing is None:
                features = self.network(torch.stack(images).to(device, non_blocking=True).float() / 255)
            elif self.inception is not None:
                resized = [self.inception.resize_images(image[None].to(device).float() / 255) for image in images]
                features = self.inception.network(torch.cat(resized))
            else:
                raise ValueError(
                    f"{name_of(differing)} has shape {list(images[differing].shape)} and {name_of(0)} has shape "
                    f"{list(images[0].shape)}: the extractor {self.name} needs images of one size"
                )
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            given = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"extractor: {type(self.network).__name__} must return features [B, D], for {len(images)} images "
                f"[{len(images)}, D], got {given}"
            )
        if not (finite := features.isfinite().all(dim=1)).all():
            place = int((~finite).nonzero()[0])
            raise ValueError(f"extractor: the features of {name_of(place)} are infinite or NaN")
        return features.float()


def features_of(
    images: ImageList, extractor: Extractor, cache_dir: Path, batch_size: int, shares: Shares = ALONE
) -> Features:
    """Return the features of real images, `[N, D]`, read from the cache or computed by all ranks together.

    Args:
        images: list of real images.
        extractor: network that computes the features.
        cache_dir: cache folder, to which all ranks must have access.
        batch_size: number of images processed at once on each rank.
        shares: rank, world size and device.
    """
    rows = batch_size * max(ROWS_PER_PART // batch_size, 1)
    parts = [range(start, min(start + rows, len(images))) for start in range(0, len(images), rows)]

    def compute(numbers: list[int]) -> Parts:
        batches = [[parts[number][at : at + batch_size] for at in range(0, rows, batch_size)] for number in numbers]
        batches = [[batch for batch in own if batch] for own in batches]
        here = min(shares.world_size, torch.cuda.device_count() or shares.world_size)
        workers = 0 if images.in_memory or not numbers else free_cores(here)
        loader: Any = DataLoader(images, sampler=list(chain(*batches)), batch_size=None, num_workers=workers)  # type: ignore[arg-type]
        read = iter(loader)
        for number, own in zip(numbers, batches, strict=True):
            features = []
            for batch in own:
                name_of = partial(_name_of, images, batch)
                features.append(extractor(next(read), shares.device, name_of).cpu())
            yield number, torch.cat(features).numpy()

    extractor.network.to(shares.device)
    identity = {"extractor": extractor.identity, "data": {"name": images.name, **images.identity}}
    return cached_array(cache_dir, images.name, identity, len(parts), compute)


def _name_of(images: ImageList, batch: range, place: int) -> str:
    return images.name_of(batch[place])
