"""Base class of DataModules whose training labels can be corrected."""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from datamodules.loading.gathered_labels import gathered_labels
from datamodules.loading.seeded_batches import SeededBatches


class CorrectableLabels(SeededBatches):
    """DataModule whose training labels, classes or masks, a method or a callback can correct.

    After a correction, training batches contain the current label as `label`, and the label before any correction as
    `original_label`. Corrections are saved in the checkpoint.
    """

    _saved_corrections: Any = None

    @abstractmethod
    def checked_correction(self, index: Tensor, label: Tensor) -> Tensor:
        """Reject labels that do not fit the samples `index`, and return them in the dtype in which they are stored."""

    @abstractmethod
    def write_corrections(self, index: Tensor, label: Tensor) -> None:
        """Store the corrections of all ranks, which are in CPU memory."""

    @abstractmethod
    def corrections(self) -> Any:
        """Return all corrections, as tensors for the checkpoint. None if this rank has nothing to save."""

    @abstractmethod
    def load_corrections(self, saved: Any) -> None:
        """Replace all corrections by those of a checkpoint."""

    def correct_labels(self, index: Tensor, label: Tensor) -> None:
        """Correct labels of training samples, from the next epoch on, on all ranks and workers.

        This is a collective operation: all ranks must call it the same number of times. Each rank passes its own
        samples, such as its shard of `training_images_dataloader`, or no samples. The ranks exchange their corrections.

        Args:
            index: positions of the samples in the training set, `[n]`, int64.
            label: new labels: classes `[n]`, int64, or masks `[n, H, W]`, integers, in pixel coordinates before
                augmentation. The value 255 marks ignored pixels of a mask. If a mask is larger than its image, its top
                left part is used.

        Raises:
            ValueError: if a label is not a class, or if a mask is smaller than its image.
        """
        stored = self.checked_correction(index, label)
        device = self.trainer.strategy.root_device if self.trainer is not None else label.device
        self.write_corrections(*gathered_labels(index, stored, device))

    def read_training_set(self) -> Any:
        """Return the training set, which is read on first use."""
        if self.train_set is None:
            self.set_up_training()
        return self.train_set

    def state_dict(self) -> dict[str, Any]:
        """Return the corrections and the position within the epoch."""
        state, corrections = super().state_dict(), self.corrections()
        return state if corrections is None else state | {"corrected_labels": corrections}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._saved_corrections = state_dict.get("corrected_labels")
        self.restore_corrections()

    def restore_corrections(self) -> None:
        """Load the corrections of the checkpoint as soon as both it and the training set have been read."""
        if self._saved_corrections is not None and self.train_set is not None:
            self.load_corrections(self._saved_corrections)
            self._saved_corrections = None
