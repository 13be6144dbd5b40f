"""Reject Trainer options that a module does not support, with error messages that name the key."""

import re

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from experiments.lightning_internals import synchronises_layers

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def refuse_options(module: LightningModule, trainer: Trainer) -> None:
    """Reject unsupported options, before Lightning rejects them with less specific messages."""
    name = type(module).__name__
    if not module.automatic_optimization:
        if trainer.gradient_clip_val:
            raise ValueError(
                f"trainer.gradient_clip_val must be left out for {name}, which takes its optimizer steps itself "
                f"and clips no gradients, got {trainer.gradient_clip_val}"
            )
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches must be 1 for {name}, which takes its optimizer steps itself, "
                f"got {trainer.accumulate_grad_batches}"
            )
    batch_norm = any(isinstance(layer, BATCH_NORM) for layer in module.modules())
    if synchronises_layers(trainer.strategy) and batch_norm and isinstance(trainer.accelerator, CPUAccelerator):
        raise ValueError("trainer.sync_batchnorm must be false on CPUs, got true: PyTorch's SyncBatchNorm needs GPUs")
    if isinstance(trainer.strategy, ModelParallelStrategy) and not is_overridden("configure_model", module):
        raise ValueError(
            f"trainer.strategy ModelParallelStrategy needs a module that overrides configure_model, and {name} does not"
        )


UNUSED = "Expected to have finished reduction in the prior iteration|parameters that were not used in producing"
NOT_IN_HALF = (
    r"should be the same\b|have the same dtype|expected scalar type|not implemented for '|unsupported ScalarType"
)
"""PyTorch's error messages for operators that do not support half precision, or a mix of half and single precision."""


def of_an_option(error: BaseException, precision: object) -> str | None:
    """Describe an error in one sentence if a Trainer option caused it. Return None for other errors."""
    text = str(error)
    if not isinstance(error, RuntimeError | TypeError):
        return None
    if re.search(UNUSED, text):
        return (
            "a step gave some parameters no gradient, which trainer.strategy ddp does not allow: "
            "use trainer.strategy ddp_find_unused_parameters_true"
        )
    if precision in ("bf16-true", "16-true") and re.search(NOT_IN_HALF, text, re.MULTILINE):
        return (
            f"trainer.precision {precision} is not possible here, as a step computes what half precision cannot "
            f"({' '.join(text.split())}): use bf16-mixed"
        )
    return None
