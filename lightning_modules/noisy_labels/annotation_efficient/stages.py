"""The stages of a run: the epochs that belong to each, and the state of its rounds."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from datamodules.arguments import at_least
from lightning_modules.training.requirements import require_unused_parameters

Stage = Literal["shape", "translation", "segmentation"]


@dataclass(frozen=True)
class StageSchedule:
    """Order the epochs of the VAE of masks, of the translation between images and masks, and of segmentation.

    Round 0 of segmentation trains on the first pseudo labels, each later one on labels that the segmentation network
    has renewed.

    Args:
        vae_epochs: epochs of the VAE.
        translation_epochs: epochs of the translation.
        warm_up_epochs: epochs of round 0.
        rounds: rounds after round 0.
        round_epochs: epochs of each of these.

    Raises:
        ValueError: if a number is negative, or there is no epoch.
    """

    vae_epochs: int
    translation_epochs: int
    warm_up_epochs: int
    rounds: int
    round_epochs: int

    def __post_init__(self) -> None:
        at_least(0, **vars(self))
        if self.rounds and not (self.warm_up_epochs and self.round_epochs):
            raise ValueError(
                f"rounds {self.rounds} needs warm_up_epochs and round_epochs of at least 1, got {self.warm_up_epochs} "
                f"and {self.round_epochs}: a round renews the labels by the network that the one before has trained"
            )
        if self.total == 0:
            raise ValueError("vae_epochs, translation_epochs and warm_up_epochs are 0: there is nothing to train")

    @property
    def first_segmentation(self) -> int:
        """Give the epoch with which segmentation begins."""
        return self.vae_epochs + self.translation_epochs

    @property
    def total(self) -> int:
        """Count the epochs of all stages."""
        return self.first_segmentation + self.warm_up_epochs + self.rounds * self.round_epochs

    def stage(self, epoch: int) -> Stage:
        if epoch < self.vae_epochs:
            return "shape"
        return "translation" if epoch < self.first_segmentation else "segmentation"

    def round(self, epoch: int) -> int:
        """Give the round of an epoch of segmentation; -1 before it begins."""
        within = epoch - self.first_segmentation
        if within < self.warm_up_epochs:
            return 0 if within >= 0 else -1
        return 1 + (within - self.warm_up_epochs) // self.round_epochs if self.rounds else 0

    def begins_round(self, epoch: int) -> bool:
        return self.round(epoch) != self.round(epoch - 1) and epoch < self.total


@dataclass
class Rounds:
    """Hold what is known of the rounds so far; a checkpoint keeps it."""

    labelled: int = -1
    """The last round that labels were made for."""
    best: float = float("-inf")
    """Greatest validation Dice at the end of a round."""
    stopped: bool = False
    """Whether a round did not raise it, so that no further one begins."""
    about: dict[str, float] = field(default_factory=dict)
    """Means over the labels, which are logged every epoch."""

    def judge(self, validation_dice: Tensor | None) -> None:
        """Stop after a round that has not raised validation Dice; nothing happens where it was not measured."""
        if validation_dice is not None:
            self.stopped = float(validation_dice) <= self.best
            self.best = max(self.best, float(validation_dice))


def refuse_unfit(trainer: Trainer, data: Any, stages: StageSchedule, vae: Any, translation: Any) -> None:
    """Refuse a trainer or a DataModule that the stages cannot be trained with.

    Raises:
        ValueError: names what is to be changed.
    """
    if trainer.max_epochs is None or not 0 <= trainer.max_epochs <= stages.total:
        raise ValueError(
            f"trainer.max_epochs is {trainer.max_epochs}, and the stages of AnnotationEfficient have "
            f"{stages.total} epochs (vae_epochs + translation_epochs + warm_up_epochs + rounds x round_epochs)"
        )
    if translation is None and not getattr(data, "has_training_labels", True):
        raise ValueError("AnnotationEfficient without translation needs pseudo labels: set data.images.training_masks")
    if (vae or translation) and not getattr(data, "has_auxiliary_masks", False):
        raise ValueError(f"AnnotationEfficient needs auxiliary masks, which {type(data).__name__} does not have")
    require_unused_parameters(trainer, "AnnotationEfficient", "trains other networks in each stage")


def constant_then_linear(epoch: int, epochs: int, constant: float) -> float:
    """Give the factor of a learning rate that is constant first, and then falls linearly to 0 after the last epoch.

    Args:
        epoch: the epoch, from 0.
        epochs: number of epochs.
        constant: first part of the epochs, in [0, 1].
    """
    falling = epochs - int(constant * epochs)
    return 1 - max(0, epoch + 1 - (epochs - falling)) / (falling + 1)


class ConstantThenLinear(LambdaLR):
    """Keep the learning rate for a part of the epochs, then lower it linearly. See `constant_then_linear`."""

    def __init__(self, optimizer: Optimizer, epochs: int, constant: float) -> None:
        super().__init__(optimizer, lambda epoch: constant_then_linear(epoch, epochs, constant))
