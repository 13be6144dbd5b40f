"""The DataModule of images with one label for each pixel: mask noise, batches, augmentation, corrections, for any set.

LabelledMasks(SegTHOR("~/data/segthor"), batch_size=5, mask_noise=OverUnderSegmentation())
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation.masks import MaskAugmentation
from datamodules.corruptions.mask_noise import MaskNoise, mask_noise_statistics
from datamodules.corruptions.seeded import seeded
from datamodules.distributed.collectives import world_size
from datamodules.files.whole_files import write_text
from datamodules.loading.gathered_labels import gathered_labels
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import RequestedSet, SeededBatches
from datamodules.randomness.counter import sample_uniform
from datamodules.segmentation.corrected_masks import LARGEST_IN_MEMORY, CorrectedMasks
from datamodules.segmentation.mask_sets import MaskSet, MasksInMemory, MaskSource, refuse_unknown_categories

_PIXEL_LABELS = ("label", "original_label", "clean_label")


def wait_for_all_processes() -> None:
    """Wait until all processes are here: one process of a machine writes the file that the others then read."""
    if world_size() > 1:
        dist.barrier()


class LabelledMaskSet(Dataset[dict[str, Any]]):
    """A source with the corrections of its masks, fetched a request at a time; masks are uint8 until on the device.

    Batches of a training set, which has a `seed`, carry the number of the epoch that seeds augmentation, until they are
    on the device.
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
            image, labels = self.source.cropped(index, masks, self.augmentation, uniform)
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


class LabelledMasks(SeededBatches):
    """Batches of a data set's images with their masks.

    `num_classes` and `image_shape` are known at once, `num_train_samples` after `setup("fit")`. The order of training
    samples depends on (seed, epoch) alone, whatever the number of processes, and continues after an interruption inside
    an epoch.

    Training masks can be corrected (`correct_labels`). Batches then carry the corrected mask as `label`, and always the
    mask that was given as `original_label`. Corrections are part of the checkpoint.

    Args:
        images: data set.
        batch_size: training images of a step over all processes.
        mask_noise: makes training masks wrong; None leaves them.
        augmentation: random scale, crop, colours and mirror of training images in files; None leaves them.
        predict_dir: folder of images, in any subfolders, that `predict` takes in place of the test set; needs a set
            that reads files of one size, as `MaskFolders` does.
        evaluation_batch_size: images of a validation, test or prediction batch over all processes. Smaller ones are
            filled up to the largest of their batch, which a network may see; None takes `batch_size`, or one image for
            each process where images are of several sizes.
        num_workers: loader processes; None takes one for each free core, up to 8, and none for images in memory.
        prefetch_factor: batches that each loader process reads ahead.
        seed: random seed of noise, order, augmentation and of images that are drawn; None takes
            `seed_everything`.

    Raises:
        ValueError: if an argument is out of range, or the data do not fit it.
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
        predict_dir: str | None = None,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            evaluation_batch_size,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            seed=seed,
        )
        self.images = images
        self.mask_noise = mask_noise
        self.augmentation = augmentation
        self.predict_dir = predict_dir
        self._own_evaluation_batch_size = evaluation_batch_size is not None
        self._saved_corrections: dict[str, Tensor] | None = None

    @property
    def num_classes(self) -> int:
        return self.images.num_classes

    @property
    def class_names(self) -> list[str] | None:
        return None if self.images.class_names is None else list(self.images.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W of the training images, as a network gets them."""
        channels, height, width = self.images.image_shape
        return (channels, height, width) if self.augmentation is None else (channels, *self.augmentation.shape)

    @property
    def training_names(self) -> list[str] | None:
        """Names of the training images without suffix, where they are files."""
        assert self.train_set is not None
        names = self.train_set.source.names
        return None if names is None else list(names)

    def prepare_data(self) -> None:
        self.images.fetch_missing()

    def setup(self, stage: str) -> None:
        """Validation has images of its own, so that `validate` reads no training image and makes no mask wrong."""
        if stage == "validate":
            self._set_up_validation()
            return
        unread = self.train_set is None
        super().setup(stage)
        if unread and self.train_set is not None:
            self._write_noise()

    def _write_noise(self) -> None:
        """Keep how wrong `mask_noise` made the masks of a set in memory as `mask_noise.csv`, a row a category."""
        trainer = self.trainer
        if trainer is None or not trainer.loggers or self.train_set is None:
            return
        directory = trainer.log_dir  # on every process: it is broadcast
        source = self.train_set.source
        if directory is None or not trainer.is_global_zero or self.mask_noise is None:
            return
        if not isinstance(source, MasksInMemory) or source.clean is None:
            return
        found = mask_noise_statistics(source.clean, source.given, self.num_classes)
        names = self.class_names or range(self.num_classes)
        rows = zip(names, found.lost.tolist(), found.false.tolist(), found.iou.tolist(), strict=True)
        lines = ["category,lost,false,iou", *(",".join(map(str, row)) for row in rows)]
        write_text(Path(directory, "mask_noise.csv"), "\n".join(lines) + "\n")

    def set_up_training(self) -> None:
        source = self.images.prepared(self.seed).training()
        if self.augmentation is not None and not hasattr(source, "cropped"):
            raise ValueError(f"augmentation needs images in files, and {type(self.images).__name__} has none")
        if self.mask_noise is not None:
            source.make_wrong(seeded(self.mask_noise, self.seed), self.num_classes)
        path, writes = None, True
        if int(source.size.prod(dim=1).sum()) > LARGEST_IN_MEMORY:
            path, writes = self._file_of_corrections()
        self.train_set = LabelledMaskSet(
            source, CorrectedMasks(source.size, path, writes), self.seed, self.augmentation
        )
        self._restore_corrections()
        self._set_up_validation()

    def _set_up_validation(self) -> None:
        if self.validation_set is None and (validation := self.images.prepared(self.seed).validation()) is not None:
            self.validation_set = LabelledMaskSet(validation)

    def set_up_prediction(self) -> None:
        if self.predict_dir is None:
            super().set_up_prediction()
        else:
            self.predict_set = LabelledMaskSet(self.images.new_images(self.predict_dir))

    def set_up_test(self) -> None:
        self.test_set = LabelledMaskSet(self.images.prepared(self.seed).test())

    def _file_of_corrections(self) -> tuple[Path, bool]:
        """Choose a file in the run directory, which one process of each machine writes; else one for each process."""
        directory = self.trainer.log_dir if self.trainer is not None and self.trainer.loggers else None
        if directory is None:
            descriptor, path = tempfile.mkstemp(prefix="corrected_masks_")
            os.close(descriptor)
            return Path(path), True
        assert self.trainer is not None
        Path(directory).mkdir(parents=True, exist_ok=True)
        return Path(directory, f"corrected_masks_{self.trainer.node_rank}"), self.trainer.local_rank == 0

    def teardown(self, stage: str) -> None:
        if stage != "fit" or self.train_set is None:
            return
        corrections = self.train_set.corrections
        if corrections is not None and corrections.path is not None and corrections.writes:
            corrections.path.unlink(missing_ok=True)

    def training_images_dataloader(self) -> DataLoader:
        """Give the training images in their own order and without augmentation, to judge their masks by.

        Of images that are smaller than another of their batch, the upper left part counts; the rest is filled up, by
        255 in the masks.
        """
        if self.train_set is None:
            self.set_up_training()
        assert self.train_set is not None
        return self.evaluation_loader(LabelledMaskSet(self.train_set.source, self.train_set.corrections))

    def evaluation_loader(self, samples: RequestedSet) -> DataLoader:
        assert isinstance(samples, LabelledMaskSet)
        if not self._own_evaluation_batch_size and (samples.source.size != samples.source.size[0]).any():
            self.evaluation_batch_size = self.processes()[1]
        return super().evaluation_loader(samples)

    def augmented(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        """Change colours and mirror images with their masks."""
        return batch if self.augmentation is None else self.augmentation.apply(batch, self.seed, epoch)

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Give images as the network takes them, and masks in int64."""
        images = self.train_set or self.validation_set or self.test_set or self.predict_set
        assert images is not None
        data_range = images.source.data_range
        image = self.in_unit_interval(batch["image"], data_range or 1)
        batch["image"] = image if data_range is not None else standardised(image)
        return batch | {key: batch[key].long() for key in _PIXEL_LABELS if key in batch}

    def correct_labels(self, index: Tensor, label: Tensor) -> None:
        """Give training images other masks, which all processes and their loader workers see in the next epoch.

        Where there are several processes, all of them call this equally often, each with samples of its own, or with
        none (as by the shares of `training_images_dataloader`). They exchange them here.

        Args:
            index: `[n]`, int64: positions in the training set.
            label: `[n, H, W]`, integers: their new masks, in the pixels of the image before any augmentation; 255 is
                ignored. Of a larger array than the image, the upper left part counts.

        Raises:
            ValueError: if a pixel is neither a category nor 255, or the masks are smaller than their images.
        """
        assert self.train_set is not None
        corrections = self.train_set.corrections
        assert corrections is not None
        refuse_unknown_categories(label, self.num_classes, "label")
        size = corrections.size[index.cpu()]
        if len(size) and (size.amax(dim=0) > torch.tensor(label.shape[1:])).any():
            raise ValueError(f"label is {list(label.shape[1:])}, smaller than an image, {size.amax(dim=0).tolist()}")
        device = self.trainer.strategy.root_device if self.trainer is not None else label.device
        corrections.write(*gathered_labels(index, label.to(torch.uint8), device))
        wait_for_all_processes()

    def state_dict(self) -> dict[str, Any]:
        """Keep the corrected masks, and how far into its epoch the training is."""
        state = super().state_dict()
        corrections = self.train_set.corrections if self.train_set is not None else None
        assert self.trainer is not None
        if corrections is not None and corrections.changed.any() and self.trainer.is_global_zero:
            state["corrected_masks"] = corrections.saved()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._saved_corrections = state_dict.get("corrected_masks")
        self._restore_corrections()

    def _restore_corrections(self) -> None:
        if self._saved_corrections is not None and self.train_set is not None:
            assert self.train_set.corrections is not None
            self.train_set.corrections.load(self._saved_corrections)
            self._saved_corrections = None
            wait_for_all_processes()


def standardised(image: Tensor) -> Tensor:
    """Give images `[B, C, H, W]` mean 0 and standard deviation 1, each over its own pixels."""
    mean, deviation = image.mean(dim=(1, 2, 3), keepdim=True), image.std(dim=(1, 2, 3), keepdim=True)
    return (image - mean) / torch.where(deviation > 0, deviation, 1)
