from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.loading.one_size_batches import BucketBatches, OneSizeBatches

SIZES = ((20, 31), (25, 17), (20, 31), (16, 16))


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (3, 1), (1, 2), (4, 2), (4, 3), (1, 4)])
def test_whole_images_are_dealt_out_once_in_batches_of_one_size(batch_size: int, world_size: int) -> None:
    requests = [list(OneSizeBatches(SIZES, batch_size, rank, world_size)) for rank in range(world_size)]
    seen = [position for each in requests for request in each for position in request.indices.tolist()]
    assert sorted(seen) == [0, 1, 2, 3]
    assert all(each for each in requests)
    assert all(len({SIZES[i] for i in r.indices.tolist()}) == 1 for each in requests for r in each)
    for turn, first in enumerate(requests[0]):
        assert first.global_batch_size == sum(len(each[turn].indices) for each in requests if turn < len(each))
    if (batch_size, world_size) == (3, 1):
        assert [r.indices.tolist() for r in requests[0]] == [[0, 2], [1], [3]]


def buckets(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


def epoch_of(bucket: np.ndarray, batch_size: int, world_size: int, **options: Any) -> list[tuple[int, list[int]]]:
    """Return the global batches of an epoch, each with its size; the parts of all ranks are merged."""
    names = [str(number) for number in range(bucket.max() + 1)]
    ranks = [list(BucketBatches(bucket, batch_size, names, rank, world_size, **options)) for rank in range(world_size)]
    found = []
    for parts in zip(*ranks, strict=True):
        whole = [0] * parts[0].global_batch_size
        for rank, part in enumerate(parts):
            assert len(part.indices) > 0
            whole[rank::world_size] = part.indices.tolist()
        found.append((parts[0].epoch, whole))
    return found


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5), batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4), seed=st.integers(0, 3),
)  # fmt: skip
def test_an_epoch_has_every_image_once_in_batches_of_one_bucket(
    counts: list[int], batch_size: int, world_size: int, seed: int
) -> None:
    if world_size > min(*counts, batch_size):
        return
    bucket = buckets(counts)
    epoch = epoch_of(bucket, batch_size, world_size, seed=seed)
    sampler = BucketBatches(bucket, batch_size, list("01234"), 0, world_size, seed)
    assert len(sampler) == len(epoch)
    seen = [image for _, batch in epoch for image in batch]
    assert len(set(seen)) == len(seen) == len(bucket) - sampler.num_left_out
    assert all(len(set(bucket[batch])) == 1 and len(batch) <= batch_size for _, batch in epoch)
    if 2 * world_size <= batch_size:
        assert sampler.num_left_out == 0
        assert epoch == epoch_of(bucket, batch_size, 1, seed=seed)
    assert sampler.num_left_out < len(counts) * world_size


def test_batches_of_a_bucket_are_of_nearly_one_size_and_shuffled_anew_each_epoch() -> None:
    bucket = buckets([9, 6])
    first, second = (epoch_of(bucket, 4, 2, epoch=epoch) for epoch in (0, 1))
    assert sorted(len(batch) for _, batch in first) == [3, 3, 3, 3, 3]
    assert [batch for _, batch in first] != [batch for _, batch in second]
    assert {epoch for epoch, _ in second} == {1}
    assert {bucket[batch[0]] for _, batch in first[:4]} == {0, 1}


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_interrupted_epoch_goes_on_where_it_was(world_size: int) -> None:
    bucket = buckets([9, 6, 2])
    whole = epoch_of(bucket, 4, world_size, epoch=3, seed=5)
    assert epoch_of(bucket, 4, world_size, epoch=3, seed=5, resumed=(3, 2)) == whole[2:]
    assert epoch_of(bucket, 4, world_size, epoch=3, seed=5, resumed=(2, 2)) == whole


def test_more_ranks_than_a_bucket_has_images_are_rejected() -> None:
    with pytest.raises(ValueError, match="the bucket 64 x 32 has 2 training images, fewer than the 3 ranks: use at m"):
        BucketBatches(buckets([9, 2]), 4, ["48 x 48", "64 x 32"], 0, 3)
    with pytest.raises(ValueError, match=r"batch_size 2 \(over all ranks\) is below the number of ranks, 3"):
        BucketBatches(buckets([9, 9]), 2, ["48 x 48", "64 x 32"], 0, 3)
