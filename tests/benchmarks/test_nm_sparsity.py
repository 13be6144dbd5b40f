"""Time of a training step with N:M weights divided by that of the dense network."""

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
import timm

from lightning_modules.efficiency.nm_sparsity.flow import Flow, sparsify
from tests.benchmarks.image_steps import BATCH, stepping
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


@pytest.mark.parametrize(("n", "m", "way"), [(2, 4, "sr_ste"), (1, 32, "mdgf_exponential"), (2, 16, "sdgf_stepwise")])
def test_time_of_a_step(n: int, m: int, way: Any, report: Report) -> None:
    plain = timm.create_model("vit_small_patch16_224", num_classes=10)
    ours = copy.deepcopy(plain)
    functions = sparsify(ours, n, m, ["*.fc1", "*.fc2"], {}, "inputs", flow := Flow(way, 1e-3))
    step = stepping(ours)

    def sparse_step() -> None:
        flow.place(5, 0, 10, 10, functions)
        step()

    ratio = paired_ratio(sparse_step, stepping(plain), rounds=3, clock=time.process_time)
    report(f"step at {n}:{m} ({way}) over a dense one, ViT-S, batches of {BATCH}", ratio, "<= 1.25")
    assert ratio <= 1.25
