"""Decentralised learning that is robust to Byzantine nodes and does not need a server (MoNNA).

Byzantine nodes send arbitrary vectors. Up to f of the n nodes are Byzantine. Each of the n - f honest nodes has a shard
of the data, a model theta_i and a momentum m_i. Initially, all models are equal, and all momenta are 0. In round t = 0,
1, ..., each honest node takes a local step. The loss of a node is the mean cross-entropy on its batch plus c |theta_i|
(the norm, not its square). With the gradient g_i of this loss, the local step is

    m_i <- beta m_i + (1 - beta) g_i,    theta_i <- theta_i - lr_t m_i.

Each node then sends theta_i, and receives n - f models: its own model, the models of n - 2f - 1 other honest nodes, and
f models of the Byzantine nodes. The honest senders are sampled uniformly, which simulates that the models of the
remaining nodes arrive too late. The Byzantine nodes know all honest models. Each node averages the n - 2f received
models that are nearest to its own model, where its own model counts as one of the received models (nearest-neighbor
averaging, NNA):

    theta_i <- mean of {theta_j : j among the n - 2f nearest to theta_i}.

The analysis assumes n >= 11 f. NNA itself only requires n > 3 f; runs with NNA and n <= 3 f are rejected. The paper's
setting n = 26, f = 5 satisfies n > 3 f.

The honest nodes are distributed over the ranks of `lightning_modules.distributed.independent.Independent`. Each rank
hosts one or several nodes. The ranks exchange only models, once per round. The training steps are the same as in a
single process, except that each rank samples its own dropout masks. Byzantine nodes are not assigned to ranks. Every
rank gathers the models of all honest nodes, and computes from these models the vector that the Byzantine nodes send.
Buffers, such as BatchNorm statistics, are not exchanged between nodes.

The baselines are other aggregation rules under the same attacks: `Average` (D-SGD), `TrimmedMean`, `GeometricMedian`,
`SelfCenteredClipping`, `Krum`, `MeanAroundMedian` (MeaMed) and `CoordinatewiseMedian`. The baseline LEARN is
`TrimmedMean` with `exchange_gradients`, without momentum, and with increasing batch sizes.

This implementation differs from the authors' code in the following points. Nodes start with separate copies of one
model. In the authors' code, all nodes share one tensor in the first round, and the local steps of all nodes change this
shared tensor. A batch that reaches the end of a shard is filled up from the next shuffled pass over the shard. In the
authors' code, such a batch is shorter. Gradients for the flipped labels and for the original labels use the same
forward pass. Each test image is evaluated once, without mirroring.

`test/gradients` is the total number of per-image gradients that all honest nodes computed in training.

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
