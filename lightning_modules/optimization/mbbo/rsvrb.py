"""RSVRB, the method that BSVRB is compared with: trackers of all blocks move in each iteration."""

from torch import Tensor

from datamodules.arguments import at_least, positive
from datamodules.distributed.world import run_seed
from lightning_modules.method_module import MethodModule
from lightning_modules.optimization.mbbo.all_blocks import AllBlocks
from lightning_modules.optimization.mbbo.blocks import sampled_blocks
from lightning_modules.optimization.mbbo.reweighting import Batch
from lightning_modules.optimization.mbbo.weighing import WeighingSteps

JUDGED = 3
"""What the second sample of blocks is drawn for."""


class RSVRB(WeighingSteps, MethodModule):
    """Learn the weights of training samples as `BSVRB` does, with trackers of all blocks; the baseline.

    An iteration takes the time of all blocks, and the trackers are of m n (D + 1) numbers.

    Args:
        samples: n, at least as many as there are training samples that get weights.
        features: of a sample.
        blocks: m, models with temperatures of their own.
        sampled_blocks: I, blocks of an iteration whose derivatives are sampled; a divisor of m.
        batch_size: B, training samples, and as many trusted ones, of a block in an iteration, drawn with replacement.
        eta: step size of the weights' logits.
        tau: step size of the models.
        beta: weight of a sample in all trackers, in (0, 1].
        ridge: lambda, the models' strong convexity; positive.
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
