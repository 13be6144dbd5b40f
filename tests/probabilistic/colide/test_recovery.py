import networkx as nx
import numpy as np
import torch

from lightning_modules.probabilistic.colide.recovery import recovery, to_dag

CHAIN = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)


def test_a_graph_is_compared_edge_by_edge() -> None:
    assert recovery(CHAIN, CHAIN) == (0, 1.0, 0.0)
    assert recovery(torch.zeros_like(CHAIN), CHAIN) == (3, 0.0, 0.0)
    turned = CHAIN.clone()
    turned[0, 1], turned[1, 0] = False, True
    assert recovery(turned, CHAIN) == (1, 2 / 3, 1 / 3)
    more = CHAIN.clone()
    more[0, 3] = True
    assert recovery(more, CHAIN) == (1, 1.0, 0.25)


def test_a_dag_stays_and_of_cycles_as_few_small_weights_go_as_do() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        weight = torch.from_numpy(random.uniform(-1, 1, (7, 7)))
        dag = to_dag(weight, 0.3)
        assert nx.is_directed_acyclic_graph(nx.DiGraph(dag.numpy()))
        kept = dag != 0
        assert torch.equal(dag[kept], weight[kept])
        assert torch.equal(to_dag(dag, 0.3), dag)
        gone = (weight.abs() > 0.3) & ~kept  # by one: the greatest that is gone would close a cycle again
        greatest = torch.where(gone, weight.abs(), 0).argmax()
        dag.view(-1)[greatest] = weight.view(-1)[greatest]
        assert not nx.is_directed_acyclic_graph(nx.DiGraph(dag.numpy()))
    cycle = torch.tensor([[0.0, 0.9], [-0.5, 0.0]])
    assert to_dag(cycle, 0.3).tolist() == [[0.0, cycle[0, 1].item()], [0.0, 0.0]]
    assert not to_dag(torch.full((2, 2), 0.3), 0.3).any()
