"""Shards of a training set for the nodes of a network, whose classes are unevenly mixed, and batches of all nodes.

Of each class a node has as many samples as a draw from a Dirichlet distribution says, so that a small concentration
gives each node few classes, and a large one all nodes the same mix.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, positive
from datamodules.distributed.collectives import block
from datamodules.loading.global_batches import GlobalBatches, Request


def dirichlet_shards(label: Tensor, num_classes: int, nodes: int, alpha: float, seed: int) -> list[Tensor]:
    """Draw each node's samples: of class k floor(p_k N / n) of them without repetition, for p ~ Dirichlet(alpha, ...).

    Nodes draw from all N samples, so that two may have the same one. A class that has fewer samples gives all of them.

    Args:
        label: `[N]`, int64.
        num_classes: K.
        nodes: n.
        alpha: concentration, the same for all classes.
        seed: random seed of the shards.

    Returns:
        For each node its positions, int64, class by class.
    """
    random = np.random.default_rng([seed, 5])
    of_class = [np.flatnonzero(label.numpy() == category) for category in range(num_classes)]
    counts = np.floor(random.dirichlet([alpha] * num_classes, size=nodes) * len(label) / nodes).astype(int)
    return [
        torch.from_numpy(
            np.concatenate(
                [
                    random.choice(rows, min(count, len(rows)), replace=False)
                    for rows, count in zip(of_class, own, strict=True)
                ]
            )
        )
        for own in counts
    ]


class NodeBatches(GlobalBatches):
    """Batches that hold equally many samples of each node, those of a node one after the other.

    Each node goes through its shard in a new order each time; a batch that begins near its end goes on with the next
    order. The draws are a function of (seed, node, batch), whatever the number of processes. A process gets the samples
    of the nodes in its `block`.

    Args:
        shards: of each node its positions in the set.
        batch_size: samples of a batch over all nodes.
        batches: batches of an epoch.
        growing: whether the t-th batch of a training, from 0, has t + 1 samples of each node.
        rank: this process.
        world_size: number of processes.
        seed: random seed of the orders.
        epoch: the epoch to begin with.
        resumed: an epoch, and its batches that are left out, as they were trained on before an interruption.
    """

    def __init__(
        self,
        shards: Sequence[Tensor],
        batch_size: int,
        batches: int,
        growing: bool,
        rank: int,
        world_size: int,
        seed: int,
        epoch: int,
        resumed: tuple[int, int],
    ) -> None:
        super().__init__(batches * batch_size, batch_size, rank, world_size, True, seed, epoch, resumed)
        self.shards = shards
        self.growing = growing

    def __iter__(self) -> Iterator[Request]:
        epoch, batches, nodes = self.epoch, len(self), len(self.shards)
        first = self.resumed[1] if epoch == self.resumed[0] else 0
        order = lru_cache(2 * nodes)(self._order_of)  # many batches read from one
        for batch_number in range(epoch * batches + first, (epoch + 1) * batches):
            size = batch_number + 1 if self.growing else self.batch_size // nodes
            start = batch_number * (batch_number + 1) // 2 if self.growing else batch_number * size
            own = [self._drawn(node, start, size, order) for node in block(nodes, self.rank, self.world_size)]
            yield Request(torch.cat(own), batch_number, nodes * size)

    def _order_of(self, node: int, number: int) -> np.ndarray:
        """Draw the n-th order of a node's samples."""
        return np.random.default_rng([self.seed, 6, node, number]).permutation(len(self.shards[node]))

    def _drawn(self, node: int, start: int, size: int, order: Callable[[int, int], np.ndarray]) -> Tensor:
        """Take `size` samples from the places after `start` in a node's orders, one order after the other."""
        shard = self.shards[node]
        first, last = start // len(shard), (start + size - 1) // len(shard)
        orders = [order(node, number) for number in range(first, last + 1)]
        place = start - first * len(shard)
        return shard[torch.from_numpy(np.concatenate(orders)[place : place + size])]


class NodeShards:
    """Deal a training set out to the nodes of a network, by Dirichlet-distributed shares of its classes.

    Args:
        nodes: number of nodes that have data.
        alpha: concentration of the Dirichlet distribution; a node has few classes where it is small, and all alike
            where it is large.
        batches_per_epoch: batches of an epoch, in each of which each node has its share of the batch size.
        growing: let each node have t + 1 samples in the t-th batch, from 0, whatever the batch size.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, nodes: int, alpha: float, batches_per_epoch: int, growing: bool = False) -> None:
        at_least(1, nodes=nodes, batches_per_epoch=batches_per_epoch)
        positive(alpha=alpha)
        self.nodes = nodes
        self.alpha = alpha
        self.batches_per_epoch = batches_per_epoch
        self.growing = growing

    def check(self, batch_size: int) -> None:
        """Refuse a batch size that is not shared equally.

        Raises:
            ValueError: names both.
        """
        if batch_size % self.nodes:
            raise ValueError(f"batch_size must be a multiple of shards.nodes, {self.nodes}, got {batch_size}")

    def draw(self, label: Tensor, num_classes: int, seed: int) -> list[Tensor]:
        """Draw the shards, see `dirichlet_shards`.

        Raises:
            ValueError: if a node would have no sample.
        """
        shards = dirichlet_shards(label, num_classes, self.nodes, self.alpha, seed)
        if empty := [node for node, shard in enumerate(shards) if not len(shard)]:
            raise ValueError(
                f"shards.nodes {self.nodes} and alpha {self.alpha} leave node {empty[0]} no sample of {len(label)}: "
                f"take fewer nodes or a larger alpha"
            )
        return shards
