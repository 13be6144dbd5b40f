"""Many iterations of an algorithm in one training step, for algorithms whose iteration takes microseconds.

A loop of Lightning's costs about a millisecond a step, whatever happens in it. So a step takes several iterations, one
after the other as if they were alone, and logs once; a checkpoint stands between two steps.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer


class OwnUpdates(Optimizer):
    """Hold parameters that a module updates by its own equations: a step does what its closure does.

    So Lightning counts the steps of a module with manual optimization, which checkpoints and loggers go by.

    Args:
        parameters: what the module updates.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        return closure()


def iterate(module: LightningModule, iterations: int, iteration: Callable[[], object]) -> None:
    """Take iterations of an algorithm, without gradients, as one step of the module's `OwnUpdates`.

    Args:
        module: with manual optimization; its optimizer is an `OwnUpdates`.
        iterations: how many.
        iteration: takes one, which depends on the module's parameters and buffers alone.
    """

    @torch.no_grad()
    def several() -> None:
        for _ in range(iterations):
            iteration()

    optimizer: Any = module.optimizers()
    optimizer.step(several)
