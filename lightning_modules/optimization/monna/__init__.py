"""MoNNA: nodes learn together without a server while some of them send anything.

Of n nodes up to f are Byzantine. Each of the n - f honest ones has a shard of the data, a model theta_i and a momentum
m_i, at first the same model and 0. In round t = 0, 1, ... it takes a local step with the gradient g_i of the mean
cross-entropy on a batch of its own, to whose loss c |theta_i| is added (the norm, not its square):

    m_i <- beta m_i + (1 - beta) g_i,    theta_i <- theta_i - lr_t m_i.

Then it sends theta_i and hears n - f models: its own, those of n - 2f - 1 other honest nodes, drawn uniformly as if the
rest were late, and of all f Byzantine ones, which know all honest models. It keeps the n - 2f of them that are nearest
to its own, which is one of them, and takes their mean (nearest-neighbor averaging, NNA):

    theta_i <- mean of {theta_j : j among the n - 2f nearest to theta_i}.

The analysis wants n >= 11 f; the rule itself n > 3 f, with which runs are allowed, as the paper's n = 26, f = 5 are.

Honest nodes are dealt out over the processes of `lightning_modules.distributed.independent.Independent`, one or several
to each; models alone are exchanged, once a round, and the steps are those of one process (but for dropout, which each
process draws by itself). No process is spent on Byzantine nodes: every one makes what they send, of the models of all
honest nodes, which it holds meanwhile. Buffers, as the statistics of BatchNorm, stay with their node.

Baselines are other rules in its place, under the same attacks: `Average` (D-SGD), `TrimmedMean`, `GeometricMedian` and
`SelfCenteredClipping`; LEARN is `TrimmedMean` with `exchange_gradients`, no momentum and batches that grow.

Differences from the authors' code: nodes begin with copies of one model, where theirs share one tensor in the first
round, which so takes the step of all; a batch that begins near the end of a shard goes on with its next order, where
theirs is short; flipped labels have the forward pass of the given ones; all test images are tested once, none mirrored.

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
