"""DataModule for images with surface normals.

Training batches contain crops, and test batches contain whole images. Any dataset of normals can be used.

NormalMaps(HeightFields(), test={"NYUv2": NYUv2("~/data")}, crop_size=16)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.files.data_directory import Paths
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.whole_images import SizedSet, WholeImageSets
from datamodules.normals.normal_set import NormalSet, NormalSource, decode_normals
from datamodules.randomness.counter import sample_uniform
from datamodules.restoration.noisy_folder import NoisyFolder


class NormalMaps(WholeImageSets):
    """DataModule with batches of images and their normals (`datamodules.batches.NormalMapBatch`).

    Training batches are square crops with random flips. The crops and flips depend only on (seed, epoch, index), not on
    the number of ranks. Validation, test and prediction batches contain whole images. All images of a batch have the
    same size.

    Args:
        training: training dataset. None for a run that only tests or predicts.
        test: test dataset, or a dict of test datasets by name. Metrics are computed separately for each test dataset.
        validation: validation dataset. None means no validation.
        batch_size: global training batch size, over all ranks.
        crop_size: height and width of training crops, in pixels.
        flip: whether to flip half of the training images horizontally. Flipping an image negates the x component of its
            normals.
        predict_dir: folder of photographs to predict, one file, a list of files and folders, or a text file (.txt) with
            one path per line. None predicts the test images.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        training: NormalSet | None = None,
        test: NormalSet | dict[str, NormalSet] | None = None,
        validation: NormalSet | None = None,
        batch_size: int = 16,
        crop_size: int = 768,
        flip: bool = True,
        predict_dir: Paths | None = None,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(training, test, validation, predict_dir, batch_size, loading)
        at_least(1, crop_size=crop_size)
        self.crop_size = crop_size
        self.flip = flip

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape C, H, W of a training image."""
        return 3, self.crop_size, self.crop_size

    def set_up_training(self) -> None:
        if self.training is not None:
            source = self.training.source("training")
            for name, (height, width) in zip(source.names, source.sizes, strict=True):
                if min(height, width) < self.crop_size:
                    raise ValueError(
                        f"{type(self.training).__name__}: {name} has {height} x {width} pixels, less than "
                        f"data.crop_size {self.crop_size}"
                    )
            self.train_set = Normals(source, self.crop_size, self.seed)
        if self.validation is not None:
            self.validation_set = self.whole(self.validation, "validation")

    def whole(self, one: NormalSet, split: Any) -> SizedSet:
        return Normals(one.source(split))

    def new_images(self, folder: Paths) -> SizedSet:
        return PhotographFolder(folder, channels=3)

    def augment(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        """If `flip` is set, flip each image and its normals horizontally with probability 1/2."""
        batch = self.finish(batch)
        if self.flip:
            mirrored = sample_uniform(self.seed, epoch, batch["index"], count=1, stream=1) < 0.5
            batch["image"], batch["normal"] = mirrored_pair(batch["image"], batch["normal"], mirrored[:, 0])
        return batch

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        dtype = self.pixel_type
        if not batch["image"].is_floating_point():  # otherwise `augment` has already converted it
            batch["image"] = batch["image"].to(dtype) / 255
            if "normal" in batch:
                batch["normal"] = decode_normals(batch["normal"], dtype)
        return batch


def mirrored_pair(image: Tensor, normal: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Flip selected images and their normals horizontally.

    Args:
        image: images `[B, C, H, W]`.
        normal: normals `[B, 3, H, W]`. Flipping negates their x component.
        mirrored: Boolean tensor `[B]`: whether to flip each image.
    """
    where = mirrored[:, None, None, None]
    x, rest = normal.flip(3).split([1, 2], dim=1)
    return torch.where(where, image.flip(3), image), torch.where(where, torch.cat([-x, rest], dim=1), normal)


class Normals:
    """Dataset of images with their normals, indexed by a `Request`.

    Training batches are square crops. All other batches are whole images.

    Args:
        source: images and normals.
        crop_size: height and width of the crops. None returns whole images.
        seed: seed of the crop positions.
    """

    def __init__(self, source: NormalSource, crop_size: int | None = None, seed: int = 0) -> None:
        self.source = source
        self.sizes = source.sizes
        self.crop_size = crop_size
        self.seed = seed
        self.in_memory = source.in_memory

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        batch: dict[str, Any] = {"index": request.indices, "global_batch_size": request.global_batch_size}
        pairs: list[tuple[NDArray, ...]] = [self.source.read(row) for row in rows]
        if self.crop_size is None:
            batch["name"] = [self.source.names[row] for row in rows]
        else:
            batch["epoch"] = request.epoch
            places = sample_uniform(self.seed, request.epoch, request.indices, count=2).tolist()
            pairs = [crop_alike(pair, place, self.crop_size) for pair, place in zip(pairs, places, strict=True)]
        image, normal = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs, strict=True))
        return batch | {"image": image, "normal": normal}


def crop_alike(pair: Sequence[NDArray], place: Sequence[float], size: int) -> tuple[NDArray, ...]:
    """Crop the same square from each of several arrays `[3, H, W]`.

    The two numbers in `place`, both in [0, 1), determine the row and the column of the square.
    """
    height, width = pair[0].shape[1:]
    top, left = int(place[0] * (height - size + 1)), int(place[1] * (width - size + 1))
    return tuple(array[:, top : top + size, left : left + size] for array in pair)


class PhotographFolder(NoisyFolder):
    """The user's photographs without normals, read in the same way as by `NoisyFolder`."""

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch = super().__getitem__(request)
        return {**{key: batch[key] for key in ("index", "global_batch_size", "name")}, "image": batch["noisy"]}
