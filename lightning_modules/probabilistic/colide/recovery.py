"""Convert a weight matrix to an acyclic graph, and compare an estimated graph with the true graph."""

import math
from typing import NamedTuple

import networkx as nx
import numpy as np
import torch
from torch import Tensor


def to_dag(weight: Tensor, threshold: float) -> Tensor:
    """Set all weights with absolute values up to a threshold to zero, and remove cycles.

    If cycles remain after thresholding, the smallest remaining weights are removed until the graph is acyclic.

    Args:
        weight: weights of the edges, `[d, d]`; entry (i, j) is the weight of the edge from node i to node j.
        threshold: largest absolute weight that is set to zero.
    """
    kept = torch.where(weight.abs() > threshold, weight, 0).cpu().numpy()
    edges = np.argwhere(kept)
    edges = edges[np.abs(kept[tuple(edges.T)]).argsort(kind="stable")]

    def without(count: int) -> np.ndarray:
        rest = kept.copy()
        rest[tuple(edges[:count].T)] = 0
        return rest

    low, high = 0, len(edges)  # bisection is valid because removing more edges never adds cycles
    while low < high:
        middle = (low + high) // 2
        if nx.is_directed_acyclic_graph(nx.DiGraph(without(middle))):
            high = middle
        else:
            low = middle + 1
    return torch.from_numpy(without(low)).to(weight)


class Recovery(NamedTuple):
    """Metrics that compare an estimated graph with the true graph."""

    shd: int
    """Structural Hamming distance: number of extra, missing or reversed edges; a reversed edge counts once."""
    tpr: float
    """Fraction of the true edges that are estimated with the correct direction."""
    fdr: float
    """Fraction of the estimated edges that are reversed or do not exist in the true graph."""
    fpr: float
    """Number of estimated edges that are reversed or extra, divided by the number of node pairs without a true edge."""
    sid: int
    """Structural intervention distance; see `intervention_distance`."""


def recovery(estimated: Tensor, true: Tensor) -> Recovery:
    """Compare an estimated graph with the true graph.

    Both graphs are bool tensors `[d, d]`, and entry (i, j) is the edge from node i to node j.

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


def reachable_nodes(start: Tensor, edges: Tensor) -> Tensor:
    """For each row of `start`, mark the nodes to which an edge leads from a marked node; the result is `[k, d]`."""
    return start.double() @ edges.double() > 0


def intervention_distance(estimated: Tensor, true: Tensor) -> int:
    """Count the ordered pairs (i, j) for which adjusting for the parents of i gives a wrong p(x_j | do x_i) (SID).

    The parents are taken from the estimated graph, and all other relations from the true graph. If j is one of the
    parents, the effect is wrong if j is a descendant of i. If j is not one of the parents, the effect is wrong in two
    cases. In the first case, a path from i to j that is not directed is not blocked by the parents. In the second case,
    one of the parents is a descendant of a node on a directed path from i to j.

    Args:
        estimated: acyclic graph to evaluate, `[d, d]`, bool.
        true: acyclic graph that generated the data, `[d, d]`, bool.

    Source: Peters and Buhlmann, Structural Intervention Distance for Evaluating Causal Graphs, Neural Computation 2015,
    arXiv 1306.1043.
    """
    identity = torch.eye(len(true), dtype=torch.bool, device=true.device)
    others, given, descends = ~identity, estimated.T, identity | true
    for _ in range(math.ceil(math.log2(len(true)))):
        descends = reachable_nodes(descends, descends)
    opens = reachable_nodes(given, descends.T)  # colliders that the parents open
    # Nodes reached by walks from i with a reversed last edge, with a forward last edge, and with forward edges only
    up, down, directed = true.T, torch.zeros_like(true), true
    while True:
        more = (
            up | reachable_nodes(up & ~given | (down | directed) & opens, true.T) & others,
            down | reachable_nodes((up | down) & ~given, true) & others,
            directed | reachable_nodes(directed & ~given, true),
        )
        if all(map(torch.equal, more, (up, down, directed))):
            break
        up, down, directed = more
    wrong = up | down | reachable_nodes(descends & opens & others, descends)
    return int((torch.where(given, descends, wrong) & others).sum())
