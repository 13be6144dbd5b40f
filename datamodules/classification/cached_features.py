"""Features of a frozen network in place of images, computed once and kept on disk.

Tuning on top of a frozen encoder reads the same features in every epoch, and in every run over seeds, noise rates or
methods. A head is then trained in minutes on a CPU, and the encoder may be one that can only be asked for features.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.classification.labelled_images import ImageSource, LabelledImages, LabelledSet
from datamodules.classification.second_view import SecondView
from datamodules.classification.shifted_tests import ShiftedTests
from datamodules.files.array_cache import Parts, cached_array, module_fingerprint
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import check_at_least, free_cores

ROWS_PER_PART, MOST_PARTS = 4096, 64
PROBED_IMAGES = 64
HANDED_ON = ("names", "classes", "image_for_noise", "clean_label")
"""What label noise, metrics and reports ask a source for, where it has it."""


class FeatureSource:
    """An `ImageSource` of features: pass 0 without augmentation, then the augmented passes.

    It has what `HANDED_ON` names as far as the source of the images has it, and asks that source each time: the names
    of a million files are Python strings only while somebody looks at them.

    Args:
        source: of the images.
        feature: `[1 + passes, N, D]`.
    """

    brightest = 1

    def __init__(self, source: ImageSource, feature: NDArray[Any]) -> None:
        self.source = source
        self.label = source.label
        self.feature = feature
        self.num_uniform = 1 if len(feature) > 1 else 0

    def __getattr__(self, name: str) -> Any:
        if name in HANDED_ON:
            return getattr(self.source, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Features `[B, D]`; a number in [0, 1) for each row chooses among its augmented passes."""
        passes = np.zeros(len(row), dtype=np.int64)
        if uniform is not None:
            passes = 1 + (uniform[:, 0] * (len(self.feature) - 1)).long().numpy()
        return torch.from_numpy(self.feature[passes, row.numpy()])


def source_fingerprint(source: ImageSource) -> str:
    """Digest of a set: labels, and the pixels of images in memory or names, sizes, times of all files and 64 images."""
    digest = hashlib.sha256(source.label.numpy().data)
    digest.update(f"{source.brightest}\n".encode())
    if (names := getattr(source, "names", None)) is not None:
        digest.update(os.fsencode("\n".join(names)))
        if (root := getattr(source, "root", None)) is not None:
            for name in names:
                status = os.stat(root / name)
                digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    image = getattr(source, "image", None)
    if image is None:
        rows = torch.linspace(0, len(source.label) - 1, min(PROBED_IMAGES, len(source.label))).long()
        image = source.fetch(rows, None)
    digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()


class CachedFeatures(SecondView, ShiftedTests):
    """Any set of labelled images, as the features `[B, D]` that a frozen network gives for them.

    The network runs over a set when it is first needed, each process over its share of it, and never again: an entry of
    the cache has the digest of the network's classes, attributes and weights (`feature_cache.module_fingerprint`) and
    of the images, labels and augmentation, so that another network, set, crop or number of passes makes another entry.
    Split, label noise and order do not count, and runs over seeds and noise rates share an entry; a set that draws its
    images from the seed, as with foreign images among them, has one for each draw. Images in files are recognised by
    all their labels, names, sizes and times of modification and the pixels of 64 of them: of a copy that has other
    times, the features are computed again.

    The head is a module whose network takes features: `lightning_modules.noisy_labels.nmtune.NMTune` with
    `torch.nn.Identity` for its encoder.

    Args:
        data: the images. Batch sizes, label noise, validation split and augmentation are those it has.
        encoder: maps images `[B, C, H, W]` in [0, 1] to features `[B, num_features]`; it is put in evaluation mode.
        num_features: D.
        augmented_passes: features of so many random views of each training image are kept, and every visit takes one of
            them; with 0 it takes those of the image without augmentation, which are always kept for evaluation.
        second_view: training batches also hold `second_view`, the features of another draw from the passes.
        augmentation_seed: of the views, and not that of the run, as all runs share them.
        encoder_batch_size: images that the encoder gets at once in each process.
        dtype: of the features on disk.
        cache_dir: folder of the cache, which all processes see.
        seed: of split, noise and order, and of what `data` draws when it is read; None takes that of `data`. On the
            command line it is `seed_everything`.

    Raises:
        ValueError: if an argument is out of range, `data` has a `second_view` of its own, or the encoder gives features
            of another number, an infinite or undefined value, or one that `dtype` can not hold.
    """

    def __init__(
        self,
        data: LabelledImages,
        encoder: nn.Module,
        num_features: int,
        augmented_passes: int = 0,
        second_view: bool = False,
        augmentation_seed: int = 0,
        encoder_batch_size: int = 128,
        dtype: Literal["float32", "float16"] = "float32",
        cache_dir: str = "runs/features",
        seed: int | None = None,
    ) -> None:
        check_at_least(1, num_features=num_features, encoder_batch_size=encoder_batch_size)
        check_at_least(0, augmented_passes=augmented_passes)
        if second_view and augmented_passes < 2:
            raise ValueError(f"second_view needs at least 2 augmented_passes, which differ, got {augmented_passes}")
        if getattr(data, "second_view", False):
            raise ValueError(
                "second_view of the images has no effect on their features: set it for the features (data.second_view) "
                "and not for the images (data.data.second_view)"
            )
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be float32 or float16, got {dtype!r}")
        super().__init__(
            data.batch_size,
            data.label_noise,
            data.validation_fraction,
            data.evaluation_batch_size,
            passes_per_epoch=data.passes_per_epoch,
            seed=data.seed if seed is None else seed,
        )
        self.data = data
        self.data.seed = self.seed
        self.encoder = encoder
        self.num_features = num_features
        self.augmented_passes = augmented_passes
        self.second_view = second_view
        self.augmentation_seed = augmentation_seed
        self.encoder_batch_size = encoder_batch_size
        self.dtype = dtype
        self.cache_dir = Path(cache_dir)
        self.num_classes = data.num_classes
        self.image_shape = (num_features,)  # type: ignore[assignment]
        self._fingerprint: str | None = None

    @property
    def class_names(self) -> list[str] | None:  # type: ignore[override]
        return self.data.class_names

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def read_training(self) -> FeatureSource:
        return self._features("training", self.data.read_training(), self.augmented_passes)

    def read_validation(self) -> FeatureSource | None:
        source = self.data.read_validation()
        return None if source is None else self._features("validation", source)

    def read_test(self) -> FeatureSource:
        return self._features("test", self.data.read_test())

    def read_shifted_tests(self) -> dict[str, ImageSource]:
        return {name: self._features(name, source) for name, source in self._shifted().read_shifted_tests().items()}

    def check_shifted_tests(self) -> None:
        """Of the images: no feature is computed."""
        self._shifted().check_shifted_tests()

    def _shifted(self) -> ShiftedTests:
        if not isinstance(self.data, ShiftedTests):
            raise ValueError(f"CachedFeatures: {type(self.data).__name__} has no shifted test sets")
        return self.data

    def samples_per_epoch(self) -> int:
        return self._with_labels().samples_per_epoch()

    def draw_epoch(self, random: np.random.Generator) -> NDArray[Any]:
        return self._with_labels().draw_epoch(random)

    def _with_labels(self) -> LabelledImages:
        """The DataModule of the images, which may choose an epoch's samples by their labels."""
        self.data.train_set, self.data._given = self.train_set, self._given
        return self.data

    def _features(self, split: str, source: ImageSource, passes: int = 0) -> FeatureSource:
        trainer = self.trainer
        identity = self._identity(split, source, passes)
        token = uuid.uuid4().hex
        if trainer is not None:
            first = trainer.strategy.broadcast((identity, token))
            if first[0] != identity:
                raise ValueError(f"process {trainer.global_rank} has another encoder or other images than process 0")
            token = first[1]
        samples = len(source.label)
        rows = self._rows_per_part(samples)
        places = [(visit, start) for visit in range(passes + 1) for start in range(0, samples, rows)]

        def compute(numbers: list[int]) -> Parts:
            return self._extracted(source, [(number, *places[number]) for number in numbers], rows)

        name = f"{type(self.data).__name__}-{split}"
        array = cached_array(self.cache_dir, name, identity, len(places), compute, *self.processes(), token)
        return FeatureSource(source, array.reshape(passes + 1, samples, self.num_features))

    def _rows_per_part(self, samples: int) -> int:
        """Whole batches, so that a batch is the same whoever computes it; enough parts for many processes."""
        batch = self.encoder_batch_size
        batches = -(-samples // (MOST_PARTS * batch))
        return batch * min(batches, max(ROWS_PER_PART // batch, 1))

    def _identity(self, split: str, source: ImageSource, passes: int) -> dict[str, Any]:
        if self._fingerprint is None:
            self.encoder.requires_grad_(False).eval()
            self._fingerprint = module_fingerprint(self.encoder)
        crop = getattr(source, "crop", None)
        augmentation = {
            "passes": passes,
            **(
                {"seed": self.augmentation_seed, "padding": self.data.crop_padding, "flip": self.data.flip}
                if passes
                else {}
            ),
        }
        return {
            "encoder": {"class": type(self.encoder).__qualname__, "digest": self._fingerprint},
            "data": {
                "class": f"{type(self.data).__module__}.{type(self.data).__qualname__}",
                "split": split,
                "samples": len(source.label),
                "image_shape": list(self.data.image_shape),
                "digest": source_fingerprint(source),
                "crop": None if crop is None else f"{type(crop).__name__} {sorted(vars(crop).items())}",
            },
            "augmentation": augmentation,
            "num_features": self.num_features,
            "batch": self.encoder_batch_size,
            "dtype": self.dtype,
        }

    @torch.inference_mode()
    def _extracted(self, source: ImageSource, parts: list[tuple[int, int, int]], rows: int) -> Parts:
        """Features of parts, each given as its number, its pass and its first row. Pass 0 is without augmentation."""
        if not parts:
            return
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        self.encoder.to(device)
        samples, batch = len(source.label), self.encoder_batch_size
        every = torch.arange(samples)
        requests: dict[bool, list[Request]] = {False: [], True: []}
        for _, visit, start in parts:
            for first in range(start, min(start + rows, samples), batch):
                index = every[first : min(first + batch, start + rows, samples)]
                requests[visit > 0].append(Request(index, visit, len(index)))
        batches = chain.from_iterable(
            self._images(source, requests[augmented], self.augmentation_seed if augmented else None)
            for augmented in (False, True)
        )
        for number, _, start in parts:
            count = min(rows, samples - start)
            features = [self._encoded(next(batches), device, source.brightest) for _ in range(-(-count // batch))]
            yield number, torch.cat(features).numpy()
        self.encoder.cpu()

    def _images(self, source: ImageSource, requests: list[Request], seed: int | None) -> Iterator[dict[str, Any]]:
        if not requests:
            return
        images = LabelledSet(source, torch.arange(len(source.label)), source.label, None, seed)
        workers = free_cores(self.trainer) if self.data.num_workers is None else self.data.num_workers
        yield from DataLoader(
            images,
            sampler=requests,
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=self.data.prefetch_factor if workers > 0 else None,
        )

    def _encoded(self, batch: dict[str, Any], device: torch.device, brightest: int) -> Tensor:
        visit = batch.pop("visit", None)
        batch |= {key: batch[key].to(device, non_blocking=True) for key in ("image", "index")}
        image = batch["image"] if visit is None else self._augmented_image(batch, visit)
        features = self.encoder(image.float().div(brightest))
        if features.shape != (len(image), self.num_features):
            raise ValueError(
                f"num_features is {self.num_features}, and the encoder gives {list(features.shape[1:])} for an image"
            )
        stored = features.to(getattr(torch, self.dtype)).cpu()
        if not stored.isfinite().all():
            raise ValueError(f"the encoder gives features that are undefined, infinite or too great for {self.dtype}")
        return stored

    def _augmented_image(self, batch: dict[str, Any], visit: int) -> Tensor:
        """Random views are drawn from `augmentation_seed`, and all else that the data draw from the run's seed."""
        self.data.seed = self.augmentation_seed
        try:
            return self.data.augmented(batch, visit)["image"]
        finally:
            self.data.seed = self.seed
