"""Samples from linear structural equation models whose graph, weights and noise are known."""

from collections.abc import Mapping

import numpy as np
import torch

from datamodules.arguments import at_least, one_of, positive, within
from datamodules.corruptions.value_noise import GaussianValues, ValueNoise
from datamodules.graphs.random_graphs import GraphKind, acyclic_graph, edge_weights, observations
from datamodules.tables.table_set import Rows, TableSet


class LinearSEM(TableSet):
    """Samples of x = W^T x + z on a random graph with one value per node, as in the experiments of CoLiDE.

    Edge weights are sampled uniformly from the union of [-2, -0.5] and [0.5, 2]. The test set equals the training set,
    because testing evaluates the estimated graph.

    Args:
        nodes: number of nodes, d.
        edges: expected number of edges, for example 400 for ER4 with 100 nodes.
        graph: distribution from which the graph is sampled.
        noise: distribution of the noise of each node, before the noise is rescaled to `variance`.
        variance: variance of the noise of all nodes, or a range from which the variance for each node is sampled
            uniformly.
        samples: number of rows, n.
        seed: seed of the graph, the weights and the noise. None means the seed of the DataModule.
    """

    def __init__(
        self,
        nodes: int = 20,
        edges: int = 40,
        graph: GraphKind = "erdos_renyi",
        noise: ValueNoise = GaussianValues(),  # noqa: B008 - it is frozen
        variance: float | tuple[float, float] = 1.0,
        samples: int = 1000,
        seed: int | None = None,
    ) -> None:
        at_least(2, nodes=nodes, samples=samples)
        one_of(("erdos_renyi", "scale_free"), graph=graph)
        within(1, nodes * (nodes - 1) / 2, edges=edges)
        if graph == "scale_free":
            within(1, nodes, "[)", edges_per_node=round(edges / nodes))
        self.low, self.high = variance if isinstance(variance, tuple | list) else (variance, variance)
        positive(variance=self.low)
        at_least(self.low, upper_end_of_variance=self.high)
        if not np.isfinite(noise.variance):
            raise ValueError(f"noise must have a finite variance, got {noise}")
        self.nodes = nodes
        self.edges = edges
        self.graph: GraphKind = graph
        self.noise = noise
        self.samples = samples
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.nodes,)}

    def training(self) -> Rows:
        random = np.random.default_rng([self.seed or 0, 0])
        weight = edge_weights(acyclic_graph(self.graph, self.nodes, self.edges, random), 0.5, 2.0, random)
        std = np.sqrt(random.uniform(self.low, self.high, self.nodes))
        unit = self.noise.draw((self.samples, self.nodes), random) / np.sqrt(self.noise.variance)
        truth = {"w_true": torch.from_numpy(weight), "noise_std": torch.from_numpy(std)}
        return Rows({"features": torch.from_numpy(observations(weight, unit * std))}, truth)

    def test(self) -> Rows:
        return self.training()
