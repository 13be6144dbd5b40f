"""Run several iterations of an algorithm in one training step.

This makes training faster for algorithms whose iterations take only microseconds.

Lightning's loop adds about a millisecond to each training step. To reduce this overhead, one training step runs several
iterations in sequence, and logs only once. The results are the same as with one iteration per step. Checkpoints are
written only between training steps.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer


class OwnUpdates(Optimizer):
    """Optimizer for parameters that a module updates itself, with its own equations.

    The method `step` only calls the closure. The class is needed because Lightning, in manual optimization, counts the
    calls of an optimizer's `step`, and checkpoints and loggers use this count.

    Args:
        parameters: parameters that the module updates.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        return closure()


def iterate(module: LightningModule, iterations: int, iteration: Callable[[], object]) -> None:
    """Run several iterations of an algorithm without gradients, as one optimizer step.

    Lightning counts these iterations as one step of the module's `OwnUpdates` optimizer.

    Args:
        module: module with manual optimization whose optimizer is an `OwnUpdates`.
        iterations: number of iterations.
        iteration: function that runs one iteration. Its result may depend only on the module's parameters and buffers.
    """

    @torch.no_grad()
    def several() -> None:
        for _ in range(iterations):
            iteration()

    optimizer: Any = module.optimizers()
    optimizer.step(several)
