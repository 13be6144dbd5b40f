"""Cost of a DiffusionGuard step relative to a step of PhotoGuard's attack on a whole edit."""

import time
from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.calls.build import build
from experiments.calls.parse import parse
from lightning_modules.robustness.diffusion_guard.attack import ProtectionObjective, attack_objective
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


def one_step(objective: ProtectionObjective) -> Callable[[], object]:
    """Compute one gradient of the demo's attack on a batch of its images."""
    module = build(parse(["fit", "--config", "configs/diffusion_guard/demo.yaml"]), runs=False).model.eval()
    image, keep = torch.rand(8, 1, 16, 16, requires_grad=True), torch.zeros(8, 1, 16, 16)
    keep[:, :, 4:12, 4:12] = 1
    noise = torch.randn(image.shape)

    def gradient() -> object:
        value = attack_objective(
            module.inpainter, objective, image, keep, noise, noise, module.defence.timestep, module.editor_steps
        )
        return torch.autograd.grad(value, image)

    return gradient


def test_a_step_on_the_first_denoising_step_takes_a_fraction_of_one_on_an_edit(report: Report) -> None:
    """The paper claims stronger protection at lower cost; PhotoGuard backpropagates through every edit step."""
    first, edit = one_step("noise_norm"), one_step("edit")
    operations = []
    for step in (first, edit):
        with FlopCounterMode(display=False) as counter:
            step()
        operations.append(counter.get_total_flops())
    ratio = operations[1] / operations[0]
    report(
        "operations of a step of PhotoGuard's attack on an edit of four steps over DiffusionGuard's", ratio, ">= 3.5"
    )
    assert ratio >= 3.5
    ratio = paired_ratio(edit, first, rounds=5, clock=time.process_time)
    report("CPU time of a step of PhotoGuard's attack on an edit of four steps over DiffusionGuard's", ratio, ">= 2.5")
    assert ratio >= 2.5
