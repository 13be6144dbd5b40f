"""Sample random directed acyclic graphs and edge weights with a given random generator."""

from typing import Literal

import networkx as nx
import numpy as np
from numpy.typing import NDArray

GraphKind = Literal["erdos_renyi", "scale_free"]


def acyclic_graph(kind: GraphKind, nodes: int, edges: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Sample the adjacency matrix `[d, d]` of a directed acyclic graph, with edges from row to column.

    An Erdos-Renyi graph connects each pair of nodes with the same probability. The expected number of edges is `edges`.
    Edges are directed along a random order of the nodes. A scale-free graph follows the model of Barabasi and Albert,
    in which each new node points to round(edges / nodes) earlier nodes.

    Args:
        kind: distribution from which the graph is sampled.
        nodes: number of nodes, d.
        edges: expected number of edges.
        random: random number generator.
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
    """Sample edge weights for a graph `[d, d]`.

    The weights are uniform in [low, high]. Each weight is negated with probability 1/2.
    """
    sign = np.where(random.random(graph.shape) < 0.5, -1.0, 1.0)
    return graph * sign * random.uniform(low, high, graph.shape)


def observations(weight: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve a linear structural equation model X = X W + Z for X, node by node in topological order.

    Args:
        weight: weight matrix W of an acyclic graph, `[d, d]`.
        noise: noise Z, `[N, d]`.

    Returns:
        Observations X, `[N, d]`.
    """
    observed = noise.copy()
    for node in nx.topological_sort(nx.DiGraph(weight)):
        observed[:, node] += observed @ weight[:, node]
    return observed
