"""Run several iterations of an algorithm in one training step.

This is for algorithms whose iterations take microseconds.

The loop of Lightning costs about a millisecond for each step. A step therefore runs several iterations in sequence and
logs once. The results are the same as with one iteration per step. Checkpoints are written between steps.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer


class OwnUpdates(Optimizer):
    """Optimizer for parameters that a module updates by its own equations.

    Its `step` only calls the closure. Lightning counts the steps of this optimizer, which checkpoints and loggers need
    in manual optimization.

    Args:
        parameters: parameters that the module updates.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        return closure()


def iterate(module: LightningModule, iterations: int, iteration: Callable[[], object]) -> None:
    """Run iterations of an algorithm without gradients.

    They count as one step of the `OwnUpdates` of the module.

    Args:
        module: module with manual optimization, whose optimizer is an `OwnUpdates`.
        iterations: number of iterations.
        iteration: function that runs one iteration; it may depend only on the parameters and buffers of the module.
    """

    @torch.no_grad()
    def several() -> None:
        for _ in range(iterations):
            iteration()

    optimizer: Any = module.optimizers()
    optimizer.step(several)
