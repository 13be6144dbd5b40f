"""Split a training set into non-i.i.d. shards for decentralised nodes, and form batches with samples of all nodes.

The class proportions of a node are sampled from a Dirichlet distribution. With a small concentration, each node has few
classes. With a large concentration, all nodes have nearly the same class proportions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, positive
from datamodules.distributed.collectives import block
from datamodules.loading.global_batches import GlobalBatches, Request


def dirichlet_shards(label: Tensor, num_classes: int, nodes: int, alpha: float, seed: int) -> list[Tensor]:
    """Sample shards of a training set of N samples for n nodes.

    A shard has floor(p_k N / n) samples of class k, drawn without replacement, where p ~ Dirichlet(alpha, ...).

    Nodes sample independently from all N samples, so shards may overlap. A class with fewer samples contributes all of
    its samples.

    Args:
        label: labels of the training set, `[N]`, int64.
        num_classes: number of classes, K.
        nodes: number of nodes, n.
        alpha: concentration of the Dirichlet distribution, the same for all classes.
        seed: seed from which the shards are sampled.

    Returns:
        For each node, the positions of its samples, int64, sorted by class.
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
    """Sampler of batches. Each batch has the same number of samples from every node, grouped by node.

    Each node iterates over its shard repeatedly, each time in a new random order. A batch may span the end of one pass
    and the start of the next pass. The samples of a batch depend only on (seed, node, batch), not on the number of
    ranks. A rank gets the samples of the nodes that `block` assigns to it.

    Args:
        shards: positions of the samples of each node in the dataset.
        batch_size: number of samples per batch, over all nodes.
        batches: number of batches per epoch.
        growing: whether batches grow. If so, training batch t, counted from 0, has t + 1 samples of each node.
        rank: rank of this process.
        world_size: number of ranks.
        seed: seed of the random orders of the nodes.
        epoch: first epoch.
        resumed: epoch to resume, and number of its batches to skip because training used them before the interruption.
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
        start = self._start(epoch * batches)
        own = block(nodes, self.rank, self.world_size)
        samples = torch.stack([self._samples(node, start, self._start((epoch + 1) * batches)) for node in own])
        first = self.resumed[1] if epoch == self.resumed[0] else 0
        for number in range(epoch * batches + first, (epoch + 1) * batches):
            of_batch = samples[:, self._start(number) - start : self._start(number + 1) - start]
            yield Request(of_batch.flatten(), number, nodes * of_batch.shape[1])

    def _start(self, batch: int) -> int:
        """Return the number of samples of each node before the training batch with the index `batch`."""
        return batch * (batch + 1) // 2 if self.growing else batch * (self.batch_size // len(self.shards))

    def _samples(self, node: int, start: int, stop: int) -> Tensor:
        """Return the samples of a node at the positions from `start` to `stop` of its concatenated random orders."""
        shard = self.shards[node]
        passes = range(start // len(shard), -(-stop // len(shard)))
        order = [np.random.default_rng([self.seed, 6, node, each]).permutation(len(shard)) for each in passes]
        place = start - passes.start * len(shard)
        return shard[torch.from_numpy(np.concatenate(order)[place : place + stop - start])]


class NodeShards:
    """Split a training set among nodes, with Dirichlet-distributed class proportions.

    Args:
        nodes: number of nodes that have data.
        alpha: concentration of the Dirichlet distribution. If it is small, each node has few classes. If it is large,
            all nodes have nearly the same class proportions.
        batches_per_epoch: number of batches per epoch. All nodes contribute equally to every batch.
        growing: whether batches grow. If so, batch t, counted from 0, has t + 1 samples of each node, and the batch
            size is not used.
    """

    def __init__(self, nodes: int, alpha: float, batches_per_epoch: int, growing: bool = False) -> None:
        at_least(1, nodes=nodes, batches_per_epoch=batches_per_epoch)
        positive(alpha=alpha)
        self.nodes = nodes
        self.alpha = alpha
        self.batches_per_epoch = batches_per_epoch
        self.growing = growing

    def check(self, batch_size: int) -> None:
        """Check that the batch size is divisible by the number of nodes."""
        if batch_size % self.nodes:
            raise ValueError(f"batch_size must be a multiple of shards.nodes, {self.nodes}, got {batch_size}")

    def batches(self, label: Tensor, num_classes: int, batch_size: int, seed: int, **place: Any) -> NodeBatches:
        """Return the sampler of the batches; `place` holds the rank, world size, epoch and resumed batch."""
        shards = self.draw(label, num_classes, seed)
        return NodeBatches(shards, batch_size, self.batches_per_epoch, self.growing, seed=seed, **place)

    def draw(self, label: Tensor, num_classes: int, seed: int) -> list[Tensor]:
        """Sample the shards, see `dirichlet_shards`."""
        shards = dirichlet_shards(label, num_classes, self.nodes, self.alpha, seed)
        if empty := [node for node, shard in enumerate(shards) if not len(shard)]:
            raise ValueError(
                f"shards.nodes {self.nodes} and alpha {self.alpha} leave node {empty[0]} none of the {len(label)} "
                f"samples: use fewer nodes or a larger alpha"
            )
        return shards
