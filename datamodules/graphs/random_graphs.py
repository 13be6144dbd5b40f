"""Random directed acyclic graphs and their weights, as functions of a random generator."""

from typing import Literal

import networkx as nx
import numpy as np
from numpy.typing import NDArray

GraphKind = Literal["erdos_renyi", "scale_free"]


def acyclic_graph(kind: GraphKind, nodes: int, edges: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a directed acyclic graph, `[d, d]`, in which row points to column.

    An Erdos-Renyi graph keeps each pair of nodes with the same probability, so that `edges` are expected, and its
    arrows follow a random order of the nodes. A scale-free one is Barabasi and Albert's, in which each new node
    points to round(edges / nodes) of the earlier ones.

    Args:
        kind: law of the graph.
        nodes: d, number of nodes.
        edges: expected number of edges.
        random: generator of all that is drawn.
    """
    seed = int(random.integers(2**32))
    if kind == "scale_free":
        graph = nx.barabasi_albert_graph(nodes, round(edges / nodes), seed=seed)
        return np.tril(nx.to_numpy_array(graph, dtype=bool), k=-1)
    graph = nx.gnp_random_graph(nodes, 2 * edges / (nodes * (nodes - 1)), seed=seed)
    order = random.permutation(nodes)
    upper = np.triu(nx.to_numpy_array(graph, dtype=bool), k=1)
    return upper[np.ix_(order, order)]


def edge_weights(graph: NDArray[np.bool_], low: float, high: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Give each edge of a graph `[d, d]` a weight, uniform in [low, high] and of either sign with probability 1/2."""
    sign = np.where(random.random(graph.shape) < 0.5, -1.0, 1.0)
    return graph * sign * random.uniform(low, high, graph.shape)


def observations(weight: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Let a linear structural equation model act on noise: X = X W + Z, node after node in a topological order.

    Args:
        weight: W, `[d, d]`, of an acyclic graph.
        noise: Z, `[N, d]`.

    Returns:
        X, `[N, d]`.
    """
    observed = noise.copy()
    for node in nx.topological_sort(nx.DiGraph(weight)):
        observed[:, node] += observed @ weight[:, node]
    return observed
