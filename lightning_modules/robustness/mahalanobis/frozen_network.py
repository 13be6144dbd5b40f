"""Base of LightningModules that compute statistics of a frozen network, and train no parameters."""

from typing import Any

import torch
from torch import nn


def frozen_for_statistics(network: nn.Module) -> nn.Module:
    """Set a network to evaluation mode, and return it.

    The parameters are never changed. Their `requires_grad` is set to true only because DistributedDataParallel needs
    trainable parameters.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return network.eval()


class StreamsStatistics:
    """Mixin of modules whose `fit` computes statistics of a frozen network in one pass over the training data.

    A subclass defines the property `encoder`. The property returns the frozen network, into which the callback
    `Pretraining` can load weights.
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
        """Return an optimizer without effect, because Lightning saves checkpoints only after optimizer steps."""
        return torch.optim.SGD(self.encoder.parameters(), lr=0.0)
