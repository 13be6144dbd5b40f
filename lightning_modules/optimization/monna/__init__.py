"""MoNNA: decentralised learning without a server, robust to Byzantine nodes that send arbitrary vectors.

Of n nodes up to f are Byzantine. Each of the n - f honest ones has a shard of the data, a model theta_i, initially the
same for all, and a momentum m_i, initially 0. In round t = 0, 1, ... it takes a local step with the gradient g_i of the
mean cross-entropy on its own batch, to whose loss c |theta_i| is added (the norm, not its square):

    m_i <- beta m_i + (1 - beta) g_i,    theta_i <- theta_i - lr_t m_i.

Then it sends theta_i and receives n - f models: its own, those of n - 2f - 1 other honest nodes, sampled uniformly as
if the rest were late, and those of all f Byzantine ones, which know all honest models. It averages the n - 2f models
nearest to its own, which is one of them (nearest-neighbor averaging, NNA):

    theta_i <- mean of {theta_j : j among the n - 2f nearest to theta_i}.

The analysis needs n >= 11 f. The rule itself needs n > 3 f, which runs require and the paper's n = 26, f = 5 meet.

Honest nodes are distributed over the ranks of `lightning_modules.distributed.independent.Independent`, one or several
to each. Ranks communicate only models, once a round, and steps are those of a single process (except for dropout, which
each rank samples separately). Byzantine nodes need no rank: every rank computes what they send from the models of all
honest nodes, which it gathers. Buffers, such as BatchNorm statistics, stay with their node.

Baselines are other aggregation rules under the same attacks: `Average` (D-SGD), `TrimmedMean`, `GeometricMedian` and
`SelfCenteredClipping`; LEARN is `TrimmedMean` with `exchange_gradients`, no momentum and increasing batch sizes.

Differences from the authors' code: nodes start with copies of one model; theirs share one tensor in the first round,
which takes the steps of all. A batch that starts near the end of a shard continues with its next shuffled order;
theirs is short. Flipped labels use the forward pass of the given ones. Every test image is tested once, without
mirroring.

Source: Farhadkhani et al., Robust Collaborative Learning with Linear Gradient Overhead, ICML 2023, arXiv 2209.10931.
"""

from lightning_modules.optimization.monna.aggregation import (
    Average,
    GeometricMedian,
    NearestNeighborAveraging,
    SelfCenteredClipping,
    TrimmedMean,
)
from lightning_modules.optimization.monna.byzantine import (
    ALittleIsEnough,
    FallOfEmpires,
    LabelFlip,
    Mimic,
    SignFlip,
)
from lightning_modules.optimization.monna.module import MoNNA

__all__ = [
    "ALittleIsEnough",
    "Average",
    "FallOfEmpires",
    "GeometricMedian",
    "LabelFlip",
    "Mimic",
    "MoNNA",
    "NearestNeighborAveraging",
    "SelfCenteredClipping",
    "SignFlip",
    "TrimmedMean",
]
