"""How a callback asks a module for predictions of its own, beside the trainer's loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


@contextmanager
def in_evaluation_mode(trainer: Trainer, pl_module: LightningModule) -> Iterator[Callable[[Tensor], Any]]:
    """Gives the module as a function of images, in evaluation mode, in the trainer's precision and without gradients.

    Afterwards each submodule is in the mode that it was in, whatever the others are in.
    """
    modes = [(module, module.training) for module in pl_module.modules()]
    pl_module.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield lambda image: pl_module(trainer.precision_plugin.convert_input(image))
    finally:
        for module, training in modes:
            module.training = training
