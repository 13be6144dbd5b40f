"""Baselines of SSO: plain descent on a loss of a network's outputs.

For a batch of B samples, the weights are updated by

    theta <- optimizer(theta, (1/B) sum_i grad l(f(theta, x_i), y_i)),

where the optimizer is either any PyTorch optimizer (`Descent`), or gradient descent with a line search
(`LineSearchDescent`, SLS). SLS finds the step size by a line search on the loss of the batch. Within an epoch, the step
size can grow by a factor of at most 2. Each batch needs one expensive gradient of the loss with respect to the outputs.

Source: Vaswani, Mishkin, Laradji, Schmidt, Gidel and Lacoste-Julien, Painless Stochastic Gradient: Interpolation,
Line-Search, and Convergence Rates, NeurIPS 2019, arXiv 1905.09997.
"""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import positive, within
from datamodules.batches import global_batch_size
from datamodules.distributed.collectives import all_reduce_gradients, all_reduce_sum
from lightning_modules.losses.output_losses import CountedLoss, OutputLossSteps, inputs_and_target
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.optimization.sso.line_search import EXPAND, search
from lightning_modules.training.iterations import OwnUpdates
from lightning_modules.training.logging import log_training


class Descent(OutputLossSteps, MethodModule):
    """Train a network on the mean loss of its outputs with a PyTorch optimizer.

    Args:
        network: network that maps features or images `[B, ...]` to outputs `[B, K]`.
        loss: function that maps outputs and targets to the sum of the samples' losses, like PyTorch losses with
            `reduction: sum`.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = CountedLoss(loss)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.course = []

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        inputs, target = inputs_and_target(batch)
        loss = self.loss(self.outputs(inputs), target) / len(target)
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))


class LineSearchDescent(OutputLossSteps, MethodModule):
    """Train a network on the mean loss of its outputs by gradient steps with a line search (SLS).

    Args:
        network: network that maps features or images `[B, ...]` to outputs `[B, K]`.
        loss: function that maps outputs and targets to the sum of the samples' losses, like PyTorch losses with
            `reduction: sum`.
        initial_step: initial step size of the line search for the first batch.
        c: fraction, in (0, 1), of the first-order decrease of the loss that a step must achieve.
    """

    step_size: Tensor

    def __init__(self, network: nn.Module, loss: nn.Module, initial_step: float = 1.0, c: float = 0.1) -> None:
        super().__init__()
        positive(initial_step=initial_step)
        within(0, 1, "()", c=c)
        self.automatic_optimization = False
        self.network = network
        self.loss = CountedLoss(loss)
        self.c = c
        self.register_buffer("step_size", torch.tensor(initial_step, dtype=torch.float64))
        self.course = []

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        inputs, target = inputs_and_target(batch)
        local, size, parameters = (
            self.loss(self.outputs(inputs), target),
            global_batch_size(batch),
            trainable_parameters(self.network),
        )

        def descend() -> None:
            value, gradient = all_reduce_gradients(local / size, parameters)
            now = lambda: all_reduce_sum(self.loss.evaluation_loss(self.outputs(inputs), target) / size)  # noqa: E731
            step = float(self.step_size) * EXPAND ** (1 / self.trainer.num_training_batches)
            self.step_size.fill_(search(parameters, gradient, value, now, step, self.c).step)

        optimizer: Any = self.optimizers()
        optimizer.step(descend)
        return {"loss": log_training(self, batch, local.detach() / len(target))}

    def configure_optimizers(self) -> OwnUpdates:
        return OwnUpdates(trainable_parameters(self.network))
