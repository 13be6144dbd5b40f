"""Measure the return of a policy in its training environment."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.interfaces import EpisodeSource, require_data
from lightning_modules.training.logging import log_same


class EpisodeReturns(Callback):
    """Log `test/return`, the sum of an episode's rewards under the policy, averaged over episodes."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_data(trainer, EpisodeSource, "EpisodeReturns")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = require_data(trainer, EpisodeSource, "EpisodeReturns").mean_return()
        log_same(pl_module, "test/return", torch.tensor(value, dtype=torch.float64))
