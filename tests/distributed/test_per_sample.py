"""Rows of values for each training sample: kept, restored, and collected by process 0, as for a checkpoint."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lightning_modules.distributed import per_sample
from lightning_modules.distributed.per_sample import PerSample
from tests.two_processes import TwoProcesses

K = 3
CASES = [(47, 10, 10), (48, 10, 10), (7, 1, 2), (1, 10, 2), (20, 20, 20)]  # samples, limit, and exchanged rows


def expected(num_samples: int) -> torch.Tensor:
    """Return rows filled with the sample's number."""
    return torch.arange(num_samples, dtype=torch.float64)[:, None].expand(-1, K)


def collect(directory: str) -> None:
    """Save, for each case, the collected rows and the largest number of rows exchanged at once by both processes."""
    dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=2)
    exchanged: list[int] = []

    def watched(tensor: torch.Tensor, gathered: Any, collective: Any) -> None:
        exchanged.append(2 * len(tensor))
        collective(tensor, gathered)

    gather, all_gather = dist.gather, dist.all_gather
    dist.gather = lambda tensor, gathered: watched(tensor, gathered, gather)
    dist.all_gather = lambda gathered, tensor: watched(tensor, gathered, lambda own, others: all_gather(others, own))
    found = []
    for number, (num_samples, rows_at_once, _) in enumerate(CASES):
        exchanged.clear()
        by_numbers = number % 2  # the limit is a number of rows, or of values in them
        per_sample._ROWS_AT_ONCE = 1 << 16 if by_numbers else rows_at_once
        per_sample._NUMBERS_AT_ONCE = K * rows_at_once if by_numbers else 1 << 27
        memory = PerSample(K)
        memory.restore(expected(num_samples))
        memory.allocate(num_samples, "cpu", torch.float64, exchange="cpu")
        found.append((memory.gather(), max(exchanged)))
    torch.save(found, Path(directory) / f"{dist.get_rank()}.pt")


def test_process_0_collects_every_row_and_a_bounded_number_of_them_at_once(
    two_processes: TwoProcesses, tmp_path: Path
) -> None:
    for process in two_processes(collect, str(tmp_path)):
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for (num_samples, _, most), (rows, exchanged), (none, of_other) in zip(CASES, first, second, strict=True):
        assert torch.equal(rows, expected(num_samples))
        assert len(none) == 0
        assert exchanged == of_other == most


def test_rows_belong_to_the_sample_and_not_to_its_place_in_the_batch() -> None:
    index, value = torch.randperm(50)[:6], torch.rand(6, K, dtype=torch.float64)
    tables = []
    for order in (torch.arange(6), torch.randperm(6)):
        memory = PerSample(K).allocate(50, "cpu", torch.float64)
        new = memory.update(index[order], value[order], lambda old, new: 0.5 * old + new)
        assert torch.equal(new, value[order])
        tables.append(memory.gather())
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0][index], value)
    assert tables[0].count_nonzero() == 6 * K


def test_a_checkpoint_of_one_process_makes_no_second_table(tmp_path: Path) -> None:
    """In earlier versions, the table (5.2 GB for ImageNet) was in memory twice at checkpoints and in resumed runs."""
    memory = PerSample(K).allocate(50, "cpu", torch.float64)
    index, value = torch.arange(50), torch.rand(50, K, dtype=torch.float64)
    memory.update(index, value, lambda old, new: new)
    written, kept = memory.gather(copy=False), memory.gather()
    assert written.untyped_storage().data_ptr() == memory._rows.untyped_storage().data_ptr()
    torch.save(written, tmp_path / "saved.pt")
    memory.update(index, value, lambda old, new: old + new)
    assert torch.equal(kept, value)
    saved = torch.load(tmp_path / "saved.pt")
    assert torch.equal(saved, value)
    again = PerSample(K)
    again.restore(saved)
    again.allocate(50, "cpu", torch.float64).update(index, value, lambda old, new: old + new)
    assert torch.equal(again.gather(), memory.gather())
    assert torch.equal(saved, value)
    assert not again._restored.untyped_storage().nbytes()


def test_half_precision_storage_rounds_and_nothing_else() -> None:
    value = torch.rand(2, K)
    rows = PerSample(K).allocate(4, "cpu", torch.float16).update(torch.tensor([0, 2]), value, lambda old, new: new)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, value.half().float())


def test_a_training_begins_with_what_was_restored_and_the_next_one_anew() -> None:
    memory, rows = PerSample(K), torch.rand(5, K)
    memory.restore(rows)
    assert torch.equal(memory.gather(), rows)
    assert memory.allocate(5, "cpu") is memory
    assert torch.equal(memory.gather(), rows)
    assert (memory.allocate(7, "cpu").gather() == torch.zeros(7, K)).all()
    memory.restore(rows[:0])  # the state in a checkpoint before any training
    assert (memory.allocate(5, "cpu").gather() == 0).all()


@pytest.mark.parametrize("shape", [(4, K), (6, K + 1)])
def test_state_of_another_size_is_refused(shape: tuple[int, int]) -> None:
    memory = PerSample(K)
    memory.restore(torch.zeros(shape))
    with pytest.raises(ValueError, match=rf"\[{shape[0]}, {shape[1]}\].*\[6, {K}\]"):
        memory.allocate(6, "cpu")
