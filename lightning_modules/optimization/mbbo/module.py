"""The LightningModules that learn sample weights: BSVRB, and the baseline RSVRB.

Each step of RSVRB updates all blocks.
"""

from typing import Literal

from torch import Tensor

from datamodules.arguments import at_least, one_of, only_with, positive, within
from datamodules.distributed.collectives import run_seed
from lightning_modules.method_module import MethodModule
from lightning_modules.optimization.mbbo.blocks import AllBlocks, Blocks, Rates, sampled_blocks
from lightning_modules.optimization.mbbo.reweighting import Batch, WeighingSteps


class BSVRB(WeighingSteps, MethodModule):
    """Learn weights of training samples.

    The criterion is the loss of many logistic models on trusted samples. Only training rows that are not `trusted` have
    weights. Training on several ranks needs `--config configs/trainer/independent.yaml`. It shards the blocks, and
    copies all rows to each rank.

    Args:
        samples: number n of weights, at least the number of training samples that have a weight.
        features: number of features of a sample.
        blocks: number m of models; each model has a separate temperature.
        sampled_blocks: number I of blocks that an iteration samples; a divisor of m.
        batch_size: number B of training samples, and of trusted samples, per block and iteration; sampled with
            replacement.
        variant: variant of the algorithm: `v1` tracks Hessians, `v2` needs only Hessian-vector products.
        eta: step size of the logits of the sample weights; 0 keeps all weights at one half.
        tau: step size of the models.
        tau_v: step size of v, the solution that `v2` tracks.
        alpha: weight of the current batch in the trackers of the blocks, in (0, 1].
        gamma: weight of the variance-reduction term in the trackers of the blocks.
        beta: weight of the current batch in the tracked gradient of the sample weights, in (0, 1].
        ridge: positive weight lambda of the term that makes the losses of the models strongly convex.
        radius: radius of the ball onto which v is projected.
        spread: range of the temperatures of the models, 1 + spread U(0, 1).
        iterations_per_step: number of iterations in a training step; a step logs once.
        tracking: whether to measure, after each step, the distance of the trackers from the derivatives on all rows of
            all blocks.

    Raises:
        ValueError: if an argument is out of range; at setup, if precision, strategy or rows of the data are unsuitable.
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
    """Baseline of `BSVRB` that learns sample weights with trackers of all blocks.

    Each iteration updates all blocks. The trackers consist of m n (D + 1) numbers.

    Args:
        samples: number n of weights, at least the number of training samples that have a weight.
        features: number of features of a sample.
        blocks: number m of models; each model has a separate temperature.
        sampled_blocks: number I of blocks whose derivatives an iteration computes; a divisor of m.
        batch_size: number B of training samples, and of trusted samples, per block and iteration; sampled with
            replacement.
        eta: step size of the logits of the sample weights.
        tau: step size of the models.
        beta: weight of the current batch in all trackers, in (0, 1].
        ridge: positive weight lambda of the term that makes the losses of the models strongly convex.
        spread: range of the temperatures of the models, 1 + spread U(0, 1).
        iterations_per_step: number of iterations in a training step; a step logs once.
        tracking: whether to measure, after each step, the distance of the trackers from the derivatives on all rows of
            all blocks.

    Raises:
        ValueError: if an argument is out of range; at setup, if precision, strategy or rows of the data are unsuitable.
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
