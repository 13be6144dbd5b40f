"""Each node's shard has the drawn size, and for any number of processes, each node's batches come from its shard."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.distributed.collectives import block
from datamodules.loading import Loading
from datamodules.loading.node_shards import NodeBatches, NodeShards, dirichlet_shards

LABEL = torch.arange(600) % 10


def batches(rank: int = 0, processes: int = 1, epoch: int = 0, resumed: int = 0, growing: bool = False) -> list[Any]:
    shards = [torch.arange(0, 7), torch.arange(10, 23), torch.arange(30, 35), torch.arange(40, 49)]
    return list(NodeBatches(shards, 12, 5, growing, rank, processes, 3, epoch, (epoch, resumed)))


def test_of_each_class_a_node_has_its_share_and_no_sample_twice() -> None:
    shards = dirichlet_shards(LABEL, 10, 4, 1.0, seed=7)
    expected = np.floor(np.random.default_rng([7, 5]).dirichlet(np.ones(10), size=4) * 150)
    for shard, counts in zip(shards, expected, strict=True):
        assert len(shard.unique()) == len(shard)
        assert LABEL[shard].bincount(minlength=10).tolist() == np.minimum(counts, 60).tolist()
    assert len(torch.cat(shards).unique()) < len(torch.cat(shards))  # nodes share some samples
    again = dirichlet_shards(LABEL, 10, 4, 1.0, seed=7)
    assert all(one.equal(other) for one, other in zip(shards, again, strict=True))
    assert not shards[0].equal(dirichlet_shards(LABEL, 10, 4, 1.0, seed=8)[0])


def test_the_concentration_says_how_alike_the_nodes_are() -> None:
    few, alike = (dirichlet_shards(LABEL, 10, 5, alpha, seed=0) for alpha in (0.05, 1e4))
    assert max(len(LABEL[shard].unique()) for shard in few) <= 5
    counts = torch.stack([LABEL[shard].bincount(minlength=10) for shard in alike])
    assert int(counts.max() - counts.min()) <= 1


def of_node(requests: list[Any], node: int, size: int = 3) -> Tensor:
    return torch.cat([request.indices.view(-1, size)[node] for request in requests])


def test_each_node_goes_through_its_shard_again_and_again() -> None:
    requests = [request for epoch in range(6) for request in batches(epoch=epoch)]
    assert [request.epoch for request in requests] == list(range(30))
    assert {request.global_batch_size for request in requests} == {12}
    for node, (first, length) in enumerate(((0, 7), (10, 13), (30, 5), (40, 9))):
        stream = of_node(requests, node)
        for start in range(0, len(stream) - length + 1, length):
            assert stream[start : start + length].sort().values.tolist() == list(range(first, first + length))
        assert not stream[:length].equal(stream[length : 2 * length])


@pytest.mark.parametrize("growing", [False, True])
def test_processes_have_the_samples_of_their_nodes_and_go_on_within_an_epoch(growing: bool) -> None:
    for resumed in (0, 3):
        alone = batches(epoch=1, resumed=resumed, growing=growing)
        assert [each.epoch for each in alone] == list(range(5 + resumed, 10))
        for rank in range(3):
            own = block(4, rank, 3)
            for whole, part in zip(alone, batches(rank, 3, 1, resumed, growing), strict=True):
                nodes = whole.indices.view(4, -1)
                assert part.indices.equal(nodes[own.start : own.stop].flatten())
                assert part.global_batch_size == whole.global_batch_size == len(whole.indices)


def test_growing_batches_have_one_sample_more_each_time_and_skip_none() -> None:
    requests = batches(growing=True) + batches(epoch=1, growing=True)
    assert [len(request.indices) for request in requests] == [4 * size for size in range(1, 11)]
    stream = torch.cat([request.indices.view(4, -1)[1] for request in requests])
    assert stream[:13].sort().values.tolist() == list(range(10, 23))
    assert stream[13:26].sort().values.tolist() == list(range(10, 23))


def test_a_data_module_gives_each_node_images_of_its_own_shard() -> None:
    data = LabelledImages(
        Digits(), batch_size=20, shards=NodeShards(4, 0.5, batches_per_epoch=3), loading=Loading(seed=2)
    )
    data.setup("fit")
    shards = NodeShards(4, 0.5, 3).draw(data.train_set.given, 10, 2)  # type: ignore[union-attr]
    loaded = list(data.train_dataloader())
    assert len(loaded) == 3
    for batch in loaded:
        for node, index in enumerate(batch["index"].view(4, 5)):
            assert set(index.tolist()) <= set(shards[node].tolist())
        assert len(batch["image"]) == batch["global_batch_size"] == 20
