"""DataModule for inverse problems: images are measured by an operator and reconstructed from the measurements.

MeasuredImages(AverageDownsampling(4), test=CentreCrops("~/photographs"), sigma=0.1)
"""

from typing import Any

from torch import Tensor

from datamodules.arguments import at_least
from datamodules.corruptions.operators.interface import Operator
from datamodules.files.data_directory import Paths
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.whole_images import SizedSet
from datamodules.pixel_ranges import to_unit
from datamodules.randomness.counter import CounterRNG
from datamodules.restoration.image_pairs import ImagePairs, WholeImages
from datamodules.restoration.images import Images, PairSet, PatchSampling
from datamodules.restoration.noisy_folder import NoisyFolder

NOISE_SEED = 0
"""Seed of the measurement noise. The seed is the same for all methods and runs."""


class MeasuredImages(ImagePairs):
    """DataModule with batches of measurements y = H x + noise and, if known, clean images x (`MeasuredImageBatch`).

    The measurement mask and the noise of an image depend only on a fixed seed and on the position of the image in the
    dataset. Training batches are clean patches, for training an unconditional image model.

    Args:
        operator: measurement operator H, which is applied to images in [-1, 1].
        test: dataset of clean images to measure, or a dict of datasets by name. Metrics are computed separately for
            each dataset.
        training: dataset on which an image model is trained. None if the model is pretrained.
        sigma: standard deviation of the measurement noise for images in [0, 1]. For images in [-1, 1], the standard
            deviation is doubled.
        batch_size: global training batch size: number of patches over all ranks.
        patches: how training patches are cut from images.
        predict_dir: folder of measurements to predict, such as low-resolution images, one file, a list of files and
            folders, or a text file (.txt) with one path per line. None predicts the test images.
        data_range: stored value of a white pixel in `predict_dir`, which is 255 for 8-bit images. It is required for
            16-bit and floating-point images.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        operator: Operator,
        test: PairSet | dict[str, PairSet] | None = None,
        training: PairSet | None = None,
        sigma: float = 0.0,
        batch_size: int = 16,
        patches: PatchSampling = PatchSampling(),
        predict_dir: Paths | None = None,
        data_range: int | float | None = None,
        loading: Loading = Loading(),
    ) -> None:
        at_least(0, sigma=sigma)
        super().__init__(
            training,
            test,
            batch_size=batch_size,
            patches=patches,
            predict_dir=predict_dir,
            data_range=data_range,
            loading=loading,
        )
        if predict_dir is not None and not operator.measures_images:
            raise ValueError(f"predict_dir must be null: measurements of {type(operator).__name__} are not images")
        self.operator = operator
        self.sigma = sigma

    def check_noise_of_training(self, images: Images, name: str) -> None:
        """Do nothing: clean training images without a noise model are allowed."""

    def new_images(self, folder: Paths) -> SizedSet:
        channels = None if self.channels is None else self.operator.measured_channels(self.channels)
        return MeasuredFolder(self.operator, folder, channels, self.data_range)

    def whole(self, one: PairSet, split: Any) -> SizedSet:
        images = one.images(split)
        if images.clean is None:
            raise ValueError(f"{type(one).__name__} has only noisy images, but measurements need clean images")
        return MeasuredTestImages(images, self.operator, self.sigma)

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        if "measured" in batch:
            batch["measured"] = self._in_unit_interval(batch["measured"], 1)
        return super().finish(batch)


def measurements_and_inverses(operator: Operator, measured: Tensor) -> dict[str, Tensor]:
    """Return measurements, and the images in [0, 1] that the pseudo-inverse computes from them, all in float32."""
    return {"measured": measured.float(), "noisy": to_unit(operator.pseudo_inverse(measured)).float()}


class MeasuredTestImages(WholeImages):
    """Dataset of whole clean images and their measurements by an operator.

    Args:
        images: images of one split, which must include clean images.
        operator: measurement operator H.
        sigma: standard deviation of the measurement noise for images in [0, 1].
    """

    def __init__(self, images: Images, operator: Operator, sigma: float) -> None:
        super().__init__(Images(images.names, images.clean, data_range=images.data_range), None)
        self.operator = operator
        self.sigma = sigma

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch = super().__getitem__(request)
        # Double precision makes the measurement of an image independent of its batch.
        image = batch["clean"].double() / batch["data_range"] * 2 - 1
        operator = self.operator.of(request.indices, image.shape[2:])
        measured = operator.forward(image)
        if self.sigma:
            measured = measured + 2 * self.sigma * CounterRNG(NOISE_SEED, 0, request.indices).normal(measured)
        return batch | measurements_and_inverses(operator, measured)


class MeasuredFolder(NoisyFolder):
    """A folder of the user's measurements. They are read in the same way as by `NoisyFolder`.

    Args:
        operator: measurement operator H.
        folder: folder of measurements.
        channels: number of channels of the returned measurements, 1 or 3. None leaves channels unchanged.
        data_range: stored value of a white pixel. It is required for 16-bit and floating-point images.
    """

    def __init__(self, operator: Operator, folder: Paths, channels: int | None, data_range: float | None) -> None:
        super().__init__(folder, channels, data_range)
        self.operator = operator

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch = super().__getitem__(request)
        stored = batch["noisy"]
        measured = stored.double() / (1 if stored.is_floating_point() else batch["data_range"]) * 2 - 1
        return batch | measurements_and_inverses(self.operator.of(request.indices, measured.shape[2:]), measured)
