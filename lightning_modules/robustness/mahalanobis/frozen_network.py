"""Modules that read the features of a frozen network, and train nothing."""

from typing import Any

import torch
from torch import nn


def frozen_for_statistics(network: nn.Module) -> nn.Module:
    """Return the network in evaluation mode.

    Parameters never change; requires_grad only satisfies DistributedDataParallel.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return network.eval()


class StreamsStatistics:
    """Mixin of a module whose `fit` takes one pass over the training data to compute statistics of a frozen network.

    A subclass defines `encoder`. `Pretraining` can load weights into it.
    """

    @property
    def encoder(self) -> nn.Module:
        """The frozen network."""
        raise NotImplementedError

    def train(self: Any, mode: bool = True) -> Any:
        super().train(mode)  # type: ignore[misc]
        self.encoder.eval()
        return self

    def setup(self: Any, stage: str) -> None:
        super().setup(stage)  # type: ignore[misc]
        if stage == "fit" and str(self.trainer.precision) == "16-mixed":
            raise ValueError("trainer.precision 16-mixed needs a loss to scale: use 32-true or bf16-mixed")

    def configure_optimizers(self) -> Any:
        """Return an optimizer without effect, because Lightning saves no checkpoint without optimizer steps."""
        return torch.optim.SGD(self.encoder.parameters(), lr=0.0)
