"""DataModule for semantic segmentation with any dataset, with mask noise, augmentation and mask corrections.

LabelledMasks(SegTHOR("~/data/segthor"), batch_size=5, mask_noise=OverUnderSegmentation())
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation.masks import MaskAugmentation
from datamodules.corruptions.mask_noise import MaskNoise, MaskNoiseStatistics, mask_noise_statistics
from datamodules.corruptions.seeded import with_seed
from datamodules.distributed.collectives import world_size
from datamodules.files.data_directory import Paths
from datamodules.files.image_files import Crop
from datamodules.files.whole_files import write_text
from datamodules.loading import Loading
from datamodules.loading.correctable_labels import CorrectableLabels
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import RequestedSet
from datamodules.randomness.counter import sample_uniform
from datamodules.segmentation.corrected_masks import LARGEST_IN_MEMORY, CorrectedMasks
from datamodules.segmentation.mask_sets import MaskSet, MasksInMemory, MaskSource, refuse_unknown_categories

_PIXEL_LABELS = ("label", "original_label", "clean_label")


def wait_for_all_processes() -> None:
    """Wait for all ranks (barrier), so that all ranks can read the files that one rank per machine has written."""
    if world_size() > 1:
        dist.barrier()


class LabelledMaskSet(Dataset[dict[str, Any]]):
    """Dataset whose masks can be corrected. Each item is a whole batch. Masks are uint8 tensors in CPU memory.

    Only a training set has a `seed`. Its batches contain the epoch, from which the augmentation is seeded. The epoch is
    removed from a batch after the augmentation on the device.
    """

    def __init__(
        self,
        source: MaskSource,
        corrections: CorrectedMasks | None = None,
        seed: int | None = None,
        augmentation: MaskAugmentation | None = None,
    ) -> None:
        self.source: Any = source
        self.corrections = corrections
        self.seed = seed
        self.augmentation = augmentation
        self.in_memory = source.in_memory

    def __len__(self) -> int:
        return len(self.source.size)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        index = request.indices
        given, clean = self.source.masks(index)
        masks = {"label": given}
        if self.corrections is not None:
            masks = {"label": self.corrections.current(index, given), "original_label": given}
        if clean is not None:
            masks["clean_label"] = clean
        if self.seed is not None and self.augmentation is not None:
            uniform = sample_uniform(self.seed, request.epoch, index, count=3, stream=1)
            image, labels = self.source.crop_masks(index, masks, self.augmentation, uniform)
        else:
            image, labels = self.source.whole(index, masks)
        batch: dict[str, Any] = {
            "image": image,
            "index": index,
            "global_batch_size": request.global_batch_size,
            **labels,
        }
        if self.seed is not None:
            batch["epoch"] = request.epoch
        if failed := self.source.unreadable:
            batch["unreadable"] = {sample: failed[sample] for sample in index.tolist() if sample in failed}
        return batch


class LabelledMasks(CorrectableLabels):
    """DataModule with batches of images and masks.

    If `loading.evaluation_batch_size` is set and images differ in size, the images of an evaluation batch are padded to
    the size of the largest one. This can change the output of a network.

    Args:
        images: dataset of images with masks.
        batch_size: global training batch size, over all ranks.
        mask_noise: noise model that corrupts training masks. None leaves the masks unchanged.
        augmentation: random scaling, cropping, colour jitter and flips. It requires training images in files. None
            means no augmentation.
        predict_dir: folder of images, including subfolders, that `predict` reads instead of the test set; or one file,
            a list of files and folders, or a text file (.txt) with one path per line. It requires a dataset whose
            files are resized to one size, such as `MaskFolders`.
        loading: how batches are read, and the seed.
    """

    train_set: LabelledMaskSet | None
    validation_set: LabelledMaskSet | None
    test_set: LabelledMaskSet | None
    predict_set: LabelledMaskSet | None

    def __init__(
        self,
        images: MaskSet,
        batch_size: int = 8,
        mask_noise: MaskNoise | None = None,
        augmentation: MaskAugmentation | None = None,
        predict_dir: Paths | None = None,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, loading)
        self.images = images
        self.mask_noise = mask_noise
        self.augmentation = augmentation
        self.predict_dir = predict_dir

    @property
    def adds_label_noise(self) -> bool:
        return self.mask_noise is not None

    @property
    def num_classes(self) -> int:
        return self.images.num_classes

    @property
    def class_names(self) -> list[str] | None:
        return None if self.images.class_names is None else list(self.images.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape C, H, W of the training images that the network receives."""
        channels, height, width = self.images.image_shape
        return (channels, height, width) if self.augmentation is None else (channels, *self.augmentation.shape)

    @property
    def crop(self) -> Crop | None:
        """How images are resized to one size; None if they are not."""
        return getattr(self.images, "crop", None)

    @property
    def training_names(self) -> list[str] | None:
        """Names of the training images without suffix, if the images are files."""
        assert self.train_set is not None
        names = self.train_set.source.names
        return None if names is None else list(names)

    def prepare_data(self) -> None:
        self.images.fetch_missing()

    def setup(self, stage: str) -> None:
        """For the stage `validate`, set up only the validation set, without reading or corrupting training images."""
        if stage == "validate":
            self._set_up_validation()
            return
        unread = self.train_set is None
        super().setup(stage)
        if unread and self.train_set is not None:
            self._write_noise()

    def _write_noise(self) -> None:
        """Write statistics of the mask noise of an in-memory dataset to `mask_noise.csv`, one row per class."""
        directory, source = self.run_directory(), self.require_sets(self.train_set, "fit").source
        if directory is None or self.processes()[0] != 0 or self.mask_noise is None:
            return
        if isinstance(source, MasksInMemory) and source.clean is not None:
            found = mask_noise_statistics(source.clean, source.given, self.num_classes)
            write_mask_noise(directory / "mask_noise.csv", found, self.class_names or range(self.num_classes))

    def set_up_training(self) -> None:
        source = self.images.prepare(self.seed).training()
        if self.augmentation is not None and not hasattr(source, "crop_masks"):
            raise ValueError(f"augmentation needs images in files, but {type(self.images).__name__} reads no files")
        if self.mask_noise is not None:
            source.make_wrong(with_seed(self.mask_noise, self.seed), self.num_classes)
        path, writes = None, True
        if int(source.size.prod(dim=1).sum()) > LARGEST_IN_MEMORY:
            path, writes = self._file_of_corrections()
        self.train_set = LabelledMaskSet(
            source, CorrectedMasks(source.size, path, writes), self.seed, self.augmentation
        )
        self.restore_corrections()
        self._set_up_validation()

    def _set_up_validation(self) -> None:
        if self.validation_set is None and (validation := self.images.prepare(self.seed).validation()) is not None:
            self.validation_set = LabelledMaskSet(validation)

    def set_up_prediction(self) -> None:
        if self.predict_dir is None:
            super().set_up_prediction()
        else:
            self.predict_set = LabelledMaskSet(self.images.new_images(self.predict_dir))

    def set_up_test(self) -> None:
        self.test_set = LabelledMaskSet(self.images.prepare(self.seed).test())

    def _file_of_corrections(self) -> tuple[Path, bool]:
        """Return the file for corrected masks, and whether this rank writes it.

        If there is a run directory, it contains one file per machine. Otherwise, there is one temporary file per rank.
        """
        directory = self.run_directory()
        if directory is None:
            descriptor, path = tempfile.mkstemp(prefix="corrected_masks_")
            os.close(descriptor)
            return Path(path), True
        assert self.trainer is not None
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f"corrected_masks_{self.trainer.node_rank}", self.trainer.local_rank == 0

    def teardown(self, stage: str) -> None:
        if stage != "fit" or self.train_set is None:
            return
        corrections = self.train_set.corrections
        if corrections is not None and corrections.path is not None and corrections.writes:
            corrections.path.unlink(missing_ok=True)

    def training_images_dataloader(self) -> DataLoader:
        """Return a DataLoader of the training images in dataset order, without augmentation, for scoring their masks.

        Smaller images are padded at the bottom and at the right to the size of the largest image of the batch. Masks
        are padded with 255.
        """
        train = self.read_training_set()
        return self.evaluation_loader(LabelledMaskSet(train.source, train.corrections))

    def evaluation_loader(self, samples: RequestedSet) -> DataLoader:
        assert isinstance(samples, LabelledMaskSet)
        if self.loading.evaluation_batch_size is None and (samples.source.size != samples.source.size[0]).any():
            self.evaluation_batch_size = self.processes()[1]
        return super().evaluation_loader(samples)

    def augment(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        """Jitter the colours of images, and flip images together with their masks."""
        return batch if self.augmentation is None else self.augmentation.apply(batch, self.seed, epoch)

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convert images to network inputs and masks to int64."""
        images = self.train_set or self.validation_set or self.test_set or self.predict_set
        assert images is not None
        data_range = images.source.data_range
        image = self.in_unit_interval(batch["image"], data_range or 1)
        batch["image"] = image if data_range is not None else standardize_images(image)
        return batch | {key: batch[key].long() for key in _PIXEL_LABELS if key in batch}

    def checked_correction(self, index: Tensor, label: Tensor) -> Tensor:
        refuse_unknown_categories(label, self.num_classes, "label")
        size = self._correct().size[index.cpu()]
        if len(size) and (size.amax(dim=0) > torch.tensor(label.shape[1:])).any():
            raise ValueError(f"label is {list(label.shape[1:])}, smaller than an image, {size.amax(dim=0).tolist()}")
        return label.to(torch.uint8)

    def write_corrections(self, index: Tensor, label: Tensor) -> None:
        self._correct().write(index, label)
        wait_for_all_processes()

    def corrections(self) -> dict[str, Tensor] | None:
        if self.train_set is None or self.processes()[0] != 0:
            return None
        return self._correct().checkpoint_state() if self._correct().changed.any() else None

    def load_corrections(self, saved: dict[str, Tensor]) -> None:
        self._correct().load(saved)
        wait_for_all_processes()

    def _correct(self) -> CorrectedMasks:
        corrected: CorrectedMasks = self.require_sets(self.train_set, "fit").corrections
        return corrected


def write_mask_noise(path: Path, found: MaskNoiseStatistics, names: Iterable[Any]) -> None:
    """Write statistics of the mask noise to a CSV file, one row per class."""
    rows = zip(names, found.lost.tolist(), found.false.tolist(), found.iou.tolist(), strict=True)
    lines = ["category,lost,false,iou", *(",".join(map(str, row)) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")


def standardize_images(image: Tensor) -> Tensor:
    """Scale each image of a batch `[B, C, H, W]` to mean 0 and standard deviation 1 over its pixels."""
    mean, deviation = image.mean(dim=(1, 2, 3), keepdim=True), image.std(dim=(1, 2, 3), keepdim=True)
    return (image - mean) / torch.where(deviation > 0, deviation, 1)
