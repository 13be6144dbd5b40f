"""The module that learns weights of training samples by the trusted losses of many models."""

from typing import Literal

from torch import Tensor

from datamodules.arguments import at_least, one_of, only_with, positive, within
from lightning_modules.method_module import MethodModule
from lightning_modules.optimization.mbbo.blocks import Blocks, Rates
from lightning_modules.optimization.mbbo.reweighting import Batch
from lightning_modules.optimization.mbbo.weighing import WeighingSteps


class BSVRB(WeighingSteps, MethodModule):
    """Learn the weights of training samples for many logistic models at once; one process or several.

    Of the training rows those that are not `trusted` get weights. Several processes need `--config
    configs/trainer/independent.yaml`, and each has a part of the blocks and all rows.

    Args:
        samples: n, at least as many as there are training samples that get weights.
        features: of a sample.
        blocks: m, models with temperatures of their own.
        sampled_blocks: I, blocks of an iteration; a divisor of m.
        batch_size: B, training samples, and as many trusted ones, of a block in an iteration, drawn with replacement.
        variant: `v1` tracks Hessians, `v2` needs products with them alone.
        eta: step size of the weights' logits; 0 keeps all weights at one half.
        tau: step size of the models.
        tau_v: step size of the solutions v of `v2`.
        alpha: weight of a sample in the trackers of blocks, in (0, 1].
        gamma: weight of the change in them.
        beta: weight of a sample in the tracker of the weights' gradient, in (0, 1].
        ridge: lambda, the models' strong convexity; positive.
        radius: of the ball of v.
        spread: temperatures are 1 + spread U(0, 1).
        iterations_per_step: iterations in a training step, which is logged once.
        tracking: whether the errors of the trackers are measured after each step, which takes all rows of all blocks.

    Raises:
        ValueError: if an argument is out of range; at setup, if precision, strategy or rows do not fit.
    """

    def __init__(
        self,
        samples: int,
        features: int,
        blocks: int = 100,
        sampled_blocks: int = 10,
        batch_size: int = 32,
        variant: Literal["v1", "v2"] = "v1",
        eta: float = 1e-3,
        tau: float = 0.5,
        tau_v: float = 1.0,
        alpha: float = 0.9,
        gamma: float = 1.0,
        beta: float = 0.9,
        ridge: float = 1e-5,
        radius: float = 10.0,
        spread: float = 10.0,
        iterations_per_step: int = 50,
        tracking: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, features=features, blocks=blocks)
        one_of(("v1", "v2"), variant=variant)
        at_least(0, gamma=gamma)
        positive(tau=tau, tau_v=tau_v, radius=radius)
        only_with("variant v2", variant == "v2", BSVRB, tau_v=tau_v, radius=radius)
        within(0, 1, "(]", alpha=alpha)
        own, length = Blocks(blocks, features + 1, variant), iterations_per_step
        self.start(samples, own, sampled_blocks, batch_size, eta, beta, ridge, spread, length, tracking)
        self.rates = Rates(alpha, gamma, tau, tau_v, ridge, radius)

    def _begin(self, batch: Batch) -> Tensor:
        return self.blocks.begin(self.problem, self.x, batch, self.rates.mu)

    def _move(self, number: int, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.blocks.move(self.problem, self.x, self.x_before, rows, batch, number, self.rates)
