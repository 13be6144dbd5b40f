"""Learn bridges of fractional Brownian motion, and compare them with the exact solution.

The method is described in `__init__.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.batches import SequenceBatch
from datamodules.sequences.fractional_motion import posterior_std
from lightning_modules.interfaces import Table
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.probabilistic.fractional_sde.exact import least_loss, path_covariance
from lightning_modules.probabilistic.fractional_sde.integration import (
    SolutionPath,
    check_run,
    check_step,
    increments,
    integrate,
    misfit,
)
from lightning_modules.probabilistic.fractional_sde.layers import tanh_layers
from lightning_modules.probabilistic.fractional_sde.noise import BrownianNoise, Noise
from lightning_modules.training.logging import log_same, log_training


class FractionalBridge(MethodModule):
    """Learn the control that steers paths of fractional noise to their observations.

    Paths start at 0, with drift -theta x and diffusion 1. For this diffusion, the Euler and Milstein methods give the
    same paths. The control is a network with the inputs sin t, cos t, x and Y_1, ..., Y_K. `test` samples one path for
    each dataset entry, and logs the loss and its terms. `test/excess` is the loss minus the exact negative log
    evidence. `test/std_error` is the error of the learned bridge's standard deviation, as a root mean square over
    times. After a test, `tables` contains the standard deviation at each time for four bridges: the learned bridge, and
    the exact bridges of fractional Brownian motion, of the approximate noise, and of white noise.

    Args:
        noise: noise that drives the equation, `FractionalNoise` or `BrownianNoise`.
        theta: strength of the mean reversion towards 0 in the drift -theta x, at least 0.
        hidden_features: widths of the hidden layers of the control.
        substeps: number of integration steps between two successive times of the data.
        optimizer: optimizer of the control network, and of H if H is learned.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        noise: Noise,
        theta: float = 0.0,
        hidden_features: Sequence[int] = (1000, 1000),
        substeps: int = 1,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(0, theta=theta)
        at_least(1, substeps=substeps, **{f"hidden_features[{k}]": width for k, width in enumerate(hidden_features)})
        self.noise = noise
        self.theta = theta
        self.control = tanh_layers(3 + noise.num_processes, hidden_features, 1, zero=True)
        self.substeps = substeps
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.collected = Collected()
        self.tables: dict[str, Table] = {}
        self._tested: SequenceBatch | None = None

    def setup(self, stage: str) -> None:
        check_run(self.trainer, self.noise, self.substeps)

    def posterior(self, batch: SequenceBatch) -> SolutionPath:
        """Sample one posterior path for each batch entry."""
        observed, interval = batch["observed"], batch["interval"]
        check_step(self.noise.gamma_max, interval, self.substeps)
        dt, num_steps = interval / self.substeps, (observed.shape[1] - 1) * self.substeps
        x = torch.zeros_like(observed[:, 0])
        t = torch.arange(num_steps, dtype=x.dtype, device=x.device) * dt
        clock = torch.stack([t.sin(), t.cos()], dim=1)

        def control(step: int, x: Tensor, y: Tensor) -> Tensor:
            return self.control(torch.cat([clock[step].expand(len(x), 2), x, y.flatten(1)], dim=1))

        return integrate(
            x,
            self.noise.start(x),
            increments(x, num_steps, dt),
            interval,
            self.substeps,
            self.noise.gamma,
            self.noise.omega(),
            drift=lambda x: -self.theta * x,
            diffusion=torch.ones_like,
            control=control,
            solver="euler",
        )

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        path = self.posterior(batch)
        nll, kl = misfit(path.x, batch["observed"], batch["sigma"]).mean(), path.divergence.mean()
        return {"loss": log_training(self, batch, nll + kl, nll=nll, kl_path=kl)}

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        path = self.posterior(batch)
        terms = torch.stack([misfit(path.x, batch["observed"], batch["sigma"]), path.divergence], dim=1)
        self.collected.update(batch["index"], torch.cat([path.x[:, :, 0], terms], dim=1).double())
        self._tested = batch

    def on_test_epoch_end(self) -> None:
        assert self._tested is not None
        interval, sigma = self._tested["interval"], self._tested["sigma"].cpu().double()
        observed = self._tested["observed"][0, :, 0].cpu().double()
        _, rows = self.collected.compute()
        self.collected.reset()
        std, (nll, kl) = rows[:, :-2].std(dim=0), rows[:, -2:].mean(dim=0)
        own, white = (path_covariance(noise, self.theta, interval, len(std)) for noise in (self.noise, BrownianNoise()))
        least = least_loss(own, observed, sigma)
        metrics = {"loss": nll + kl, "nll": nll, "kl_path": kl, "excess": nll + kl - least}
        curves = {
            "learned": std,
            "exact, of the approximated noise": posterior_std(own, sigma),
            "exact, of white noise": posterior_std(white, sigma),
        }
        if "exact_std" in self._tested:
            curves["exact"] = self._tested["exact_std"].cpu().double()
            metrics["std_error"] = (std - curves["exact"]).square().mean().sqrt()
        for name, value in metrics.items():
            log_same(self, f"test/{name}", value)
        columns = {
            "time": [interval * place for place in range(len(std))] * len(curves),
            "bridge": [name for name in curves for _ in std],
            "standard deviation": torch.cat(list(curves.values())).tolist(),
        }
        self.tables = {"bridge": Table(columns)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self))
