"""Training steps of PLS-LSA and PLS-LSA+: warm-up, guesses, corrected targets, and a sweep after each epoch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from datamodules.arguments import at_least, positive
from datamodules.batches import LabelledImageBatch, global_batch_size
from lightning_modules.backbones.layer_features import classifier_layer
from lightning_modules.interfaces import TrainingImageSource, TrainingSamples, require_data
from lightning_modules.losses.mixing import draw_mixing
from lightning_modules.noisy_labels.lsa.detection import FlaggedImages, detect, detector_of_epoch
from lightning_modules.noisy_labels.lsa.training_images import sweep
from lightning_modules.optim.optimizers import with_schedule
from lightning_modules.optim.parameter_groups import optimizer_with_heads
from lightning_modules.training.logging import log_same
from lightning_modules.views.unaugmented import check_unaugmented


def logits_are_read(trainer: Trainer) -> bool:
    """Return whether a callback (such as `callbacks.early_learning.EarlyLearning`) reads the logits of every step."""
    return any(getattr(callback, "reads_logits", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]


@torch.no_grad()
def logits_without_trace(network: nn.Module, image: Tensor) -> Tensor:
    """Compute logits `[b, C]` in training mode, without updating the running statistics of batch normalisation."""
    return functional_call(network, {name: buffer.clone() for name, buffer in network.named_buffers()}, image)


@dataclass(frozen=True)
class Correction:
    """When and how the labels of noisy images are replaced with guesses.

    Args:
        warmup_epochs: number of epochs of plain mixup, at least 1.
        gamma: exponent gamma that sharpens the guesses.
        guess_views: number of weak views over which the predictions are averaged for a guess.
    """

    warmup_epochs: int = 1
    gamma: float = 2.0
    guess_views: int = 1

    def __post_init__(self) -> None:
        at_least(1, warmup_epochs=self.warmup_epochs, guess_views=self.guess_views)
        positive(gamma=self.gamma)


@dataclass(frozen=True)
class Heads:
    """The classifier and the projection head.

    Args:
        projection_features: number of output features of the projection head.
        lr_factor: learning rate of the classifier and the projection head, as a multiple of the learning rate of the
            other layers.
    """

    projection_features: int = 128
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        at_least(1, projection_features=self.projection_features)
        positive(lr_factor=self.lr_factor)


class CorrectionSteps(ABC):
    """Mixin that implements training steps and sweeps over the training images, and saves their state in checkpoints.

    A module with this mixin has `projections`, `images` (a `TrainingImages`), `step_loss` (a `StepLoss`), and the views
    and settings that this file uses. The module also defines the networks (`networks`), how guesses are computed
    (`guess`), and how the flags of several networks are combined (`agree`).
    """

    def forward(self: Any, image: Tensor) -> Tensor:
        seen = self.evaluation_view(image)
        logits = [network(seen) for network in self.networks()]
        return sum(logits[1:], start=logits[0]) / len(logits)

    def setup(self: Any, stage: str) -> None:
        super().setup(stage)  # type: ignore[misc]
        if stage == "fit":
            name = type(self).__name__
            require_data(self.trainer, TrainingImageSource, name)
            check_unaugmented(self.trainer.datamodule, name)

    def on_fit_start(self: Any) -> None:
        data = require_data(self.trainer, TrainingSamples, type(self).__name__)
        self.images.allocate(data.num_train_samples, self.device, next(self.parameters()).dtype)

    def training_step(self: Any, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        which = self.trained_index(batch_idx)
        network, projection = self.networks()[which], self.projections[which]
        epoch, size = self.trainer.current_epoch, global_batch_size(batch)
        weak = image = self.weak_view(batch["image"])
        outputs: dict[str, Tensor] = {}
        guess = other_view = None
        if epoch >= self.correction.warmup_epochs - 1:
            guess, outputs["logits"] = self.guess(batch["image"], weak, which)
            self.images.keep_guess(which, batch, guess)
        corrects = epoch >= self.correction.warmup_epochs
        target, weight, noisy = self.images.targets(batch, guess if corrects else None)
        if corrects:
            if self.strong_view is not None:
                image = torch.where(noisy.view(-1, 1, 1, 1), self.strong_view(batch["image"]), weak)
            other_view = self.contrastive_view(batch["image"])
        mixing = draw_mixing(len(image), self.step_loss.mixup_alpha)
        terms = self.step_loss.terms(
            network, projection, image, other_view, target, weight, batch["index"], mixing, size
        )
        if guess is None and logits_are_read(self.trainer):
            outputs["logits"] = logits_without_trace(network, weak)
        logged = {f"train/{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return {"loss": terms["loss"], **outputs}

    def on_train_epoch_end(self: Any) -> None:
        epoch = self.trainer.current_epoch
        if epoch < self.correction.warmup_epochs - 1:
            return
        detection = self.detection
        detector = detector_of_epoch(detection.detectors, epoch)
        found_by: list[FlaggedImages] = []
        wrong: NDArray | None = None
        for network, guess in zip(self.networks(), reversed(self.images.guesses), strict=True):
            table = sweep(self.trainer, network, self.evaluation_view, detection.feature_layer, guess)
            if table is not None:
                found_by.append(detect(detector, table.loss, table.pseudo_loss, table.feature, detection.threshold))
                wrong = table.wrong
        found = self.agree(*found_by) if found_by else None
        for name, value in self.images.replace_from_rank_zero(self.trainer, found, wrong).items():
            log_same(self, f"train/{name}", value)

    def configure_optimizers(self: Any) -> Any:
        heads = [*map(classifier_layer, self.networks()), self.projections]
        optimizer = optimizer_with_heads(self.optimizer, self, heads, self.heads.lr_factor)
        return with_schedule(optimizer, self.lr_scheduler)

    def on_save_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        self.images.save(checkpoint)

    def on_load_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        self.images.restore(checkpoint)

    def trained_index(self, batch_idx: int) -> int:
        """Return the index of the network that a training step trains."""
        return 0

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """Return the networks. Each training step trains one of them."""

    @abstractmethod
    def guess(self, image: Tensor, weak: Tensor, which: int) -> tuple[Tensor, Tensor]:
        """Compute the guesses g for a batch, `[b, C]`, and the logits of its weak views, `[b, C]`.

        Args:
            image: unaugmented images, `[b, C, H, W]`.
            weak: weakly augmented images for training, `[b, C, H, W]`.
            which: index of the network that the current step trains.
        """

    def agree(self, *found: FlaggedImages) -> FlaggedImages:
        """Combine the flags of the networks, which are given in the order of `networks`."""
        [own] = found
        return own
