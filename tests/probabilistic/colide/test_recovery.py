import networkx as nx
import numpy as np
import torch

from lightning_modules.probabilistic.colide.recovery import intervention_distance, recovery, to_dag

CHAIN = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)


def test_a_graph_is_compared_edge_by_edge() -> None:
    assert recovery(CHAIN, CHAIN) == (0, 1.0, 0.0, 0.0, 0)
    assert recovery(torch.zeros_like(CHAIN), CHAIN) == (3, 0.0, 0.0, 0.0, 6)  # all six pairs, reversed
    turned = CHAIN.clone()
    turned[0, 1], turned[1, 0] = False, True
    assert recovery(turned, CHAIN)[:4] == (1, 2 / 3, 1 / 3, 1 / 3)
    more = CHAIN.clone()
    more[0, 3] = True
    assert recovery(more, CHAIN) == (1, 1.0, 0.25, 1 / 3, 0)  # a supergraph in the same order adjusts correctly


def random_dag(size: int, probability: float, random: np.random.Generator) -> np.ndarray:
    order = random.permutation(size)
    return np.triu(random.random((size, size)) < probability, 1)[np.ix_(order, order)]


def wrong_by_definition(true: np.ndarray, estimated: np.ndarray, i: int, j: int) -> bool:
    """Apply the adjustment criterion: d-separation (networkx) in the graph without the first edges of causal paths."""
    graph, parents = nx.DiGraph(true), set(np.flatnonzero(estimated[:, i]).tolist())
    if j in parents:
        return j in nx.descendants(graph, i)
    causal = {w for w in nx.descendants(graph, i) if w == j or j in nx.descendants(graph, w)}
    if any(parents & ({w} | nx.descendants(graph, w)) for w in causal):
        return True
    graph.remove_edges_from([(i, w) for w in causal if graph.has_edge(i, w)])
    return not nx.is_d_separator(graph, {i}, {j}, parents)


def test_the_intervention_distance_is_that_of_the_adjustment_criterion() -> None:
    random, distances = np.random.default_rng(0), []
    for _ in range(40):
        true, estimated = (random_dag(6, probability, random) for probability in random.choice([0.2, 0.4, 0.7], 2))
        pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
        expected = sum(wrong_by_definition(true, estimated, i, j) for i, j in pairs)
        assert intervention_distance(torch.from_numpy(estimated), torch.from_numpy(true)) == expected
        assert intervention_distance(torch.from_numpy(true), torch.from_numpy(true)) == 0
        distances.append(expected)
    assert min(distances) < 8
    assert max(distances) > 20


def test_a_dag_stays_and_of_cycles_as_few_small_weights_go_as_do() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        weight = torch.from_numpy(random.uniform(-1, 1, (7, 7)))
        dag = to_dag(weight, 0.3)
        assert nx.is_directed_acyclic_graph(nx.DiGraph(dag.numpy()))
        kept = dag != 0
        assert torch.equal(dag[kept], weight[kept])
        assert torch.equal(to_dag(dag, 0.3), dag)
        gone = (weight.abs() > 0.3) & ~kept  # the largest removed edge would close a cycle
        greatest = torch.where(gone, weight.abs(), 0).argmax()
        dag.view(-1)[greatest] = weight.view(-1)[greatest]
        assert not nx.is_directed_acyclic_graph(nx.DiGraph(dag.numpy()))
    cycle = torch.tensor([[0.0, 0.9], [-0.5, 0.0]])
    assert to_dag(cycle, 0.3).tolist() == [[0.0, cycle[0, 1].item()], [0.0, 0.0]]
    assert not to_dag(torch.full((2, 2), 0.3), 0.3).any()
