from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datamodules.loading.global_batches import GlobalBatches, Request

SIZES = {"num_samples": st.integers(1, 60), "batch_size": st.integers(1, 20), "world_size": st.integers(1, 5)}


def shares(num_samples: int, batch_size: int, world_size: int, **options: Any) -> list[list[Request]]:
    """Return the requests of every process."""
    return [list(GlobalBatches(num_samples, batch_size, rank, world_size, **options)) for rank in range(world_size)]


def merged(requests: list[list[Request]]) -> list[Tensor]:
    """Merge the requests into global batches: sample i of process r of W is sample r + i W of the global batch."""
    batches = []
    for of_batch in zip(*requests, strict=True):
        batch = torch.full((of_batch[0].global_batch_size,), -1)
        for rank, request in enumerate(of_batch):
            batch[rank :: len(requests)] = request.indices
        batches.append(batch)
    return batches


def allowed(num_samples: int, batch_size: int, world_size: int, shuffle: bool) -> bool:
    return world_size <= min(batch_size, num_samples) and not (shuffle and batch_size > num_samples)


@settings(max_examples=300, deadline=None)
@given(**SIZES)
def test_evaluation_visits_every_sample_once_in_its_own_order(
    num_samples: int, batch_size: int, world_size: int
) -> None:
    if not allowed(num_samples, batch_size, world_size, shuffle=False):
        return
    requests = shares(num_samples, batch_size, world_size)
    assert torch.cat(merged(requests)).tolist() == list(range(num_samples))
    for of_rank in requests:
        assert all(len(request.indices) >= 1 for request in of_rank)
        assert len(of_rank) == len(GlobalBatches(num_samples, batch_size, 0, world_size))
    sizes = [request.global_batch_size for request in requests[0]]
    assert all(size == batch_size for size in sizes[:-1])
    if (
        len(sizes) > 1
    ):  # a short last batch is kept, or merged with the previous one if it would leave a process without samples
        remainder = num_samples % batch_size
        assert sizes[-1] == (batch_size + remainder if remainder < world_size else remainder)


@settings(max_examples=300, deadline=None)
@given(**SIZES, seed=st.integers(0, 3), epoch=st.integers(0, 3), passes=st.integers(1, 3))
def test_training_visits_every_sample_once_a_pass_but_for_a_last_batch_too_small_to_share(
    num_samples: int, batch_size: int, world_size: int, seed: int, epoch: int, passes: int
) -> None:
    if not allowed(num_samples, batch_size, world_size, shuffle=True):
        return
    requests = shares(num_samples, batch_size, world_size, shuffle=True, seed=seed, epoch=epoch, passes=passes)
    batches = merged(requests)
    assert len(batches) % passes == 0
    remainder = num_samples % batch_size
    left_out = remainder if remainder < 2 * world_size else 0
    for number in range(passes):
        of_pass = batches[number * len(batches) // passes : (number + 1) * len(batches) // passes]
        visited = torch.cat(of_pass).tolist()
        assert len(set(visited)) == len(visited) == num_samples - left_out
        assert set(visited) <= set(range(num_samples))
        assert all(len(batch) == batch_size for batch in of_pass[:-1])
    assert GlobalBatches(num_samples, batch_size, 0, world_size, shuffle=True).num_left_out == left_out
    assert {len(of_rank) for of_rank in requests} == {len(batches)}
    if remainder and not left_out:
        assert all(len(of_rank[-1].indices) >= 2 for of_rank in requests)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(8, 60), st.integers(4, 20), st.integers(2, 4), st.integers(0, 5), st.integers(0, 5), st.integers(1, 2)
)
def test_global_batches_do_not_depend_on_the_number_of_processes(
    num_samples: int, batch_size: int, world_size: int, seed: int, epoch: int, passes: int
) -> None:
    """Compare only batches that exist for both world sizes, because these may drop different numbers of samples."""
    batch_size = min(batch_size, num_samples)
    options = {"shuffle": True, "seed": seed, "epoch": epoch, "passes": passes}
    alone, shared = (merged(shares(num_samples, batch_size, world, **options)) for world in (1, world_size))
    of_pass_alone, of_pass_shared = len(alone) // passes, len(shared) // passes
    for number in range(passes):
        together = shared[number * of_pass_shared : (number + 1) * of_pass_shared]
        for one, other in zip(alone[number * of_pass_alone :], together, strict=False):
            assert torch.equal(one, other)


def test_the_order_is_a_function_of_seed_epoch_and_pass() -> None:
    def order(seed: int, epoch: int, passes: int = 1) -> list[int]:
        return torch.cat(merged(shares(40, 10, 2, shuffle=True, seed=seed, epoch=epoch, passes=passes))).tolist()

    assert order(1, 2) == order(1, 2)
    first, second = order(1, 2, passes=2)[:40], order(1, 2, passes=2)[40:]
    assert first == order(1, 2)
    different = [tuple(each) for each in (first, second, order(1, 3), order(2, 2))]
    assert len(set(different)) == 4
    assert all(sorted(each) == list(range(40)) for each in different)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 12), st.integers(1, 3), st.integers(1, 3))
def test_a_resumed_epoch_continues_where_it_stopped_and_the_next_is_whole(
    first_batch: int, world_size: int, passes: int
) -> None:
    options: dict[str, Any] = {"world_size": world_size, "shuffle": True, "seed": 1, "passes": passes}
    whole = GlobalBatches(43, 10, epoch=3, **options)
    resumed = GlobalBatches(43, 10, epoch=3, resumed=(3, first_batch), **options)
    rest = [(each.indices.tolist(), each.epoch) for each in resumed]
    assert rest == [(each.indices.tolist(), each.epoch) for each in whole][first_batch:]
    assert len(resumed) == len(whole)  # the number that Lightning uses to count batches
    whole.set_epoch(4)
    resumed.set_epoch(4)
    assert [each.indices.tolist() for each in resumed] == [each.indices.tolist() for each in whole]


def test_visits_are_counted_over_passes_and_epochs() -> None:
    """In an epoch that trains two networks one after the other, the two therefore get different augmentations."""
    batches = GlobalBatches(20, 10, shuffle=True, passes=2)
    visits = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        visits += [request.epoch for request in batches]
    assert visits == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_draw_takes_the_place_of_the_permutation() -> None:
    def draw(random: np.random.Generator) -> np.ndarray:
        return 100 + random.permutation(12)

    requests = shares(12, 5, 2, shuffle=True, seed=1, epoch=2, draw=draw)
    assert sorted(torch.cat(merged(requests)).tolist()) != list(range(100, 112))  # 12 = 5 + 5 + 2, and 2 < 2 * 2
    assert len(torch.cat(merged(requests))) == 10
    again = shares(12, 5, 2, shuffle=True, seed=1, epoch=2, draw=draw)
    other = shares(12, 5, 2, shuffle=True, seed=1, epoch=3, draw=draw)
    assert torch.equal(torch.cat(merged(requests)), torch.cat(merged(again)))
    assert not torch.equal(torch.cat(merged(requests)), torch.cat(merged(other)))
