import pytest

from datamodules.loading.one_size_batches import OneSizeBatches

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
