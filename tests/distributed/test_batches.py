"""Training with a user's own loader, whose batches do not state the number of samples over all processes."""

import os

import torch
import torch.distributed as dist

from datamodules.batches import global_batch_size, loss_weight
from tests.two_processes import in_two_processes


def sizes_and_shares() -> tuple[list[int], list[float]]:
    dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=2)
    mine = (3, 1)[dist.get_rank()]
    # Neither function relies on a particular key.
    batches: list[dict] = [
        {"noisy": torch.zeros(5, 1)},
        {"name": [], "index": torch.zeros(mine), "global_batch_size": 4},
    ]
    return [global_batch_size(batch) for batch in batches], [loss_weight(batch) for batch in batches]


def test_a_batch_that_does_not_say_its_size_counts_as_evenly_shared() -> None:
    first, second = in_two_processes(sizes_and_shares)
    assert first == ([10, 4], [1.0, 1.5])
    assert second == ([10, 4], [1.0, 0.5])
