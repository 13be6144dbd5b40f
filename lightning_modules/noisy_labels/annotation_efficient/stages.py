"""Stages of a run, their numbers of epochs, and the state of the rounds."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from datamodules.arguments import at_least, within
from lightning_modules.training.requirements import require_unused_parameters

Stage = Literal["shape", "translation", "segmentation"]


@dataclass(frozen=True)
class StageSchedule:
    """Assignment of epochs to three stages: VAE of masks, translation between images and masks, and segmentation.

    Round 0 of the segmentation stage trains on the first pseudo labels. Each later round trains on labels that the
    segmentation network has predicted.

    Args:
        vae_epochs: number of epochs of stage 0, which trains the VAE. (All numbers of epochs are our choice.)
        translation_epochs: number of epochs of stage 1, which trains the translation.
        warm_up_epochs: number of epochs of round 0 (gamma 0); use enough to fit the labels before S replaces them.
        rounds: number of rounds of stage 3 after round 0 (our choice).
        round_epochs: number of epochs of each round after round 0.
        stop_early: whether to stop after a round that has not improved `val/dice`.
        constant_fraction: fraction of stage 1 before the learning rate starts to decay linearly; 1/2 in CycleGAN.
    """

    vae_epochs: int = 20
    translation_epochs: int = 100
    warm_up_epochs: int = 4
    rounds: int = 3
    round_epochs: int = 4
    stop_early: bool = True
    constant_fraction: float = 0.5

    def __post_init__(self) -> None:
        at_least(0, **{f"stages.{key}": value for key, value in vars(self).items()})
        within(0, 1, **{"stages.constant_fraction": self.constant_fraction})
        if self.rounds and not (self.warm_up_epochs and self.round_epochs):
            raise ValueError(
                f"stages.rounds {self.rounds} needs warm_up_epochs and round_epochs of at least 1, got "
                f"{self.warm_up_epochs} and {self.round_epochs}: each round relabels with the network trained in the "
                f"previous round"
            )
        if self.total == 0:
            keys = "vae_epochs, translation_epochs and warm_up_epochs"
            raise ValueError(f"one of {keys} of model.stages must be at least 1, all are 0")

    @property
    def first_segmentation(self) -> int:
        """Index of the first epoch of the segmentation stage."""
        return self.vae_epochs + self.translation_epochs

    @property
    def total(self) -> int:
        """Total number of epochs of all stages."""
        return self.first_segmentation + self.warm_up_epochs + self.rounds * self.round_epochs

    def stage(self, epoch: int) -> Stage:
        if epoch < self.vae_epochs:
            return "shape"
        return "translation" if epoch < self.first_segmentation else "segmentation"

    def round(self, epoch: int) -> int:
        """Return the index of the round that includes an epoch; -1 before the segmentation stage."""
        epoch -= self.first_segmentation
        if epoch < self.warm_up_epochs:
            return 0 if epoch >= 0 else -1
        return 1 + (epoch - self.warm_up_epochs) // self.round_epochs if self.rounds else 0

    def begins_round(self, epoch: int) -> bool:
        return self.round(epoch) != self.round(epoch - 1) and epoch < self.total


@dataclass(frozen=True)
class CycleLossWeights:
    """Weights of the loss terms of the VAE and of the translation.

    Args:
        vae_beta: weight of the KL divergence in the loss of the VAE (our choice).
        cycle: weight lam_c of the cycle loss; 10 as in CycleGAN.
        mask_cycle: weight w_z of the masks within the cycle loss (our choice).
        shape: weight lam_v of the generator loss from D_vae (our choice); 0 disables D_vae.
    """

    vae_beta: float = 1.0
    cycle: float = 10.0
    mask_cycle: float = 0.5
    shape: float = 0.5

    def __post_init__(self) -> None:
        at_least(0, **{f"weights.{key}": value for key, value in vars(self).items()})


@dataclass
class Rounds:
    """State of the rounds of the segmentation stage. The state is saved in checkpoints."""

    labelled: int = -1
    """Index of the last round for which labels were predicted."""
    best: float = float("-inf")
    """Best validation Dice at the end of any round so far."""
    stopped: bool = False
    """Whether training has stopped because a round did not improve the validation Dice."""
    about: dict[str, float] = field(default_factory=dict)
    """Means over the labels of the current round. They are logged every epoch."""

    def judge(self, validation_dice: Tensor | None) -> None:
        """Set `stopped` if a round has not improved the validation Dice; a Dice of None is ignored."""
        if validation_dice is not None:
            self.stopped = float(validation_dice) <= self.best
            self.best = max(self.best, float(validation_dice))


def refuse_unfit(trainer: Trainer, data: Any, stages: StageSchedule, vae: Any, translation: Any) -> None:
    """Reject settings of the trainer or the data that are incompatible with the stages.

    Raises:
        ValueError: if a setting is incompatible; the message names the setting.
    """
    if trainer.max_epochs is None or not 0 <= trainer.max_epochs <= stages.total:
        raise ValueError(
            f"trainer.max_epochs is {trainer.max_epochs}, but must be at most {stages.total}, the total number of "
            f"epochs of AnnotationEfficient (vae_epochs + translation_epochs + warm_up_epochs + rounds x round_epochs)"
        )
    if translation is None and not getattr(data, "has_training_labels", True):
        raise ValueError("AnnotationEfficient without translation needs pseudo labels: set data.images.training_masks")
    if (vae or translation) and not getattr(data, "has_auxiliary_masks", False):
        raise ValueError(f"AnnotationEfficient needs auxiliary masks, but {type(data).__name__} has none")
    require_unused_parameters(trainer, "AnnotationEfficient", "trains different networks in each stage")


def constant_then_linear(epoch: int, epochs: int, constant: float) -> float:
    """Compute a learning-rate factor that is constant at first, then decays linearly, and is 0 after the last epoch.

    Args:
        epoch: index of the epoch, counted from 0.
        epochs: total number of epochs.
        constant: fraction of the epochs during which the factor is constant, in [0, 1].
    """
    falling = epochs - int(constant * epochs)
    return 1 - max(0, epoch + 1 - (epochs - falling)) / (falling + 1)


class ConstantThenLinear(LambdaLR):
    """Learning-rate schedule that multiplies the learning rate by `constant_then_linear`."""

    def __init__(self, optimizer: Optimizer, epochs: int, constant: float) -> None:
        super().__init__(optimizer, lambda epoch: constant_then_linear(epoch, epochs, constant))
