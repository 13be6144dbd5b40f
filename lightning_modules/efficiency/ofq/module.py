"""The LightningModule of oscillation-free quantisation."""

import copy
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, within
from datamodules.batches import LabelledImageBatch, global_batch_size, local_size, network_input
from datamodules.distributed.collectives import run_seed, world_size
from lightning_modules.efficiency.ofq.conversion import export_weights, quantize, quantized_rows, transformer_of
from lightning_modules.efficiency.ofq.oscillation import (
    OFTEN,
    Annealing,
    OscillationTracker,
    latent_weights,
    share_of,
)
from lightning_modules.efficiency.ofq.quantizers import (
    WEIGHT_QUANTIZERS,
    Quantizer,
    WeightQuantizer,
    calibrating,
    scaled_parts,
)
from lightning_modules.interfaces import Table, TrainingImageSource, require
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, with_schedule
from lightning_modules.optim.parameter_groups import optimizer_with_layer_decay
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.chosen_samples import chosen_samples, drawn_places
from lightning_modules.training.evaluation_mode import in_evaluation_mode
from lightning_modules.training.logging import log_same, log_training

MOST_BITS = 8
END_BITS = 8
"""Number of bits in the first layer and the heads."""
CALIBRATION_SAMPLES = 64
"""Number of training images on which the initial scales are measured."""

Logits = Tensor | tuple[Tensor, Tensor]
"""Logits of a single head, `[B, K]`, or of both heads."""


def mean_logits(outputs: Logits) -> Tensor:
    """Return the logits, averaged over both heads if there are two, as the network does in evaluation mode."""
    return (outputs[0] + outputs[1]) / 2 if isinstance(outputs, tuple) else outputs


def distillation(outputs: Logits, label: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the first head's cross-entropy for the labels, and the second head's for the teacher's probabilities.

    Args:
        outputs: logits `[B, K]` of both heads or of a single head.
        label: class labels, `[B]`, int64.
        teacher: logits of the teacher, `[B, K]`.
    """
    first, second = outputs if isinstance(outputs, tuple) else (outputs, outputs)
    return F.cross_entropy(first, label), F.cross_entropy(second, teacher.softmax(dim=1))


class Teacher(nn.Module):
    """A frozen network that is always in evaluation mode and computes no gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)


class OFQ(ClassifierSteps, MethodModule):
    """Train a timm vision transformer with low-bit weights and activations, starting from pretrained weights.

    Args:
        network: timm's VisionTransformer or SwinTransformer, or a network that wraps it, which maps images `[B, C, H,
            W]` in [0, 1] to logits `[B, num_classes]`. A copy of this network becomes the teacher. Weights that are
            loaded later, for example by `callbacks.pretraining.Pretraining`, must be loaded into `teacher.network`.
            Before training starts, the teacher's weights are copied to the quantised network.
        num_classes: number of classes, K.
        weight_bits: number of bits of the weights in MLPs, attention and patch merging, in 2...8.
        activation_bits: number of bits of activations, in 2...8; None means that no activations are quantised,
            including those of the first layer and the heads.
        reparametrised: whether to quantise the product of query and key weights as one weight (QKR).
        weight_quantizer: quantizer of the weights in MLPs, attention and patch merging; statsq computes the scales from
            the weights, lsq learns the scales, and lsq_half learns the scales of StatsQ's levels.
        annealed_epochs: number of epochs at the end of training in which only weights near a rounding threshold are
            trained (CGA).
        boundary: maximum distance BR, in quantisation steps, between a rounding threshold and the weights that are
            trained during CGA.
        track: whether to count oscillating weights; counting needs six bytes per weight, and one pass over all weights
            in each step.
        view: augmentation of training images on the device, such as `lightning_modules.views.TimmView`; None disables
            the augmentation.
        optimizer: optimizer of the network's trainable parameters, including the scales; biases, scales and shifts have
            no weight decay.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    calibrated: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        weight_bits: int = 2,
        activation_bits: int | None = 2,
        reparametrised: bool = True,
        weight_quantizer: WeightQuantizer = "statsq",
        annealed_epochs: int = 0,
        boundary: float = 0.005,
        track: bool = True,
        view: nn.Module | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        within(2, MOST_BITS, weight_bits=weight_bits, activation_bits=activation_bits)
        one_of(WEIGHT_QUANTIZERS, weight_quantizer=weight_quantizer)
        at_least(0, annealed_epochs=annealed_epochs, boundary=boundary)
        self.teacher = Teacher(network)
        quantize(network, weight_bits, activation_bits, END_BITS, reparametrised, weight_quantizer)
        self.network = network
        self.num_classes = num_classes
        self.weight_bits = weight_bits
        self.annealed_epochs = annealed_epochs
        self.view = view
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))
        self._activations = [part for part in scaled_parts(network) if isinstance(part, Quantizer)]
        self.rows = list(quantized_rows(network))
        self.annealing = Annealing(self.rows, boundary)
        self.trackers = nn.ModuleList(OscillationTracker(each.weight.shape) for each in self.rows if track)
        for wrapped in (network, self.teacher):
            if hasattr(transformer := transformer_of(wrapped), "set_distilled_training"):
                transformer.set_distilled_training(True)

    def forward(self, image: Tensor) -> Tensor:
        return mean_logits(self.network(image))

    # Before the first step

    def on_fit_start(self) -> None:
        epochs, annealed = self.trainer.max_epochs or 0, self.annealed_epochs
        if annealed > epochs and not getattr(self.trainer, "fast_dev_run", False):  # a fast_dev_run has only one epoch
            raise ValueError(f"annealed_epochs must be at most trainer.max_epochs {epochs}, got {annealed}")
        if self.device.type != "meta" and not self.calibrated:
            self._begin()

    def _begin(self) -> None:
        """Copy the teacher's weights to the network, and measure all scales; all ranks use the same images."""
        found = self.network.load_state_dict(self.teacher.network.state_dict(), strict=False)
        assert not found.unexpected_keys
        data: Any = require(self.trainer.datamodule, TrainingImageSource, "OFQ")  # type: ignore[attr-defined]
        places = drawn_places(data, CALIBRATION_SAMPLES, "OFQ", run_seed())
        [(image, _)] = chosen_samples(self.trainer, places, "OFQ", len(places), everywhere=True)
        parts = scaled_parts(self.network)
        with in_evaluation_mode(self.trainer, self.network) as network, calibrating(parts):
            network(image)
        if world_size() > 1:
            for part in parts:
                dist.broadcast(part.scale.data, 0)
                dist.broadcast(part.bounds, 0)
        for rows, tracker in zip(self.rows, self.trackers, strict=False):
            tracker.start(rows.integers)  # type: ignore[operator]
        self.calibrated.fill_(True)

    # Training steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        # The gradient of a scale is a sum over the global batch, because all entries of this batch share the scale.
        for part in self._activations:
            part.parts = global_batch_size(batch) / local_size(batch)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image = network_input(batch)
        image = image if self.view is None else self.view(image)
        outputs = self.network(image)
        hard, soft = distillation(outputs, batch["label"], self.teacher(image))
        loss = log_training(self, batch, hard + soft, cross_entropy=hard, distillation=soft)
        return {"loss": loss, "logits": mean_logits(outputs).detach()}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.trainer.current_epoch >= (self.trainer.max_epochs or 0) - self.annealed_epochs:
            part = self.annealing.mask()
            self.log("train/annealed", part, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.annealing.restore()
        for rows, tracker in zip(self.rows, self.trackers, strict=False):
            tracker.update(rows.integers)  # type: ignore[operator]

    def on_train_epoch_end(self) -> None:
        if len(self.trackers):
            oscillating = [self._oscillating(number) for number in range(len(self.rows))]
            log_same(self, "train/oscillating", share_of(oscillating))
            whole = [rows.name.endswith("qkv") for rows in self.rows]  # with QKR, the product replaces q and k
            if any(whole):
                split = [
                    each.tensor_split([len(each) // 3 * 2 * qkv]) for each, qkv in zip(oscillating, whole, strict=True)
                ]
                log_same(self, "train/oscillating_query_key", share_of([first for first, _ in split]))
                log_same(self, "train/oscillating_others", share_of([rest for _, rest in split]))
                own = [rest for (_, rest), qkv in zip(split, whole, strict=True) if qkv]
                log_same(self, "train/oscillating_value", share_of(own))

    def _oscillating(self, number: int) -> Tensor:
        return self.trackers[number].frequency > OFTEN  # type: ignore[operator, return-value]

    def configure_optimizers(self) -> Any:
        # With a single layer and the factor 1.0, the learning rate has no layer-wise decay; as in timm, vectors have no
        # weight decay.
        optimizer = optimizer_with_layer_decay(self.optimizer, self.network, nn.Identity(), 1.0)
        return with_schedule(optimizer, self.lr_scheduler)

    # Results

    @property
    def tables(self) -> dict[str, Table]:
        """Return a histogram of the positions of the full-precision weights relative to the rounding thresholds."""
        oscillating = self._oscillating if len(self.trackers) else None
        return {"latent_weights": latent_weights(self.rows, oscillating, self.weight_bits)}

    def effective_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the quantised weights, and each layer's bits and scales, by the names of the original network."""
        return export_weights(self.network, self.teacher.network)
