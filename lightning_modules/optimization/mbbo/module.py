"""The LightningModules that learn weights of training samples: BSVRB and the baseline RSVRB.

Each iteration of BSVRB updates the sampled blocks, and each iteration of RSVRB updates all blocks.
"""

from typing import Literal

from torch import Tensor

from datamodules.arguments import at_least, one_of, only_with
from datamodules.distributed.collectives import run_seed
from lightning_modules.method_module import MethodModule
from lightning_modules.optimization.mbbo.blocks import AllBlocks, BlockRates, Blocks, Rates, sampled_blocks
from lightning_modules.optimization.mbbo.reweighting import Batch, WeighingSteps


class BSVRB(WeighingSteps, MethodModule):
    """Learn weights of training samples that minimise the loss of many logistic models on trusted samples.

    Only training rows that are not marked as `trusted` have weights. Training on several ranks requires `--config
    configs/trainer/independent.yaml`, which shards the blocks over ranks and copies all rows to each rank.

    Args:
        samples: number n of weights, which must be at least the number of training rows that are not trusted.
        features: number of features of a sample.
        blocks: number m of logistic models; each model has a different temperature.
        sampled_blocks: number I of blocks that each iteration samples, a divisor of m.
        batch_size: number B; for each sampled block, each iteration samples B training samples and B trusted samples
            with replacement.
        variant: variant of the algorithm; `v1` tracks Hessians, and `v2` only needs Hessian-vector products.
        rates: step sizes and weights of the algorithm.
        ridge: positive weight lambda of the L2 penalty, which makes the losses of the models strongly convex.
        spread: range of the temperatures of the models, 1 + spread U(0, 1).
        iterations_per_step: number of iterations per training step; each training step logs once.
        tracking: whether to compute, after each training step, the distances between the trackers and the exact
            derivatives on all rows.
    """

    def __init__(
        self,
        samples: int,
        features: int,
        blocks: int = 100,
        sampled_blocks: int = 10,
        batch_size: int = 32,
        variant: Literal["v1", "v2"] = "v1",
        rates: BlockRates = BlockRates(),
        ridge: float = 1e-5,
        spread: float = 10.0,
        iterations_per_step: int = 50,
        tracking: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, features=features, blocks=blocks)
        one_of(("v1", "v2"), variant=variant)
        of_v2 = {"rates.tau_v": rates.tau_v, "rates.radius": rates.radius}
        only_with("variant v2", variant == "v2", BlockRates, **of_v2)
        own, length = Blocks(blocks, features + 1, variant), iterations_per_step
        self.start(samples, own, sampled_blocks, batch_size, rates, ridge, spread, length, tracking)

    def _begin(self, batch: Batch) -> Tensor:
        return self.blocks.begin(self.problem, self.x, batch, self.problem.ridge)

    def _move(self, number: int, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        settings = number, self.rates, self.problem.ridge
        return self.blocks.move(self.problem, self.x, self.x_before, rows, batch, *settings)


JUDGED = 3
"""Value of `purpose` with which the second sample of blocks is drawn."""


class RSVRB(WeighingSteps, MethodModule):
    """Learn weights of training samples with trackers that cover all blocks; the baseline of `BSVRB`.

    Each iteration updates the trackers of all blocks. These trackers consist of m n (D + 1) numbers.

    Args:
        samples: number n of weights, which must be at least the number of training rows that are not trusted.
        features: number of features of a sample.
        blocks: number m of logistic models; each model has a different temperature.
        sampled_blocks: number I of blocks for which each iteration computes derivatives, a divisor of m.
        batch_size: number B; for each sampled block, each iteration samples B training samples and B trusted samples
            with replacement.
        rates: step sizes, and the weight beta of the current batch in all trackers.
        ridge: positive weight lambda of the L2 penalty, which makes the losses of the models strongly convex.
        spread: range of the temperatures of the models, 1 + spread U(0, 1).
        iterations_per_step: number of iterations per training step; each training step logs once.
        tracking: whether to compute, after each training step, the distances between the trackers and the exact
            derivatives on all rows.
    """

    def __init__(
        self,
        samples: int,
        features: int,
        blocks: int = 100,
        sampled_blocks: int = 10,
        batch_size: int = 32,
        rates: Rates = Rates(),
        ridge: float = 1e-5,
        spread: float = 10.0,
        iterations_per_step: int = 50,
        tracking: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, samples=samples, features=features, blocks=blocks)
        own, length = AllBlocks(blocks, features + 1, samples), iterations_per_step
        self.start(samples, own, sampled_blocks, batch_size, rates, ridge, spread, length, tracking)

    def _begin(self, batch: Batch) -> Tensor:
        return self.blocks.begin(self.problem, self.x, batch, self.problem.ridge)

    def _move(self, number: int, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        judged = sampled_blocks(run_seed(), number, 1, self.blocks.count, self.sampled, JUDGED)[0]
        places, scale = self.blocks.select_hosted(judged)[1], self.blocks.count / self.sampled
        settings = scale, self.rates, self.problem.ridge
        return self.blocks.move(self.problem, self.x, self.x_before, rows, places, batch, *settings)
