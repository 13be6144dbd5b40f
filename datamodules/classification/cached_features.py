"""Features of a frozen network, used in place of images.

The features are computed once and cached on disk.

A head on a frozen encoder needs the same features in every epoch, and so do runs with different seeds, noise rates or
methods. With cached features, training a head takes minutes on a CPU. The encoder may be a black box that only returns
features.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.arguments import at_least, one_of
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.classification.labelled_set import LabelledSet
from datamodules.distributed.collectives import broadcast, rank, world_size
from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.cached_array import Parts, cached_array
from datamodules.loading.arguments import free_cores
from datamodules.loading.global_batches import Request

ROWS_PER_PART, MOST_PARTS = 4096, 64
PROBED_IMAGES = 64


class FeatureSource(ImageSource):
    """An image source that returns cached features instead of images.

    Pass 0 contains the features of images without augmentation. Each later pass contains features of randomly augmented
    images.

    Args:
        source: source of the images. Labels, file names and the images for label noise are read from this source.
        feature: features of pass 0 and of the augmented passes, `[1 + passes, N, D]`.
    """

    data_range = 1
    in_memory = True

    def __init__(self, source: ImageSource, feature: NDArray[Any]) -> None:
        self.source = source
        self.label, self.clean_label, self.classes = source.label, source.clean_label, source.classes
        self.feature = feature
        self.num_uniform = 1 if len(feature) > 1 else 0

    @property
    def names(self) -> list[str] | None:
        return self.source.names

    @property
    def image_for_noise(self) -> Tensor | None:
        return self.source.image_for_noise

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Return features `[B, D]`.

        For each row, a random number in `uniform`, in [0, 1), selects one of the augmented passes. If `uniform` is
        None, pass 0 is used, which has no augmentation.
        """
        passes = np.zeros(len(row), dtype=np.int64)
        if uniform is not None:
            passes = 1 + (uniform[:, 0] * (len(self.feature) - 1)).long().numpy()
        return torch.from_numpy(self.feature[passes, row.numpy()])

    def another_view(self, first: Tensor, second: Tensor) -> Tensor:
        """Return random numbers that select the second view's pass, uniformly from all but the first view's pass."""
        passes = len(self.feature) - 1
        away = 1 + (second * (passes - 1)).long()
        return (((first * passes).long() + away) % passes + 0.5) / passes


def source_fingerprint(source: ImageSource) -> str:
    """Compute a digest that identifies a dataset.

    The digest covers all labels and the pixels of images in memory. For image files, the digest covers names, sizes,
    modification times and the pixels of 64 images.
    """
    digest = hashlib.sha256(source.label.numpy().data)
    digest.update(f"{source.data_range}\n".encode())
    if (names := source.names) is not None:
        digest.update(os.fsencode("\n".join(names)))
        if (root := getattr(source, "root", None)) is not None:
            for name in names:
                path = root / name
                for file in sorted(path.iterdir()) if path.is_dir() else [path]:  # a folder has the frames of a clip
                    status = os.stat(file)
                    digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    image = getattr(source, "image", None)
    if image is None:
        rows = torch.linspace(0, len(source.label) - 1, min(PROBED_IMAGES, len(source.label))).long()
        for row in rows.split(1):  # one at a time, because clips may be large
            digest.update(source.fetch(row, None).contiguous().numpy().data)
    else:
        digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()


class CachedFeatures(ImageSet):
    """Any dataset of labelled images, represented by the features `[B, D]` of a frozen network.

    The network processes each dataset only once, when its features are first needed. The images are divided among the
    ranks. The name of a cache entry is a digest of the network (`module_hash`), the images, the labels and the
    augmentation. A different network, dataset, crop or number of passes therefore creates a new entry. The validation
    split, the label noise and the order of samples are not part of the digest. Runs that differ only in seed and noise
    rate therefore share an entry. If the images of a dataset depend on the seed, as with open-set label noise, each
    seed has its own entry. Image files are identified by their labels, names, sizes and modification times, and by the
    pixels of 64 files. The features are therefore computed again if the modification times change, for example because
    the files were copied.

    Train the head with a module whose network accepts features as input, such as
    `lightning_modules.noisy_labels.nmtune.NMTune` with the encoder `torch.nn.Identity`. With `data.second_view`, the
    second view of a training image consists of the features of a different augmented pass.

    Args:
        images: dataset whose features are computed.
        encoder: network that maps images `[B, C, H, W]` in [0, 1] to features `[B, num_features]`. The encoder runs in
            evaluation mode.
        num_features: number of features per image, D.
        augmented_passes: number of random augmentations per training image. The features of all augmentations are
            cached, and each epoch uses the features of one augmentation. If it is 0, training uses the features of the
            images without augmentation.
        augmentation: random crop and flip of the augmented passes, in addition to the random crop of image files.
        augmentation_seed: random seed of the augmentations. This seed does not depend on the seed of the run, because
            all runs share the cache.
        encoder_batch_size: batch size of the encoder on each rank.
        dtype: dtype of the features on disk.
        cache_dir: cache folder, visible to all ranks.
        num_workers: number of DataLoader workers that read images. None means 0 for images in memory, and otherwise one
            per free core, at most 8.
    """

    def __init__(
        self,
        images: ImageSet,
        encoder: nn.Module,
        num_features: int,
        augmented_passes: int = 0,
        augmentation: Augmentation | None = None,
        augmentation_seed: int = 0,
        encoder_batch_size: int = 128,
        dtype: Literal["float32", "float16"] = "float32",
        cache_dir: str = "runs/features",
        num_workers: int | None = None,
    ) -> None:
        at_least(1, num_features=num_features, encoder_batch_size=encoder_batch_size)
        at_least(0, augmented_passes=augmented_passes, num_workers=num_workers)
        one_of(("float32", "float16"), dtype=dtype)
        self.images = images
        self.encoder = encoder
        self.num_features = num_features
        self.augmented_passes = augmented_passes
        self.augmentation = augmentation or Augmentation()
        self.augmentation_seed = augmentation_seed
        self.encoder_batch_size = encoder_batch_size
        self.dtype = dtype
        self.cache_dir = Path(cache_dir)
        self.num_workers = num_workers
        self.num_classes = images.num_classes
        self.image_shape = (num_features,)
        self.num_views = max(augmented_passes, 1)
        self.device = torch.device("cpu")
        self._fingerprint: str | None = None

    @property
    def class_names(self) -> Sequence[str] | None:  # type: ignore[override]
        return self.images.class_names

    def fetch_missing(self) -> None:
        self.images.fetch_missing()

    def prepare(self, seed: int, device: torch.device) -> Self:
        self.images.prepare(seed, device)
        self.device = device
        return self

    def training(self) -> FeatureSource:
        return self._features("training", self.images.training(), self.augmented_passes)

    def validation(self) -> FeatureSource | None:
        source = self.images.validation()
        return None if source is None else self._features("validation", source)

    def test(self) -> FeatureSource:
        return self._features("test", self.images.test())

    def ood_test_sets(self) -> dict[str, ImageSource]:
        return {name: self._features(name, source) for name, source in self.images.ood_test_sets().items()}

    def shifted_labels(self) -> dict[str, Tensor]:
        return self.images.shifted_labels()  # no feature is computed

    def _features(self, split: str, source: ImageSource, passes: int = 0) -> FeatureSource:
        identity = self._identity(split, source, passes)
        if broadcast(identity) != identity:
            raise ValueError(f"the encoder or the images of process {rank()} differ from those of process 0")
        samples = len(source.label)
        rows = self._rows_per_part(samples)
        places = [(epoch, start) for epoch in range(passes + 1) for start in range(0, samples, rows)]

        def compute(numbers: list[int]) -> Parts:
            return self._extract(source, [(number, *places[number]) for number in numbers], rows)

        name = f"{type(self.images).__name__}-{split}"
        array = cached_array(self.cache_dir, name, identity, len(places), compute)
        return FeatureSource(source, array.reshape(passes + 1, samples, self.num_features))

    def _rows_per_part(self, samples: int) -> int:
        """Return the number of rows per part, a multiple of the batch size.

        The result does not depend on the number of ranks.
        """
        batch = self.encoder_batch_size
        batches = -(-samples // (MOST_PARTS * batch))
        return batch * min(batches, max(ROWS_PER_PART // batch, 1))

    def _identity(self, split: str, source: ImageSource, passes: int) -> dict[str, Any]:
        if self._fingerprint is None:
            self.encoder.requires_grad_(False).eval()
            self._fingerprint = hash_of_module(self.encoder, attributes=True)
        crop = getattr(source, "crop", None)
        augmentation: dict[str, Any] = {"passes": passes}
        if passes:
            augmentation |= {"seed": self.augmentation_seed, **asdict(self.augmentation)}
        return {
            "encoder": {"class": type(self.encoder).__qualname__, "digest": self._fingerprint},
            "data": {
                "class": f"{type(self.images).__module__}.{type(self.images).__qualname__}",
                "split": split,
                "samples": len(source.label),
                "image_shape": list(self.images.image_shape),
                "digest": source_fingerprint(source),
                "crop": None if crop is None else f"{type(crop).__name__} {sorted(vars(crop).items())}",
            },
            "augmentation": augmentation,
            "num_features": self.num_features,
            "batch": self.encoder_batch_size,
            "dtype": self.dtype,
        }

    @torch.inference_mode()
    def _extract(self, source: ImageSource, parts: list[tuple[int, int, int]], rows: int) -> Parts:
        """Compute the features of parts of the data. A part is a block of rows in one pass.

        Each part is given by three indices: (part, pass, first row).
        """
        if not parts:
            return
        self.encoder.to(self.device)
        samples, batch = len(source.label), self.encoder_batch_size
        every = torch.arange(samples)
        requests: dict[bool, list[Request]] = {False: [], True: []}
        for _, epoch, start in parts:
            for first in range(start, min(start + rows, samples), batch):
                index = every[first : min(first + batch, start + rows, samples)]
                requests[epoch > 0].append(Request(index, epoch, len(index)))
        batches = chain.from_iterable(
            self._images(source, requests[augmented], self.augmentation_seed if augmented else None)
            for augmented in (False, True)
        )
        for number, _, start in parts:
            count = min(rows, samples - start)
            features = [self._encode(next(batches)) for _ in range(-(-count // batch))]
            yield number, torch.cat(features).numpy()
        self.encoder.cpu()

    def _images(self, source: ImageSource, requests: list[Request], seed: int | None) -> Iterator[dict[str, Any]]:
        if not requests:
            return
        workers = self.num_workers
        if workers is None:
            here = min(world_size(), torch.cuda.device_count() or world_size())
            workers = 0 if source.in_memory else free_cores(here)
        yield from DataLoader(
            LabelledSet(source, seed=seed),
            sampler=requests,
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _encode(self, batch: dict[str, Any]) -> Tensor:
        image, index = (batch[key].to(self.device, non_blocking=True) for key in ("image", "index"))
        if "epoch" in batch:
            image = self.augmentation.apply(image, self.augmentation_seed, batch["epoch"], index)
        features = self.encoder(image.float().div(batch["data_range"]))
        if features.shape != (len(image), self.num_features):
            raise ValueError(
                f"num_features is {self.num_features}, but the encoder returns features of shape "
                f"{list(features.shape[1:])} for an image"
            )
        stored = features.to(getattr(torch, self.dtype)).cpu()
        if not stored.isfinite().all():
            raise ValueError(f"the encoder returns features that are NaN, infinite or too large for {self.dtype}")
        return stored
