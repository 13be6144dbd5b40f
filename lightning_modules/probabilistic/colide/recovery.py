"""Acyclic graphs out of weights, and how far a graph is from the true one."""

from typing import NamedTuple

import networkx as nx
import numpy as np
import torch
from torch import Tensor


def to_dag(weight: Tensor, threshold: float) -> Tensor:
    """Zero weights of at most a threshold and, if cycles remain, as few of the smallest as leave none.

    Args:
        weight: `[d, d]`, from row to column.
        threshold: least absolute weight that is left out.
    """
    kept = torch.where(weight.abs() > threshold, weight, 0).cpu().numpy()
    edges = np.argwhere(kept)
    edges = edges[np.abs(kept[tuple(edges.T)]).argsort(kind="stable")]

    def without(count: int) -> np.ndarray:
        rest = kept.copy()
        rest[tuple(edges[:count].T)] = 0
        return rest

    low, high = 0, len(edges)  # a graph without more of its edges has no more cycles
    while low < high:
        middle = (low + high) // 2
        if nx.is_directed_acyclic_graph(nx.DiGraph(without(middle))):
            high = middle
        else:
            low = middle + 1
    return torch.from_numpy(without(low)).to(weight)


class Recovery(NamedTuple):
    """Measures of an estimated graph against the true one."""

    shd: int
    """Structural Hamming distance: edges too many, too few or reversed; a reversed one counts once."""
    tpr: float
    """Edges of the right direction, of the true ones."""
    fdr: float
    """Edges that are reversed or not there, of the estimated ones."""


def recovery(estimated: Tensor, true: Tensor) -> Recovery:
    """Compare graphs, both `[d, d]` and bool, from row to column.

    Args:
        estimated: the graph that is judged.
        true: the graph that generated the data.
    """
    skeleton = true | true.T
    hits, reversed_ = int((estimated & true).sum()), int((estimated & true.T & ~true).sum())
    false, edges = int((estimated & ~skeleton).sum()), int(estimated.sum())
    ours = (estimated | estimated.T).triu()
    wrong = int((ours ^ skeleton.triu()).sum())
    return Recovery(wrong + reversed_, hits / max(int(true.sum()), 1), (reversed_ + false) / max(edges, 1))
