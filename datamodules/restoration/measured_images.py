"""The DataModule of images of which something was measured, from which they are to be found again.

MeasuredImages(AverageDownsampling(4), test=CentreCrops("~/photographs"), sigma=0.1)
"""

from typing import Any

import torch
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.corruptions.operators.interface import Operator
from datamodules.loading.global_batches import Request
from datamodules.loading.whole_images import SizedSet
from datamodules.randomness.counter import CounterRNG
from datamodules.restoration.image_pairs import ImagePairs, WholeImages
from datamodules.restoration.images import Images, PairSet
from datamodules.restoration.noisy_folder import NoisyFolder

NOISE_SEED = 0
"""Of the noise of measurements: every method sees the same ones, in every run."""


class MeasuredImages(ImagePairs):
    """Batches of measurements y = H x + noise, with the clean images where these are known (`MeasuredImageBatch`).

    Each image's mask and noise follow from a fixed seed and its position. Training batches are clean patches, as a
    model of images alone is trained.

    Args:
        operator: H, an operator on images in [-1, 1].
        test: data set of clean images to measure, or several by name, each with its own metrics.
        training: data set to train a model of images on; None for one that is trained already.
        sigma: standard deviation of the measurement's noise for images in [0, 1]; it is twice that in [-1, 1].
        batch_size: training patches of a step over all processes.
        patch_size: height and width of a training patch, in pixels.
        patches_per_image: patches that an epoch takes of each training image.
        augmentation: whether training patches are flipped and transposed at random, in 8 ways equally often.
        evaluation_batch_size: most images of a test or prediction batch over all processes, each of which takes at
            least one; images of a batch have one size.
        predict_dir: folder of measured images to predict, such as small ones; None predicts the test images.
        data_range: the stored value of white in `predict_dir`, which images of 16 bits need; those of 8 bits have 255.
        num_workers: loader processes of test images; images in memory need none.
        seed: random seed of order, patches and augmentation; None takes `seed_everything`.

    Raises:
        ValueError: if an argument is out of range, images are smaller than a patch, or `predict_dir` is given and the
            operator measures no images.
    """

    def __init__(
        self,
        operator: Operator,
        test: PairSet | dict[str, PairSet] | None = None,
        training: PairSet | None = None,
        sigma: float = 0.0,
        batch_size: int = 16,
        patch_size: int = 40,
        patches_per_image: int = 1,
        augmentation: bool = False,
        evaluation_batch_size: int = 1,
        predict_dir: str | None = None,
        data_range: int | None = None,
        num_workers: int | None = 0,
        seed: int | None = None,
    ) -> None:
        at_least(0, sigma=sigma)
        super().__init__(
            training,
            test,
            batch_size=batch_size,
            patch_size=patch_size,
            patches_per_image=patches_per_image,
            augmentation=augmentation,
            evaluation_batch_size=evaluation_batch_size,
            predict_dir=predict_dir,
            data_range=data_range,
            num_workers=num_workers,
            seed=seed,
        )
        if predict_dir is not None and not operator.measures_images:
            raise ValueError(f"predict_dir holds images, and {type(operator).__name__} measures none")
        self.operator = operator
        self.sigma = sigma

    def check_noise_of_training(self, images: Images, name: str) -> None:
        """Take clean images as they are."""

    def new_images(self, folder: str) -> SizedSet:
        channels = None if self.channels is None else self.operator.measured_channels(self.channels)
        return MeasuredFolder(self.operator, folder, channels, self.data_range)

    def whole(self, one: PairSet, split: Any) -> SizedSet:
        images = one.images(split)
        if images.clean is None:
            raise ValueError(f"{type(one).__name__} has noisy images alone, and clean ones are measured")
        return MeasuredTestImages(images, self.operator, self.sigma)

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        if "measured" in batch:
            batch["measured"] = self._in_unit_interval(batch["measured"], 1)
        return super().finished(batch)


def seen(operator: Operator, measured: Tensor) -> dict[str, Tensor]:
    """Give a measurement, and its pseudo-inverse in the units of images in [0, 1], in float32."""
    return {"measured": measured.float(), "noisy": ((operator.pseudo_inverse(measured) + 1) / 2).float()}


class MeasuredTestImages(WholeImages):
    """Whole clean images that are measured.

    Args:
        images: the images, all with clean ones.
        operator: H.
        sigma: standard deviation of the noise, of images in [0, 1].
    """

    def __init__(self, images: Images, operator: Operator, sigma: float) -> None:
        super().__init__(Images(images.names, images.clean, data_range=images.data_range), None)
        self.operator = operator
        self.sigma = sigma

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch = super().__getitem__(request)
        # In double precision, in which an image's measurement is the same whatever batch it is in.
        image = batch["clean"].double() / batch["data_range"] * 2 - 1
        operator = self.operator.of(request.indices, image.shape[2:])
        measured = operator.forward(image)
        if self.sigma:
            measured = measured + 2 * self.sigma * CounterRNG(NOISE_SEED, 0, request.indices).normal(measured)
        return batch | seen(operator, measured)


class MeasuredFolder(NoisyFolder):
    """A user's own folder of measured images; see `NoisyFolder`.

    Args:
        operator: H.
        folder: the folder.
        channels: 1 or 3, which measurements are read with; None leaves channels as they are.
        data_range: the stored value that stands for white, which images of 16 bits need.
    """

    def __init__(self, operator: Operator, folder: str, channels: int | None, data_range: int | None) -> None:
        super().__init__(folder, channels, data_range)
        self.operator = operator

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch = super().__getitem__(request)
        stored = batch["noisy"]
        measured = stored.to(torch.float64) / (batch["data_range"] or 255) * 2 - 1
        return batch | seen(self.operator.of(request.indices, measured.shape[2:]), measured)
