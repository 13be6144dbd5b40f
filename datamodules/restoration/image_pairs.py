"""DataModule for image restoration with any dataset: training patches, whole test images and synthetic noise.

ImagePairs(Train400("~/data"), test={"BSD68": BSD68("~/data")}, noise=Gaussian(25), patches=PatchSampling(40))
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.arguments import one_of, positive
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.files.data_directory import Paths
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.whole_images import SizedSet, WholeImageSets
from datamodules.randomness.counter import CounterRNG, SeededImageRNG, sample_uniform
from datamodules.restoration.images import Images, PairSet, PatchSampling, PatchStore, Pixels
from datamodules.restoration.noisy_folder import NoisyFolder, RawFolder

SECOND = 1500
"""Index of the random stream from which the noise of the second noisy version is sampled."""


class ImagePairs(WholeImageSets):
    """DataModule with batches of noisy images and, if known, their clean images (`datamodules.batches.ImagePairBatch`).

    Training batches are random patches of images in memory. They are cropped, flipped and corrupted on the device. If
    the images need more than a quarter of the GPU's memory, they stay in CPU memory and are cropped there. The patches
    depend only on (seed, epoch, index), not on the number of ranks. Validation, test and prediction batches contain
    whole images. All images of a batch have the same size. The noise of each whole image is sampled with the same fixed
    seed, as is usual for published tables. All methods are therefore evaluated on the same noisy images. If the noise
    level is a range, `SeededImageRNG` samples one level per image.

    Args:
        training: training dataset. None for methods that only test or predict.
        test: test dataset, or a dict of test datasets by name. Metrics are computed separately for each test dataset.
        validation: validation dataset. None means no validation.
        noise: noise model that corrupts datasets that have only clean images. None for datasets with real noisy images.
        test_noise: noise model that corrupts validation and test images. None means `noise`.
        batch_size: global training batch size: number of patches over all ranks.
        patches: how training patches are cut from images.
        noise_samples: how often training noise is sampled. `new` samples new noise for each patch. `fixed` samples the
            noise of each training image only once, and keeps the noisy images in memory as float32. `two` adds a second
            noisy version of each patch with independent noise, which Noise2Noise needs.
        predict_dir: folder of noisy images to predict, one image file, a list of files and folders, or a text file
            (.txt) with one path per line. None predicts the test images.
        data_range: stored value of a white pixel in `predict_dir`, which is 255 for 8-bit images. It is required for
            16-bit and floating-point images. Restored floating-point images are multiplied by it, and not clipped.
        predict_ratio: factor by which raw images in `predict_dir` are brightened. It replaces the exposure ratio, which
            these images do not have.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        training: PairSet | None = None,
        test: PairSet | dict[str, PairSet] | None = None,
        validation: PairSet | None = None,
        noise: ImageNoise | None = None,
        test_noise: ImageNoise | None = None,
        batch_size: int = 16,
        patches: PatchSampling = PatchSampling(),
        noise_samples: Literal["new", "fixed", "two"] = "new",
        predict_dir: Paths | None = None,
        data_range: int | float | None = None,
        predict_ratio: float = 1.0,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(training, test, validation, predict_dir, batch_size, loading)
        positive(data_range=data_range, predict_ratio=predict_ratio)
        one_of(("new", "fixed", "two"), noise_samples=noise_samples)
        self.noise = noise
        self.test_noise = test_noise or noise
        self.patches = patches
        self.scale = 1 if training is None else training.scale
        if patches.size % self.scale:
            raise ValueError(
                f"data.patches.size must be a multiple of {self.scale}, the ratio of high to low resolution, "
                f"got {patches.size}"
            )
        self.noise_samples = noise_samples
        if noise_samples == "two" and noise is None:
            raise ValueError("data.noise_samples two needs a noise model: set data.noise")
        self.data_range = data_range
        self.predict_ratio = predict_ratio
        sets = [one for one in (training, validation, *self.tests.values()) if one is not None]
        if len(channels := {one.channels for one in sets}) > 1:
            counts = ", ".join(f"{type(one).__name__} {one.channels}" for one in sets)
            raise ValueError(f"the datasets have different numbers of channels: {counts}")
        self.channels = channels.pop() if channels else None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape C, H, W of a training patch."""
        if self.channels is None:
            raise ValueError("the shape of images is unknown without a dataset: set data.training or data.test")
        return self.channels, self.patches.size, self.patches.size

    # reading

    def set_up_training(self) -> None:
        if self.training is not None:
            images = self.training.images("training")
            name = type(self.training).__name__
            self.check_noise_of_training(images, name)
            self.train_set = Patches(images, self.patches, name, self.seed)
            if self.noise is not None and self.noise_samples == "fixed":
                self.train_set.keep_noise(self.noise)
            device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
            self.train_set.on_device = self.train_set.num_bytes <= room(device)
        if self.validation is not None:
            self.validation_set = self.whole(self.validation, "validation")

    def check_noise_of_training(self, images: Images, name: str) -> None:
        """Raise an error if a noise model is set for images with real noise, or is not set for clean images."""
        if images.noisy is not None and self.noise is not None:
            raise ValueError(f"{name} has real noisy images: do not set data.noise")
        if images.noisy is None and self.noise is None:
            raise ValueError(f"{name} has only clean images: set data.noise")

    def whole(self, one: PairSet, split: Any) -> SizedSet:
        images = one.images(split)
        if images.noisy is None and self.test_noise is None:
            raise ValueError(f"{type(one).__name__} has only clean images: set data.noise or data.test_noise")
        return WholeImages(images, self.test_noise)

    def new_images(self, folder: Paths) -> SizedSet:
        if self.channels in (4, 9):
            return RawFolder(folder, self.predict_ratio, self.channels)
        return NoisyFolder(folder, self.channels, self.data_range)

    # batches

    def augment(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        patches, index = self.train_set, batch["index"]
        assert isinstance(patches, Patches)
        cut = patches.crop(index, epoch) if patches.on_device else {key: batch[key] for key in patches.stores}
        if self.patches.augmentation:
            ways = sample_uniform(self.seed, epoch, index, count=3, stream=1)
            cut = {key: flipped_and_transposed(image, ways) for key, image in cut.items()}
        cut = {key: self._in_unit_interval(stored, patches.data_range) for key, stored in cut.items()}
        if "noisy" not in cut and self.noise is not None:
            cut["noisy"] = self.noise.sample(cut["clean"], CounterRNG(self.seed, epoch, index))
            levels = self.noise.drawn_levels(cut["clean"], CounterRNG(self.seed, epoch, index))
            batch |= {} if levels is None else {"noise_level": levels}
            if self.noise_samples == "two":
                cut["second_noisy"] = self.noise.sample(cut["clean"], CounterRNG(self.seed, epoch, index, SECOND))
        return batch | cut

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        data_range = batch.get("data_range", 255)
        images = {key: self._in_unit_interval(batch[key], data_range) for key in ("noisy", "clean") if key in batch}
        return batch | images

    def _in_unit_interval(self, stored: Tensor, data_range: float) -> Tensor:
        pixels = stored.to(self.pixel_type)
        return pixels if stored.is_floating_point() else pixels.div_(data_range)


def flipped_and_transposed(image: Tensor, uniform: Tensor) -> Tensor:
    """Flip images horizontally, vertically and along the diagonal, each with probability 1/2.

    Args:
        image: images `[B, C, P, P]`.
        uniform: uniform numbers in [0, 1), `[B, 3]`.
    """
    if image.dtype == torch.uint16:  # PyTorch implements few operations for this dtype
        return flipped_and_transposed(image.view(torch.int16), uniform).view(torch.uint16)
    own = torch.arange(len(image), device=image.device)
    for axis, turned in enumerate((uniform < 0.5).unbind(dim=1)):
        other = image.transpose(2, 3) if axis == 2 else image.flip(3 - axis)
        image = torch.cat([image, other]).index_select(0, own + len(image) * turned)  # index_select copies whole images
    return image


class Patches:
    """Dataset of training images. They are cropped on the device if they take at most a quarter of its memory.

    Args:
        images: images of one split.
        sampling: how patches are cut.
        name: name of the dataset, for error messages.
        seed: seed of the patch positions and of fixed noise.
    """

    in_memory = True

    def __init__(self, images: Images, sampling: PatchSampling, name: str, seed: int) -> None:
        for title, image in zip(images.names, images.stored, strict=True):
            if min(image.shape[1:]) < sampling.size:
                raise ValueError(
                    f"{name}: {title} has {image.shape[1]} x {image.shape[2]} pixels, less than data.patches.size "
                    f"{sampling.size}"
                )
        self.count = len(images.names)
        self.data_range = images.data_range
        self.scale = images.scale
        self.sampling = sampling
        self.seed = seed
        self.on_device = True
        kinds = {"clean": images.clean, "noisy": images.noisy}
        self.stores = {key: PatchStore(kind) for key, kind in kinds.items() if kind is not None}

    def keep_noise(self, noise: ImageNoise) -> None:
        """Corrupt each image once, with noise that depends only on the seed and the position of the image."""
        noisy = []
        for position in range(self.count):
            clean = self.stores["clean"].image(position)[None].float() / self.data_range
            drawn = noise.sample(clean, CounterRNG(self.seed, 0, torch.tensor([position]), stream=2000))
            noisy.append(drawn[0].float().numpy())
        self.stores["noisy"] = PatchStore(noisy)

    def __len__(self) -> int:
        return self.count * self.sampling.per_image

    def __getitem__(self, request: Request) -> dict[str, Any]:
        batch: dict[str, Any] = {
            "index": request.indices,
            "epoch": request.epoch,
            "global_batch_size": request.global_batch_size,
        }
        return batch if self.on_device else batch | self.crop(request.indices, request.epoch)

    @property
    def num_bytes(self) -> int:
        """Memory size of the images, in bytes."""
        return sum(store.values.nbytes for store in self.stores.values())

    def crop(self, index: Tensor, epoch: int) -> dict[str, Tensor]:
        """Crop the patches of the selected samples, with stored pixel values, on the device of `index`."""
        image, place = index // self.sampling.per_image, sample_uniform(self.seed, epoch, index, count=2)
        size, grid = (
            {"clean": self.sampling.size, "noisy": self.sampling.size // self.scale},
            {"clean": self.scale, "noisy": 1},
        )
        return {
            key: store.to(index.device).crop(image, place, size[key], grid[key]) for key, store in self.stores.items()
        }


def room(device: torch.device) -> float:
    """Return how many bytes images may take on a device: a quarter of a GPU's memory, or any number on a CPU."""
    return torch.cuda.get_device_properties(device).total_memory / 4 if device.type == "cuda" else math.inf


class WholeImages:
    """Dataset of whole images. Clean images are corrupted in the same way as for published denoising tables.

    Args:
        images: images of one split.
        noise: noise model that corrupts clean images.
    """

    in_memory = True

    def __init__(self, images: Images, noise: ImageNoise | None) -> None:
        self.images = images
        self.noise = noise
        self.sizes = [image.shape[1:] for image in images.stored]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        batch: dict[str, Any] = {
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
            "name": [self.images.names[row] for row in rows],
            "data_range": self.images.data_range,
        }
        if self.images.clean is not None:
            batch["clean"] = _stack(self.images.clean, rows)
        if self.images.rendering is not None:
            batch["rendering"] = _stack(self.images.rendering, rows)
        if self.images.noisy is not None:
            batch["noisy"] = _stack(self.images.noisy, rows)
        elif self.noise is not None:
            clean = batch["clean"].float() / self.images.data_range
            own = (SeededImageRNG(index=row) for row in rows)
            noisy = [self.noise.sample(image[None], numbers) for image, numbers in zip(clean, own, strict=True)]
            batch["noisy"] = torch.cat(noisy).float()
        return batch


def _stack(images: Sequence[Pixels], rows: list[int]) -> Tensor:
    return torch.stack([torch.from_numpy(images[row]) for row in rows])
