"""Ask a module for predictions beside the trainer's loop, as callbacks do."""

from collections.abc import Callable, Iterable, Iterator
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


def classified(
    trainer: Trainer, pl_module: LightningModule, loader: Iterable[Any]
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Give the batches of a loader, on the device, with the module's logits; a `fast_dev_run` ends early."""
    for number, on_host in enumerate(loader):
        if trainer.fast_dev_run and number == trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        batch: Any = trainer.strategy.batch_to_device(on_host)
        with in_evaluation_mode(trainer, pl_module) as network:
            logits = network(batch["image"])
        yield batch, logits
