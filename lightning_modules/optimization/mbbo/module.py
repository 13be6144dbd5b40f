"""The LightningModules that learn sample weights: BSVRB, and its baseline RSVRB, whose steps update all blocks."""

from typing import Literal

from torch import Tensor

from datamodules.arguments import at_least, one_of, only_with, positive, within
from datamodules.distributed.collectives import run_seed
from lightning_modules.method_module import MethodModule
from lightning_modules.optimization.mbbo.blocks import AllBlocks, Blocks, Rates, sampled_blocks
from lightning_modules.optimization.mbbo.reweighting import Batch, WeighingSteps


class BSVRB(WeighingSteps, MethodModule):
    """Learn weights of training samples from the trusted losses of many logistic models.

    Weights are learned for the training rows that are not `trusted`. Training on several ranks needs `--config
    configs/trainer/independent.yaml`, which shards the blocks and copies all rows to each rank.

    Args:
        samples: n, number of weights; at least the number of training samples that need one.
        features: number of features of a sample.
        blocks: m, number of models, each with its own temperature.
        sampled_blocks: I, blocks sampled per iteration; a divisor of m.
        batch_size: B, number of training samples, and of trusted samples, per block and iteration; sampled with
            replacement.
        variant: `v1` tracks Hessians, `v2` needs only Hessian-vector products.
        eta: step size of the logits of the sample weights; 0 keeps all weights at one half.
        tau: step size of the models.
        tau_v: step size of v, the solution tracked by `v2`.
        alpha: weight of the current batch in the blocks' trackers, in (0, 1].
        gamma: weight of the variance-reduction term in the blocks' trackers.
        beta: weight of the current batch in the tracked gradient of the sample weights, in (0, 1].
        ridge: lambda, which makes the models' losses strongly convex; positive.
        radius: radius of the ball onto which v is projected.
        spread: range of the models' temperatures, 1 + spread U(0, 1).
        iterations_per_step: number of iterations in a training step; each step logs once.
        tracking: after each step, measure how far the trackers are from the derivatives on all rows of all blocks.

    Raises:
        ValueError: if an argument is out of range; at setup, if precision, strategy or rows are unsuitable.
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


JUDGED = 3
"""Purpose of the second sample of blocks, for its random numbers."""


class RSVRB(WeighingSteps, MethodModule):
    """Baseline of `BSVRB`: learn sample weights with trackers of all blocks.

    Each iteration updates all blocks; the trackers hold m n (D + 1) numbers.

    Args:
        samples: n, number of weights; at least the number of training samples that need one.
        features: number of features of a sample.
        blocks: m, number of models, each with its own temperature.
        sampled_blocks: I, blocks whose derivatives an iteration samples; a divisor of m.
        batch_size: B, number of training samples, and of trusted samples, per block and iteration; sampled with
            replacement.
        eta: step size of the logits of the sample weights.
        tau: step size of the models.
        beta: weight of the current batch in all trackers, in (0, 1].
        ridge: lambda, which makes the models' losses strongly convex; positive.
        spread: range of the models' temperatures, 1 + spread U(0, 1).
        iterations_per_step: number of iterations in a training step; each step logs once.
        tracking: after each step, measure how far the trackers are from the derivatives on all rows of all blocks.

    Raises:
        ValueError: if an argument is out of range; at setup, if precision, strategy or rows are unsuitable.
    """

    def __init__(
        self,
        samples: int,
        features: int,
        blocks: int = 100,
        sampled_blocks: int = 10,
        batch_size: int = 32,
        eta: float = 1e-3,
        tau: float = 0.5,
        beta: float = 0.9,
        ridge: float = 1e-5,
        spread: float = 10.0,
        iterations_per_step: int = 50,
        tracking: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, samples=samples, features=features, blocks=blocks)
        positive(tau=tau)
        own, length = AllBlocks(blocks, features + 1, samples), iterations_per_step
        self.start(samples, own, sampled_blocks, batch_size, eta, beta, ridge, spread, length, tracking)
        self.tau = tau
        self.ridge = ridge

    def _begin(self, batch: Batch) -> Tensor:
        return self.blocks.begin(self.problem, self.x, batch, self.ridge)

    def _move(self, number: int, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        judged = sampled_blocks(run_seed(), number, 1, self.blocks.count, self.sampled, JUDGED)[0]
        places, scale = self.blocks.hosted(judged)[1], self.blocks.count / self.sampled
        settings = scale, self.beta, self.tau, self.ridge
        return self.blocks.move(self.problem, self.x, self.x_before, rows, places, batch, *settings)
