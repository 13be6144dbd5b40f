"""MoNNA: decentralised learning without a server.

It is robust to Byzantine nodes, which send arbitrary vectors. Up to f of the n nodes are Byzantine. Each of the n - f
honest nodes has a shard of the data, a model theta_i and a momentum m_i. Initially all models are equal, and all
momenta are 0. In round t = 0, 1, ..., each honest node takes a local step. Its loss is the mean cross-entropy on the
batch of the node plus c |theta_i| (the norm, not its square). The gradient is g_i:

    m_i <- beta m_i + (1 - beta) g_i,    theta_i <- theta_i - lr_t m_i.

Then the node sends theta_i. It receives n - f models: its own model, models of n - 2f - 1 other honest nodes, and f
models of the Byzantine nodes. The honest senders are sampled uniformly, as if the other models were late. The Byzantine
nodes know all honest models. The node averages the n - 2f models that are nearest to its own model, which is included
(nearest-neighbor averaging, NNA):

    theta_i <- mean of {theta_j : j among the n - 2f nearest to theta_i}.

The analysis needs n >= 11 f. The rule itself needs only n > 3 f. Runs require this, and n = 26, f = 5 in the paper
meets it.

Honest nodes are distributed over the ranks of `lightning_modules.distributed.independent.Independent`. Each rank has
one or several nodes. Ranks exchange only models, once per round. The steps are the same as in a single process. Only
dropout differs, because each rank samples it separately. Byzantine nodes need no rank. Every rank gathers the models of
all honest nodes, and computes from these models what the Byzantine nodes send. Buffers, such as BatchNorm statistics,
are not exchanged between nodes.

Baselines are other aggregation rules under the same attacks: `Average` (D-SGD), `TrimmedMean`, `GeometricMedian`,
`SelfCenteredClipping`, `Krum`, `MeanAroundMedian` (MeaMed) and `CoordinatewiseMedian`. The baseline LEARN is
`TrimmedMean` with `exchange_gradients`, without momentum, and with increasing batch sizes.

Differences from the code of the authors: nodes start with copies of one model. In their code, all nodes share one
tensor in the first round, and the steps of all nodes change it. A batch that starts near the end of a shard continues
with the next shuffled order of the shard. In their code, such a batch is shorter. Gradients for flipped labels and for
given labels use the same forward pass. Each test image is tested once, without mirroring.

`test/gradients` counts the gradients of single images that all honest nodes computed in training.

Source: Farhadkhani et al., Robust Collaborative Learning with Linear Gradient Overhead, ICML 2023, arXiv 2209.10931.
"""

from lightning_modules.optimization.monna.aggregation import (
    Average,
    CoordinatewiseMedian,
    GeometricMedian,
    Krum,
    MeanAroundMedian,
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
    "CoordinatewiseMedian",
    "FallOfEmpires",
    "GeometricMedian",
    "Krum",
    "LabelFlip",
    "MeanAroundMedian",
    "Mimic",
    "MoNNA",
    "NearestNeighborAveraging",
    "SelfCenteredClipping",
    "SignFlip",
    "TrimmedMean",
]
