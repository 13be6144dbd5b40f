"""A network with one weight, and the gradient of a training step."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn


class Restored(nn.Module):
    """Multiplies images by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.75, dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        return self.weight * image


def gradient_of_a_step(module: LightningModule, batch: dict[str, Tensor]) -> tuple[float, list[Tensor]]:
    """Take a training step without a trainer; return its loss and the gradients of the parameters."""
    module.log = lambda *args, **options: None  # type: ignore[method-assign]
    size = len(batch["noisy"])
    whole: dict[str, Any] = {"index": torch.arange(size), "global_batch_size": size, **batch}
    loss = module.training_step(whole, 0)["loss"]
    return float(loss), list(torch.autograd.grad(loss, list(module.parameters())))
