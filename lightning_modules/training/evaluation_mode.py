"""Compute predictions outside the loops of the trainer, for example in callbacks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode inside a `with` block.

    When the block ends, each submodule returns to its previous mode.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def in_evaluation_mode(trainer: Trainer, module: nn.Module) -> Iterator[Callable[[Tensor], Any]]:
    """Yield a function that applies a module to images, for use inside the `with` block.

    The module is in evaluation mode, computes in the trainer's precision, and computes no gradients.
    """
    with evaluating(module), torch.no_grad(), trainer.precision_plugin.forward_context():
        yield lambda image: module(trainer.precision_plugin.convert_input(image))


@contextmanager
def on_root_device(trainer: Trainer, module: nn.Module) -> Iterator[None]:
    """Keep a module on the trainer's device inside a `with` block.

    The hook `on_fit_end` needs this, because Lightning has moved the module to the CPU by then.
    """
    before = next((parameter.device for parameter in module.parameters()), trainer.strategy.root_device)
    module.to(trainer.strategy.root_device)
    try:
        yield
    finally:
        module.to(before)


def iterate_logits(
    trainer: Trainer, module: nn.Module, loader: Iterable[Any]
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield each batch of a dataloader, on the trainer's device, together with the module's logits for this batch.

    With the trainer's `fast_dev_run`, only the number of batches that it states is used.
    """
    for number, on_host in enumerate(loader):
        if trainer.fast_dev_run and number == trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        batch: Any = trainer.strategy.batch_to_device(on_host)
        with in_evaluation_mode(trainer, module) as network:
            logits = network(batch["image"])
        yield batch, logits
