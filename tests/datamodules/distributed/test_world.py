from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from datamodules.distributed import world
from datamodules.distributed.world import all_reduce_sum, broadcast, is_distributed, rank, world_size


def what_it_says() -> dict[str, Any]:
    value = torch.tensor([1.0 + rank(), 2.0], requires_grad=True)
    total = all_reduce_sum(value)
    return {
        "distributed": is_distributed(), "rank": rank(), "world_size": world_size(), "value": value.tolist(),
        "total": total.tolist(), "gradient": total.requires_grad, "message": broadcast(("from", rank())),
    }  # fmt: skip


def process(number: int, directory: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=number, world_size=2)
    torch.save(what_it_says(), f"{directory}/{number}.pt")
    dist.destroy_process_group()


def test_without_a_process_group_there_is_one_process() -> None:
    assert what_it_says() == {
        "distributed": False, "rank": 0, "world_size": 1, "value": [1, 2], "total": [1, 2], "gradient": False,
        "message": ("from", 0),
    }  # fmt: skip


def test_two_processes_have_numbers_a_sum_and_one_message(tmp_path: Path) -> None:
    context = mp.start_processes(process, (str(tmp_path),), nprocs=2, join=False, start_method="fork")
    assert context is not None
    while not context.join(600):
        pass
    for number in range(2):
        assert torch.load(tmp_path / f"{number}.pt") == {
            "distributed": True, "rank": number, "world_size": 2, "value": [1 + number, 2], "total": [3, 4],
            "gradient": False, "message": ("from", 0),
        }  # fmt: skip


def test_a_transposed_tensor_is_summed_as_nccl_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced: list[torch.Tensor] = []
    monkeypatch.setattr(world, "world_size", lambda: 2)
    monkeypatch.setattr(world.dist, "all_reduce", reduced.append)
    value = torch.arange(6.0).view(2, 3).T
    assert all_reduce_sum(value) is reduced[0]
    assert reduced[0].is_contiguous()
    assert torch.equal(reduced[0], value)
