"""Compute predictions outside the loops of the trainer: in callbacks, and in methods that are called with tensors."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Method = TypeVar("Method", bound=Callable[..., Any])


@contextmanager
def evaluating(module: Callable[..., Any]) -> Iterator[None]:
    """Put a module into evaluation mode inside a `with` block; a function that is no module has no modes.

    When the block ends, each submodule returns to its previous mode.
    """
    modes = [(part, part.training) for part in module.modules()] if isinstance(module, nn.Module) else []
    for part, _ in modes[:1]:
        part.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def evaluate_without_gradients(method: Method) -> Method:
    """Decorate a method of a module, so that it computes in evaluation mode and without gradients."""

    @wraps(method)
    def evaluate(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with evaluating(module), torch.no_grad():
            return method(module, *args, **kwargs)

    return evaluate  # type: ignore[return-value]


def compute_in_batches(function: Callable[..., Tensor], batch_size: int, *rows: Tensor) -> Tensor:
    """Apply a function to batches of at most `batch_size` rows, and concatenate the results.

    Args:
        function: function of as many tensors as there are `rows`, such as `model.restore`.
        batch_size: number of rows per call; the fewer, the less memory is needed.
        rows: tensors of N rows each.

    Examples:
        >>> compute_in_batches(lambda images: images.mean(dim=(1, 2, 3)), 64, torch.ones(100, 1, 8, 8)).shape
        torch.Size([100])
    """
    at_least(1, batch_size=batch_size)
    return torch.cat([function(*part) for part in zip(*(each.split(batch_size) for each in rows), strict=True)])


@contextmanager
def in_evaluation_mode(trainer: "Trainer", module: nn.Module) -> Iterator[Callable[[Tensor], Any]]:
    """Yield a function that applies a module to images, for use inside the `with` block.

    The module is in evaluation mode, computes in the trainer's precision, and computes no gradients.
    """
    with evaluating(module), torch.no_grad(), trainer.precision_plugin.forward_context():
        yield lambda image: module(trainer.precision_plugin.convert_input(image))


@contextmanager
def on_root_device(trainer: "Trainer", module: nn.Module) -> Iterator[None]:
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
    trainer: "Trainer", module: nn.Module, loader: Iterable[Any]
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
