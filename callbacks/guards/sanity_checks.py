"""Check before a run that module, network, data and trainer are compatible."""

import re
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    SpikeDetection,
    StochasticWeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_info
from torch.func import functional_call

from datamodules.loading.seeded_batches import SeededBatches
from lightning_modules.interfaces import FixedImageShape, ImageMeasurer
from lightning_modules.lightning_internals import repeats_samples
from lightning_modules.training.evaluation_mode import evaluating

REFUSED: dict[type[Callback], str] = {
    StochasticWeightAveraging: "does not put its average into tested or resumed checkpoints; use "
    "lightning.pytorch.callbacks.WeightAveraging or EMAWeightAveraging",
    BatchSizeFinder: "would change the batch size, which is part of the experiment; set data.batch_size",
    SpikeDetection: "fails in this version of Lightning when a checkpoint is saved; use "
    "callbacks.guards.FiniteLoss, which ends a run whose loss is not finite",
}
"""Lightning callbacks that do not work in this project, with the reasons."""


class SanityChecks(Callback):
    """Before a run computes anything, reject configurations that would fail later or give misleading results:

    * a module and data with different `num_classes`;
    * a classifier whose network does not accept the data's images, or outputs a different number of logits (checked on
      the meta device);
    * `trainer.accumulate_grad_batches` below 1, and `trainer.overfit_batches`, because it would make Lightning replace
      the order of the batches;
    * Lightning callbacks that do not work in this project, or do not work with this module;
    * `trainer.use_distributed_sampler` for a DataModule that shards its batches itself.

    With gradient accumulation, the callback also prints the number of samples per optimizer step.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.accumulate_grad_batches < 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches must be at least 1, got {trainer.accumulate_grad_batches}"
            )
        if trainer.overfit_batches and isinstance(data, SeededBatches):  # type: ignore[attr-defined]
            raise ValueError(
                f"trainer.overfit_batches is not supported, since {type(data).__name__} shards its batches itself: "
                f"use trainer.limit_train_batches to train on the first batches of each epoch"
            )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if reason := _refusal(callback, pl_module):
                raise ValueError(f"trainer.callbacks: {type(callback).__name__} {reason}")
        wanted, given = getattr(pl_module, "num_classes", None), getattr(data, "num_classes", None)
        if wanted is not None and given is not None and wanted != given:
            raise ValueError(f"model.num_classes is {wanted}, but {type(data).__name__} has {given} classes")
        network = getattr(pl_module, "network", None)
        if isinstance(network, torch.nn.Module):
            if wanted is not None and given is not None and isinstance(data, FixedImageShape):
                self._check_network(network, tuple(data.image_shape), wanted)
            elif stage == "fit" and isinstance(pl_module, ImageMeasurer) and isinstance(data, FixedImageShape):
                self._check_channels(network, tuple(data.image_shape))
        if isinstance(data, SeededBatches) and repeats_samples(trainer):
            raise ValueError(
                f"trainer.use_distributed_sampler must be false: {type(data).__name__} shards its batches itself, "
                f"and a second sampler would repeat samples"
            )
        batch_size = getattr(data, "batch_size", None)
        if stage == "fit" and trainer.accumulate_grad_batches > 1 and batch_size is not None:
            rank_zero_info(
                f"trainer.accumulate_grad_batches {trainer.accumulate_grad_batches} makes an optimizer step of "
                f"{trainer.accumulate_grad_batches * batch_size} samples: the global batch size is {batch_size}"
            )

    @staticmethod
    def _check_channels(network: torch.nn.Module, shape: tuple[int, ...]) -> None:
        """Reject a restoration network for images with a different number of channels; ignore all other errors."""
        try:
            _output_without_values(network, shape)
        except (RuntimeError, ValueError, TypeError) as error:
            if re.search(r"Invalid channel dimensions|to have \d+ channels", str(error)):
                channels = shape[0]
                raise ValueError(
                    f"model.network {type(network).__name__} does not accept the images of data.training, which have "
                    f"{channels} channels: set model.network.channels {channels}, or data.training.colour "
                    f"{str(channels == 1).lower()}"
                ) from error

    @staticmethod
    def _check_network(network: torch.nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
        name = type(network).__name__
        try:
            logits = _output_without_values(network, shape)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"model.network {name} does not accept images of shape {list(shape)}: {reason}") from error
        if isinstance(logits, torch.Tensor) and logits.ndim > 1 and logits.shape[1] != num_classes:
            raise ValueError(
                f"model.network {name} outputs {logits.shape[1]} logits, but model.num_classes is {num_classes}"
            )


def _output_without_values(network: torch.nn.Module, shape: tuple[int, ...]) -> Any:
    """Compute the output of a network for two images on the meta device, where tensors have no values."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    floating = [tensor.dtype for tensor in weights.values() if tensor.is_floating_point()]
    images = torch.empty(2, *shape, device="meta", dtype=floating[0] if floating else None)
    # In training mode, the network may synchronise statistics across ranks, which fails on the meta device.
    with evaluating(network), torch.no_grad():
        return functional_call(network, weights, images)


def _refusal(callback: Callback, module: LightningModule) -> str | None:
    """Return the reason why a Lightning callback does not work in this project, or None if it works."""
    if type(callback) is BaseFinetuning:
        return "does nothing by itself: use a subclass"
    if isinstance(callback, BackboneFinetuning) and not hasattr(module, "backbone"):
        return (
            f"needs a module with an attribute backbone, and {type(module).__name__} has none; "
            f"to freeze a backbone, use its argument tuning"
        )
    if isinstance(callback, LearningRateFinder) and not {"lr", "learning_rate"} & {*vars(module), *module.hparams}:
        return (
            f"needs a module with an attribute lr, and {type(module).__name__} takes its learning rate from "
            f"model.optimizer; use compare --vary model.optimizer.lr=... to try several"
        )
    return next((reason for kind, reason in REFUSED.items() if isinstance(callback, kind)), None)
