import networkx as nx
import numpy as np
import pytest

from datamodules.graphs.random_graphs import GraphKind, acyclic_graph, edge_weights, observations


@pytest.mark.parametrize("kind", ["erdos_renyi", "scale_free"])
def test_graphs_are_acyclic_and_have_the_edges_that_are_expected(kind: GraphKind) -> None:
    graphs = [acyclic_graph(kind, 20, 40, np.random.default_rng(seed)) for seed in range(100)]
    assert all(nx.is_directed_acyclic_graph(nx.DiGraph(graph)) for graph in graphs)
    edges = [graph.sum() for graph in graphs]
    assert set(edges) == {36} if kind == "scale_free" else np.mean(edges) == pytest.approx(40, abs=2)
    assert not np.array_equal(graphs[0], graphs[1])
    assert np.array_equal(graphs[3], acyclic_graph(kind, 20, 40, np.random.default_rng(3)))


def test_the_order_of_an_erdos_renyi_graph_is_random() -> None:
    upper = [np.triu(acyclic_graph("erdos_renyi", 10, 20, np.random.default_rng(seed))).sum() for seed in range(200)]
    assert np.mean(upper) == pytest.approx(10, abs=1)


def test_weights_have_both_signs_and_stay_in_their_intervals() -> None:
    graph = np.ones((100, 100), dtype=bool)
    graph[0] = False
    weight = edge_weights(graph, 0.5, 2.0, np.random.default_rng(0))
    assert not weight[0].any()
    size = np.abs(weight[1:])
    assert 0.5 <= size.min() < 0.51
    assert 1.99 < size.max() <= 2.0
    assert np.mean(weight[1:] > 0) == pytest.approx(0.5, abs=0.02)


def test_observations_solve_the_model() -> None:
    random = np.random.default_rng(0)
    weight = edge_weights(acyclic_graph("erdos_renyi", 15, 45, random), 0.5, 2.0, random)
    noise = random.standard_normal((50, 15))
    observed = observations(weight, noise)
    np.testing.assert_allclose(observed, np.linalg.solve((np.eye(15) - weight).T, noise.T).T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(observed, observed @ weight + noise, rtol=1e-9, atol=1e-9)
