"""Callback that compiles a module's network for training."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


class CompileNetwork(Callback):
    """Compile `model.network` in place before training.

    The type of the network and the keys of checkpoints do not change. Calls of the whole network are compiled, but
    calls of its submodules are not. If the last batch has a different size, the network is compiled once more, with a
    dynamic batch size. Validation, test and prediction in the same run also use the compiled network.

    Args:
        backend: name of a `torch.compile` backend.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(getattr(pl_module, "network", None), nn.Module):
            raise ValueError(f"compile needs a module with model.network, and {type(pl_module).__name__} has none")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backends = torch.compiler.list_backends(exclude_tags=())
        if self.backend not in backends:
            raise ValueError(f"compile must be true, false or one of {', '.join(backends)}, got {self.backend!r}")
        network: Any = pl_module.network
        network.compile(backend=self.backend)
