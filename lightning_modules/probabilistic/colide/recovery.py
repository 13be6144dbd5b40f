"""Convert weights to acyclic graphs, and compare a graph with the true one."""

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
    return Recovery(wrong + reversed_, hits / max(int(true.sum()), 1), (reversed_ + false) / max(edges, 1))
