"""Which epoch of a run belongs to which stage."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["shape", "translation", "segmentation"]


@dataclass(frozen=True)
class Stages:
    """A VAE of masks, the translation between images and masks, and rounds of segmentation, one after another.

    Round 0 trains on the first pseudo labels, each later one on labels that the segmentation network has renewed.

    Args:
        vae_epochs: of the VAE.
        translation_epochs: of the translation.
        warm_up_epochs: of round 0.
        rounds: rounds after it.
        round_epochs: of each of those.

    Raises:
        ValueError: if a number is negative, or there is no epoch.
    """

    vae_epochs: int
    translation_epochs: int
    warm_up_epochs: int
    rounds: int
    round_epochs: int

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{key} must be at least 0, got {value}")
        if self.rounds and not (self.warm_up_epochs and self.round_epochs):
            raise ValueError(
                f"rounds {self.rounds} needs warm_up_epochs and round_epochs of at least 1, got {self.warm_up_epochs} "
                f"and {self.round_epochs}: a round renews the labels by the network that the one before has trained"
            )
        if self.total == 0:
            raise ValueError("vae_epochs, translation_epochs and warm_up_epochs are 0: there is nothing to train")

    @property
    def first_segmentation(self) -> int:
        """The epoch with which segmentation begins."""
        return self.vae_epochs + self.translation_epochs

    @property
    def total(self) -> int:
        """Epochs of all stages."""
        return self.first_segmentation + self.warm_up_epochs + self.rounds * self.round_epochs

    def stage(self, epoch: int) -> Stage:
        if epoch < self.vae_epochs:
            return "shape"
        return "translation" if epoch < self.first_segmentation else "segmentation"

    def round(self, epoch: int) -> int:
        """The round of an epoch of segmentation; -1 before."""
        within = epoch - self.first_segmentation
        if within < self.warm_up_epochs:
            return 0 if within >= 0 else -1
        return 1 + (within - self.warm_up_epochs) // self.round_epochs if self.rounds else 0

    def begins_round(self, epoch: int) -> bool:
        return self.round(epoch) != self.round(epoch - 1) and epoch < self.total


def constant_then_linear(epoch: int, epochs: int, constant: float) -> float:
    """Factor of a learning rate: 1 for the first part of the epochs, then falling linearly, to 0 after the last one.

    Args:
        epoch: from 0.
        epochs: number of epochs.
        constant: the first part, in [0, 1].
    """
    falling = epochs - int(constant * epochs)
    return 1 - max(0, epoch + 1 - (epochs - falling)) / (falling + 1)
