"""The place where a test measures: device, sizes, time limit, and the measured rows."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from callbacks.activation_memory import SavedBytes

T = TypeVar("T")
GIBIBYTE = 2**30
LIMIT = 24 * GIBIBYTE
"""Memory limit in a search for the largest batch; with this limit, a search takes only seconds on every GPU."""


class Row(NamedTuple):
    """One line of the page.

    Args:
        name: measured quantity.
        figure: value with its unit, as text.
        expected: required value; empty if there is none.
        ok: whether the value is as expected; None if nothing is expected.
    """

    name: str
    figure: str
    expected: str = ""
    ok: bool | None = None


@dataclass
class Place:
    """The device, folder and time limit of a test.

    Args:
        rehearse: whether to use the CPU and small sizes instead of the GPU.
        folder: folder of runs and other files that are kept.
        until: time (`time.time`) at which the test is ended.
        rows: what has been measured.
    """

    rehearse: bool
    folder: Path
    until: float
    rows: list[Row] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearse else "cuda")

    @property
    def accelerator(self) -> str:
        return "cpu" if self.rehearse else "gpu"

    def of(self, full: T, small: T) -> T:
        """Return `full` on the GPU, and `small` in a rehearsal."""
        return small if self.rehearse else full

    def keep(self, name: str, figure: str, expected: str = "", ok: bool | None = None) -> None:
        """Keep a row, and print it."""
        self.rows.append(Row(name, figure, expected, ok))
        print(f"{name}: {figure}")

    @property
    def scratch(self) -> Path:
        """The folder for files that are not results; all tests share it."""
        path = self.folder / "scratch"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int, warm: int = 2) -> float:
        """Measure the mean time of a function, including its work on the device."""
        for _ in range(warm):
            work()
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        self.wait()
        return (time.perf_counter() - start) / repeats

    def peak(self, work: Callable[[], object], network: nn.Module) -> int:
        """Measure a function's peak device memory in bytes; in a rehearsal, measure the bytes that autograd saves."""
        if self.device.type != "cuda":
            with SavedBytes(network) as counted:
                work()
            return counted.total
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


def largest(fits: Callable[[int], bool], most: int) -> int:
    """Find the largest number up to `most` that fits, to within an eighth, assuming that smaller numbers fit, too."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_difference(one: Any, other: Any) -> float:
    """Find the largest difference of two nested states; each tensor's is divided by its largest value or 1, if larger.

    If shapes, keys or lengths differ, the result is infinity.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return float("inf")
        return max((largest_difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return float("inf")
        return max((largest_difference(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape:
            return float("inf")
        one, other = (
            each.detach().cpu().to(torch.complex128 if each.is_complex() else torch.float64) for each in (one, other)
        )
        if not one.numel():
            return 0.0
        different = (one - other).abs()[~(one.isnan() & other.isnan())]
        scale = max(1.0, one.abs().nan_to_num().max().item())
        return different.max().item() / scale if different.numel() else 0.0
    return 0.0
