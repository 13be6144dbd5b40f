"""The LightningModule of SSO; for each batch, it computes one expensive gradient and takes m surrogate steps."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, only_with, positive, within
from datamodules.batches import global_batch_size
from datamodules.distributed.collectives import all_reduce_gradients, all_reduce_sum
from lightning_modules.interfaces import TrainingSamples, require_data
from lightning_modules.losses.output_losses import CountedLoss, OutputLossSteps, inputs_and_target
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import trainable_parameters
from lightning_modules.optimization.sso.line_search import EXPAND, search
from lightning_modules.optimization.sso.surrogate import Scaling, code_surrogate, paper_surrogate
from lightning_modules.optimization.sso.svrg import SVRG
from lightning_modules.optimization.sso.target_steps import Target, TargetStep
from lightning_modules.torch_internals import AnyDropout, BatchNorm
from lightning_modules.training.iterations import OwnUpdates
from lightning_modules.training.logging import log_training


def refuse_random_outputs(network: nn.Module) -> None:
    """Reject networks whose outputs for a batch differ between forward passes.

    Layers that change their state in each forward pass are also rejected.
    """
    for name, layer in network.named_modules():
        drops = isinstance(layer, AnyDropout) and layer.p > 0
        if layer.training and (drops or isinstance(layer, BatchNorm)):
            raise ValueError(
                f"network has {name}, {type(layer).__name__} in training mode, but for SSO the outputs of a batch "
                f"must depend only on the weights: remove this layer, or set it to evaluation mode"
            )


class SSO(OutputLossSteps, MethodModule):
    """Train a network on an expensive loss of its outputs with target-based surrogates.

    For each batch, the gradient of the loss defines a surrogate. The weights are then updated by m steps on this
    surrogate.

    Args:
        network: network that maps features or images `[B, ...]` to outputs `[B, K]`; it must not contain dropout or
            BatchNorm layers in training mode.
        loss: function that maps outputs and targets to the sum of the samples' losses, like PyTorch losses with
            `reduction: sum`.
        target_step: rule that computes the inverse step size H in the space of outputs.
        m: number of steps on the surrogate for each batch.
        scaling: scaling of the surrogate. `code` uses S, a mean over entries, with its minimum at z_t - G/(2H). `paper`
            uses g, a sum over entries, with its minimum at z_t - G/H.
        initial_step: step size with which the line search on the weights starts in each batch.
        c: fraction, in (0, 1), of the first-order decrease of the surrogate that a step must achieve.
        inner_optimizer: optimizer whose `step` is called m times for each surrogate, such as torch.optim.LBFGS; a new
            optimizer is created for each batch. None means m steps of gradient descent with a line search.
        svrg: estimator of G that computes gradients of only some samples in each batch; None computes the gradients of
            all samples.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        target_step: TargetStep,
        m: int = 10,
        scaling: Scaling = "code",
        initial_step: float = 10.0,
        c: float = 0.1,
        inner_optimizer: OptimizerCallable | None = None,
        svrg: SVRG | None = None,
    ) -> None:
        super().__init__()
        at_least(1, m=m)
        one_of(get_args(Scaling), scaling=scaling)
        positive(initial_step=initial_step)
        within(0, 1, "()", c=c)
        only_with("the line search", inner_optimizer is None, SSO, initial_step=initial_step, c=c)
        self.automatic_optimization = False
        self.network = network
        self.loss = CountedLoss(loss)
        self.target_step = target_step
        self.m = m
        self.scaling = scaling
        self.initial_step = initial_step
        self.c = c
        self.inner_optimizer = inner_optimizer
        self.svrg = svrg
        self.course = []

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            refuse_random_outputs(self.network)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        inputs, target = inputs_and_target(batch)
        outputs = self.outputs(inputs)
        at = outputs.detach()
        value, gradient = self._gradient(at, target) if self.svrg is None else self._estimate(batch, at, target)
        surrogate = self._surrogate(batch, at, gradient, value)
        optimizer: Any = self.optimizers()
        if self.inner_optimizer is None:
            optimizer.step(lambda: self._descend(surrogate, inputs, outputs))
        else:
            optimizer.step(lambda: self._minimize(surrogate, inputs))
        return {"loss": log_training(self, batch, value / len(at))}

    def _gradient(self, at: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss and its gradient with respect to the outputs."""
        at = at.detach().requires_grad_()
        value = self.loss(at, target)
        return value.detach(), torch.autograd.grad(value, at)[0]

    def _estimate(self, batch: Any, at: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss and the SVRG estimate of its gradient with respect to the outputs."""
        assert self.svrg is not None
        samples = require_data(self.trainer, TrainingSamples, "SSO").num_train_samples
        gradients = lambda rows: self._gradient(at[rows], target[rows])[1]  # noqa: E731
        sizes = global_batch_size(batch), samples, self.trainer.global_step
        return self.loss.evaluation_loss(at, target), self.svrg(at, gradients, batch["index"], *sizes)

    def _surrogate(self, batch: Any, at: Tensor, gradient: Tensor, value: Tensor) -> Callable[[Tensor], Tensor]:
        """Return this rank's part of the surrogate as a function of the outputs."""
        target, size = inputs_and_target(batch)[1], global_batch_size(batch)
        inverse_step = self.target_step(
            Target(
                at,
                gradient,
                lambda outputs: all_reduce_sum(self.loss.evaluation_loss(outputs, target)),
                batch["index"],
                size,
                require_data(self.trainer, TrainingSamples, "SSO").num_train_samples,
                self.trainer.global_step + 1,
                int(self.trainer.estimated_stepping_batches),
            )
        ).to(at)
        if self.scaling == "paper":
            return lambda outputs: paper_surrogate(outputs, at, gradient, inverse_step, value)
        entries = size * at[0].numel()
        return lambda outputs: code_surrogate(outputs, at, gradient, inverse_step, entries)

    def _descend(self, surrogate: Callable[[Tensor], Tensor], inputs: Tensor, outputs: Tensor) -> None:
        """Take m line-search steps on the surrogate, which is defined at the given outputs."""
        parameters, step = trainable_parameters(self.network), self.initial_step
        growth = EXPAND ** (1 / self.trainer.num_training_batches)
        for number in range(self.m):
            outputs = self.outputs(inputs) if number else outputs
            value, gradient = all_reduce_gradients(surrogate(outputs), parameters)
            now = lambda: all_reduce_sum(surrogate(self.outputs(inputs)))  # noqa: E731
            found = search(parameters, gradient, value, now, step * growth, self.c)
            step = found.step
            if not found.tries:
                return

    def _minimize(self, surrogate: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        """Take m steps of the inner optimizer on the surrogate."""
        assert self.inner_optimizer is not None
        parameters = trainable_parameters(self.network)
        optimizer = self.inner_optimizer(parameters)

        def evaluate() -> Tensor:
            with torch.enable_grad():
                value, gradient = all_reduce_gradients(surrogate(self.outputs(inputs)), parameters)
            for parameter, own in zip(parameters, gradient, strict=True):
                parameter.grad = own
            return value

        for _ in range(self.m):
            optimizer.step(evaluate)  # type: ignore[arg-type]  # PyTorch optimizers accept closures that return tensors
        optimizer.zero_grad()

    def configure_optimizers(self) -> OwnUpdates:
        return OwnUpdates(trainable_parameters(self.network))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["squares"] = self.target_step.checkpoint_state()
        if self.svrg is not None:
            checkpoint["snapshot"] = self.svrg.snapshot.gather(copy=False)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if checkpoint["squares"] is not None:
            self.target_step.restore(checkpoint["squares"])
        if self.svrg is not None:
            self.svrg.snapshot.restore(checkpoint["snapshot"])
