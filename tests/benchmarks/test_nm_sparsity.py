"""A training step of a network with N:M weights over one of the dense network."""

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.efficiency.nm_sparsity.flow import Flow, sparsify
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
BATCH = 8
"""Images of a step, in place of 64: masks cost the same for any number, so that at 64 the ratio is below this one."""


def stepping(network: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters())
    image, label = torch.rand(BATCH, 3, 224, 224), torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(image), label).backward()
        optimizer.step()

    return step


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
