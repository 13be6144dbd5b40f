"""What processes exchange when process 0 collects the rows of all of them, as for a checkpoint."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lightning_modules.distributed import per_sample
from lightning_modules.distributed.per_sample import PerSample
from tests.two_processes import TwoProcesses

K = 3
CASES = [(47, 10, 10), (48, 10, 10), (7, 1, 2), (1, 10, 2), (20, 20, 20)]  # samples, bound, rows that are exchanged


def expected(num_samples: int) -> torch.Tensor:
    """Each row holds the number of its sample."""
    return torch.arange(num_samples, dtype=torch.float64)[:, None].expand(-1, K)


def collect(directory: str) -> None:
    """Saves, for each case, what is collected and the most rows of both processes that are exchanged at once."""
    dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=2)
    exchanged: list[int] = []

    def watched(tensor: torch.Tensor, gathered: Any, collective: Any) -> None:
        exchanged.append(2 * len(tensor))
        collective(tensor, gathered)

    gather, all_gather = dist.gather, dist.all_gather
    dist.gather = lambda tensor, gathered: watched(tensor, gathered, gather)
    dist.all_gather = lambda gathered, tensor: watched(tensor, gathered, lambda own, others: all_gather(others, own))
    found = []
    for num_samples, rows_at_once, _ in CASES:
        exchanged.clear()
        per_sample._ROWS_AT_ONCE = rows_at_once
        memory = PerSample(K)
        memory.restore(expected(num_samples))
        memory.allocate(num_samples, "cpu", torch.float64)
        found.append((memory.gathered(), max(exchanged)))
    torch.save(found, Path(directory) / f"{dist.get_rank()}.pt")


def test_process_0_collects_every_row_and_a_bounded_number_of_them_at_once(
    two_processes: TwoProcesses, tmp_path: Path
) -> None:
    for process in two_processes(collect, str(tmp_path)):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for (num_samples, _, most), (rows, exchanged), (none, of_other) in zip(CASES, first, second, strict=True):
        assert torch.equal(rows, expected(num_samples))
        assert len(none) == 0
        assert exchanged == of_other == most
