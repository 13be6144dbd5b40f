"""What PLS-LSA and PLS-LSA+ do alike in training: warm up, guess, correct, and judge all images after an epoch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from datamodules.batches import LabelledImageBatch, global_size
from lightning_modules.losses.mixing import draw_mixing
from lightning_modules.noisy_labels.lsa.detection import Detection, detect, detector_of_epoch
from lightning_modules.noisy_labels.lsa.training_images import sweep


def logits_are_read(trainer: Trainer) -> bool:
    """Whether a callback reads the logits of every step, as `callbacks.early_learning.EarlyLearning` does."""
    return any(getattr(callback, "reads_logits", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]


@torch.no_grad()
def logits_without_trace(network: nn.Module, image: Tensor) -> Tensor:
    """Logits as in training, `[b, C]`, after which the running averages of batch normalisation are as before."""
    return functional_call(network, {name: buffer.clone() for name, buffer in network.named_buffers()}, image)


class CorrectionSteps(ABC):
    """Gives a LightningModule its training steps, its sweeps over the training set and their state in checkpoints.

    The module owns the views and settings that are used here, `images` (`TrainingImages`) and `objective`
    (`Objective`). It says which networks there are (`networks`), which one a step trains (`trained`), how classes are
    guessed (`guess`) and what the networks' detections say together (`agreed`).
    """

    def on_fit_start(self: Any) -> None:
        data = self.trainer.datamodule
        self.images.allocate(data.num_train_samples, self.device, next(self.parameters()).dtype)

    def training_step(self: Any, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        which, network, projection = self.trained(batch_idx)
        epoch, size = self.trainer.current_epoch, global_size(batch)
        weak = image = self.weak_view(batch["image"])
        outputs: dict[str, Tensor] = {}
        guess = other_view = None
        if epoch >= self.warmup_epochs - 1:
            guess, outputs["logits"] = self.guess(batch["image"], weak, which)
            self.images.keep_guess(which, batch, guess)
        corrects = epoch >= self.warmup_epochs
        target, weight, noisy = self.images.targets(batch, guess if corrects else None)
        if corrects:
            image = torch.where(noisy.view(-1, 1, 1, 1), self.strong_view(batch["image"]), weak)
            other_view = self.contrastive_view(batch["image"])
        mixing = draw_mixing(len(image), self.mixup_alpha, image.device)
        terms = self.objective.terms(
            network, projection, image, other_view, target, weight, batch["index"], mixing, size
        )
        if guess is None and logits_are_read(self.trainer):
            outputs["logits"] = logits_without_trace(network, weak)
        logged = {f"train/{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return {"loss": terms["loss"], **outputs}

    def on_train_epoch_end(self: Any) -> None:
        epoch = self.trainer.current_epoch
        if epoch < self.warmup_epochs - 1:
            return
        detector = detector_of_epoch(self.detectors, epoch)
        detections: list[Detection] = []
        wrong: NDArray | None = None
        for network, guess in zip(self.networks(), reversed(self.images.guesses), strict=True):
            classify = nn.Sequential(self.evaluation_view, network)
            table = sweep(self.trainer, network, classify, self.feature_layer, guess)
            if table is not None:
                detections.append(detect(detector, table.loss, table.pseudo_loss, table.feature, self.threshold))
                wrong = table.wrong
        found = self.agreed(detections) if detections else None
        for name, value in self.images.take(self.trainer, found, wrong).items():
            # The same on all processes, and a maximum leaves it as it is.
            self.log(f"train/{name}", value, reduce_fx="max", sync_dist=True, batch_size=1)

    def on_save_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        self.images.save(checkpoint)

    def on_load_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        self.images.restore(checkpoint)

    @abstractmethod
    def networks(self) -> Sequence[nn.Module]:
        """The networks, of which a step trains one."""

    @abstractmethod
    def trained(self, batch_idx: int) -> tuple[int, nn.Module, nn.Module]:
        """The number of the network that a step trains, the network and its projection."""

    @abstractmethod
    def guess(self, image: Tensor, weak: Tensor, which: int) -> tuple[Tensor, Tensor]:
        """The guess g `[b, C]` for a batch, and logits `[b, C]` of weak views that it comes from.

        Args:
            image: `[b, C, H, W]`, as the DataModule gives them.
            weak: the weak view that is trained on.
            which: number of the network that is trained.
        """

    @abstractmethod
    def agreed(self, detections: Sequence[Detection]) -> Detection:
        """What the networks' detections, in their order, say together."""
