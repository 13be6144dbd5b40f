"""Images with one label for each pixel: batches and corrections of the masks, the same for every data set.

A data set's own file says where images and masks come from (a `MaskSource`) and nothing else.
"""

import os
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import IGNORED
from datamodules.corruptions.mask_noise import MaskNoise, mask_noise_statistics
from datamodules.corruptions.seeded import seeded
from datamodules.files.whole_files import whole_file
from datamodules.loading.augmentation import sample_uniform
from datamodules.loading.gathered_labels import gathered_labels
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import SeededBatches
from datamodules.segmentation.corrected_masks import LARGEST_IN_MEMORY, CorrectedMasks

_PIXEL_LABELS = ("label", "original_label", "clean_label")


class MaskSource(Protocol):
    """Images and masks of one split, wherever they are kept. Masks are uint8; 255 is ignored."""

    size: Tensor
    """`[N, 2]`, int64: height and width of each image."""
    brightest: float
    """The stored value that stands for 1."""
    num_uniform: int
    """Random numbers that `cut` needs for each training image; 0 where all is augmented on the device."""

    def masks(self, index: Tensor) -> tuple[Tensor | list[Tensor], Tensor | list[Tensor] | None]:
        """Whole masks of some samples: those that are given, and the true ones where they are known and differ."""
        ...

    def cut(self, index: Tensor, masks: dict[str, Any], uniform: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Reads images, and cuts them and their masks alike.

        Args:
            index: `[B]`: which ones.
            masks: whole masks of these as `masks` gives them, `[H, W]` each, under the keys of the batch.
            uniform: `[B, num_uniform]` in [0, 1): places the random crop of a training image; None leaves images whole,
                and fills up those that are smaller than another of the batch, below and on the right (masks by 255).

        Returns:
            Images `[B, C, H, W]` and masks `[B, H, W]`.
        """
        ...


class MasksInMemory:
    """Images and masks of one size, held as tensors.

    Args:
        image: `[N, C, H, W]`, of any type.
        given: `[N, H, W]`, uint8: the masks to train on, or the true ones of a test set.
        num_classes: number of categories, K.
        clean: like `given`: the true masks, where they are known and may differ.
        brightest: the stored value that stands for 1.

    Raises:
        ValueError: if there is no image, or masks do not fit the images or `num_classes`.
    """

    num_uniform = 0

    def __init__(
        self, image: Tensor, given: Tensor, num_classes: int, clean: Tensor | None = None, brightest: float = 255
    ) -> None:
        if len(image) == 0:
            raise ValueError("there is no image")
        for mask in (given,) if clean is None else (given, clean):
            expected = [len(image), *image.shape[2:]]
            if list(mask.shape) != expected or mask.dtype != torch.uint8:
                raise ValueError(f"masks must be uint8 of shape {expected}, got {mask.dtype} of {list(mask.shape)}")
            refuse_unknown_categories(mask, num_classes, "a mask")
        self.image = image
        self.given = given
        self.clean = clean
        self.brightest = brightest
        self.size = torch.tensor(image.shape[2:]).expand(len(image), 2)

    def masks(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.given[index], None if self.clean is None else self.clean[index]

    def cut(self, index: Tensor, masks: dict[str, Tensor], uniform: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        return self.image.index_select(0, index), masks


def refuse_unknown_categories(mask: Tensor, num_classes: int, name: str) -> None:
    """Refuses pixels that are neither a category nor ignored.

    Raises:
        ValueError: names the mask and the value.
    """
    unknown = (mask >= num_classes) & (mask != IGNORED)
    if unknown.any():
        raise ValueError(
            f"{name} has a pixel of category {int(mask[unknown][0])}, and num_classes {num_classes} allows "
            f"0...{num_classes - 1}, and {IGNORED} for pixels that are ignored"
        )


def wait_for_all_processes() -> None:
    """Only one process of a machine writes the file that they share: the others may read it when all are here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


class LabelledMaskSet(Dataset[dict[str, Any]]):
    """A source, with the corrections of its masks. Fetched a request at a time; masks are uint8 until on the device.

    With a `seed` images are augmented: their batches carry the number of the visit that seeds it, until they are on the
    device.
    """

    def __init__(self, source: MaskSource, corrections: CorrectedMasks | None = None, seed: int | None = None) -> None:
        self.source = source
        self.corrections = corrections
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source.size)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        index, uniform = request.indices, None
        if self.seed is not None and self.source.num_uniform > 0:
            uniform = sample_uniform(self.seed, request.visit, index, count=self.source.num_uniform, stream=1)
        given, clean = self.source.masks(index)
        masks = {"label": given}
        if self.corrections is not None:
            masks = {"label": self.corrections.current(index, given), "original_label": given}
        if clean is not None:
            masks["clean_label"] = clean
        image, labels = self.source.cut(index, masks, uniform)
        batch: dict[str, Any] = {"image": image, "index": index, "global_size": request.global_size, **labels}
        if self.seed is not None:
            batch["visit"] = request.visit
        return batch


class LabelledMasks(SeededBatches):
    """A data set of images with masks. Subclasses read it; everything else happens here.

    `num_classes` and `image_shape` are known at once, `num_train_samples` after `setup("fit")`. The order of training
    samples depends on (seed, epoch) alone, whatever the number of processes, and continues after an interruption inside
    an epoch.

    Training masks can be corrected (`correct_labels`). Batches then carry the corrected mask as `label`, and always the
    mask that was given as `original_label`. Corrections are part of the checkpoint.

    Args:
        batch_size: training images of a step over all processes.
        mask_noise: what makes training masks wrong; None leaves them.
        evaluation_batch_size: images of a validation, test or prediction batch over all processes; None takes
            `batch_size`.
        num_workers: loader processes; sets in memory need none, and None takes one for each free core, up to 8.
        prefetch_factor: batches that each loader process reads ahead.
        seed: of noise, order and augmentation. On the command line it is `seed_everything` unless it is set.

    Raises:
        ValueError: if an argument is out of range, or the data do not fit it.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    class_names: list[str] | None = None
    train_set: LabelledMaskSet | None
    validation_set: LabelledMaskSet | None
    test_set: LabelledMaskSet | None

    def __init__(
        self,
        batch_size: int,
        mask_noise: MaskNoise | None = None,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = 0,
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
        self.mask_noise = None if mask_noise is None else seeded(mask_noise, self.seed)
        self._saved_corrections: dict[str, Tensor] | None = None

    @abstractmethod
    def read_training(self) -> MaskSource:
        """The training images with their masks, made wrong by `mask_noise`.

        Raises:
            FileNotFoundError: if they are missing, saying what was expected where.
            ValueError: if a file is damaged, naming it.
        """

    @abstractmethod
    def read_test(self) -> MaskSource:
        """The test images with their true masks."""

    def read_validation(self) -> MaskSource | None:
        """The validation images with their true masks, if there are any."""
        return None

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
        """Keeps how wrong `mask_noise` made the training masks beside the run's other results, as `mask_noise.csv`.

        Its rows are the categories; sets in memory alone have one.
        """
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
        with whole_file(Path(directory, "mask_noise.csv")) as partial:
            partial.write_text("\n".join(lines) + "\n")

    def set_up_training(self) -> None:
        source = self.read_training()
        path, writes = None, True
        if int(source.size.prod(dim=1).sum()) > LARGEST_IN_MEMORY:
            path, writes = self._file_of_corrections()
        corrections = CorrectedMasks(source.size, path, writes)
        if self._saved_corrections is not None:
            corrections.load(self._saved_corrections)
            self._saved_corrections = None
            wait_for_all_processes()
        self.train_set = LabelledMaskSet(source, corrections, self.seed)
        self._set_up_validation()

    def _set_up_validation(self) -> None:
        if self.validation_set is None and (validation := self.read_validation()) is not None:
            self.validation_set = LabelledMaskSet(validation)

    def set_up_test(self) -> None:
        self.test_set = LabelledMaskSet(self.read_test())

    def _file_of_corrections(self) -> tuple[Path, bool]:
        """A file in the run directory, which one process of each machine writes; else one for each process."""
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
        """The training images in their own order and without augmentation, to judge their masks by.

        Of images that are smaller than another of their batch, the upper left part counts; the rest is filled up, by
        255 in the masks.
        """
        if self.train_set is None:
            self.set_up_training()
        assert self.train_set is not None
        return self.evaluation_loader(LabelledMaskSet(self.train_set.source, self.train_set.corrections))

    def finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Images as the network takes them, and masks in int64."""
        batch["image"] = self.network_input(batch["image"])
        return batch | {key: batch[key].long() for key in _PIXEL_LABELS if key in batch}

    def network_input(self, image: Tensor) -> Tensor:
        """Images `[B, C, H, W]` as they are stored, in the module's type and, here, in [0, 1]."""
        images = self.train_set or self.validation_set or self.test_set
        assert images is not None
        return self.in_unit_interval(image, images.source.brightest)

    def correct_labels(self, index: Tensor, label: Tensor) -> None:
        """Gives training images other masks, which all processes and their loader workers see in the next epoch.

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
        """Corrected masks, and how far into its epoch the training is."""
        state = super().state_dict()
        corrections = self.train_set.corrections if self.train_set is not None else None
        assert self.trainer is not None
        if corrections is not None and corrections.changed.any() and self.trainer.is_global_zero:
            state["corrected_masks"] = corrections.saved()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._saved_corrections = state_dict.get("corrected_masks")
        if self._saved_corrections is not None and self.train_set is not None:
            assert self.train_set.corrections is not None
            self.train_set.corrections.load(self._saved_corrections)
            wait_for_all_processes()
