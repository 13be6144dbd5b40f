"""Cost of a kernel's predictions after each of a thousand steps, relative to the eigendecomposition that they need."""

from collections.abc import Callable

import pytest
import torch

from lightning_modules.probabilistic.score_estimation.kernel_path import KernelPath, tangent_kernel
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark


def test_a_thousand_steps_cost_little_beside_the_eigendecomposition(report: Callable[[str, float, str], None]) -> None:
    torch.manual_seed(0)
    z, other = torch.randn(1000, 5).double(), torch.randn(200, 5).double()
    target, steps = torch.randn(1000, 2).double(), torch.arange(1000).double()
    kernel, cross = tangent_kernel(z, z), tangent_kernel(other, z)
    ratio = paired_ratio(
        lambda: KernelPath(kernel).predictions(cross, target, steps), lambda: torch.linalg.eigh(kernel), rounds=5
    )
    report("tangent-kernel path of 1,000 steps at 200 points / one eigendecomposition of 1,000 rows", ratio, "<= 2")
    assert ratio <= 2
