"""Convert weights to acyclic graphs, and compare a graph with the true one."""

import math
from typing import NamedTuple

import networkx as nx
import numpy as np
import torch
from torch import Tensor


def to_dag(weight: Tensor, threshold: float) -> Tensor:
    """Set all weights up to a threshold to zero.

    Then remove the smallest remaining weights until the graph is acyclic.

    Args:
        weight: weights of the edges from row to column, `[d, d]`.
        threshold: largest absolute weight that is set to zero.
    """
    kept = torch.where(weight.abs() > threshold, weight, 0).cpu().numpy()
    edges = np.argwhere(kept)
    edges = edges[np.abs(kept[tuple(edges.T)]).argsort(kind="stable")]

    def without(count: int) -> np.ndarray:
        rest = kept.copy()
        rest[tuple(edges[:count].T)] = 0
        return rest

    low, high = 0, len(edges)  # removing more edges never adds cycles
    while low < high:
        middle = (low + high) // 2
        if nx.is_directed_acyclic_graph(nx.DiGraph(without(middle))):
            high = middle
        else:
            low = middle + 1
    return torch.from_numpy(without(low)).to(weight)


class Recovery(NamedTuple):
    """Metrics of an estimated graph against the true one."""

    shd: int
    """Structural Hamming distance: number of extra, missing or reversed edges; a reversed one counts once."""
    tpr: float
    """Fraction of the true edges that are estimated with the right direction."""
    fdr: float
    """Fraction of the estimated edges that are reversed or do not exist."""
    fpr: float
    """Number of reversed or non-existent estimated edges, divided by the number of pairs of nodes without an edge."""
    sid: int
    """Structural intervention distance, see `intervention_distance`."""


def recovery(estimated: Tensor, true: Tensor) -> Recovery:
    """Compare graphs, both `[d, d]` and bool.

    Edges lead from row to column.

    Args:
        estimated: the graph to evaluate.
        true: the graph that generated the data.
    """
    skeleton = true | true.T
    hits, reversed_ = int((estimated & true).sum()), int((estimated & true.T & ~true).sum())
    false, edges = int((estimated & ~skeleton).sum()), int(estimated.sum())
    ours = (estimated | estimated.T).triu()
    wrong = int((ours ^ skeleton.triu()).sum())
    size, count = len(true), int(true.sum())
    free = size * (size - 1) // 2 - count
    return Recovery(
        wrong + reversed_,
        hits / max(count, 1),
        (reversed_ + false) / max(edges, 1),
        (reversed_ + false) / max(free, 1),
        intervention_distance(estimated, true),
    )


def reached(start: Tensor, edges: Tensor) -> Tensor:
    """Return which nodes `[k, d]` are a step along the edges `[d, d]` away from the nodes in each row of `start`."""
    return start.double() @ edges.double() > 0


def intervention_distance(estimated: Tensor, true: Tensor) -> int:
    """Count ordered pairs (i, j) whose effect p(x_j | do x_i) is wrong if the parents of i are adjusted for (SID).

    The parents are those in the estimated graph, and the effect is that of the true graph. If j is one of these
    parents, the effect is wrong if j descends from i. Otherwise, it is wrong in two cases: a path from i to j that is
    not directed is open, or a node on a directed path from i to j has a descendant among the parents.

    Args:
        estimated: acyclic graph to evaluate, `[d, d]`, bool.
        true: acyclic graph that generated the data, `[d, d]`, bool.

    Source: Peters and Buhlmann, Structural Intervention Distance for Evaluating Causal Graphs, Neural Computation 2015,
    arXiv 1306.1043.
    """
    identity = torch.eye(len(true), dtype=torch.bool, device=true.device)
    others, given, descends = ~identity, estimated.T, identity | true
    for _ in range(math.ceil(math.log2(len(true)))):
        descends = reached(descends, descends)
    opens = reached(given, descends.T)  # colliders that are open
    # Walks from i that arrive against an edge, along an edge, and along edges only
    up, down, directed = true.T, torch.zeros_like(true), true
    while True:
        more = (
            up | reached(up & ~given | (down | directed) & opens, true.T) & others,
            down | reached((up | down) & ~given, true) & others,
            directed | reached(directed & ~given, true),
        )
        if all(map(torch.equal, more, (up, down, directed))):
            break
        up, down, directed = more
    wrong = up | down | reached(descends & opens & others, descends)
    return int((torch.where(given, descends, wrong) & others).sum())
