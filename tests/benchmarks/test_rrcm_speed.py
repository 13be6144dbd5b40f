"""Cost of an rRCM draw relative to one of diffusion-denoised smoothing, at the papers' scale."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.interfaces import SmoothedClassifier
from tests.benchmarks.pairs import paired_ratio
from tests.conformance.experiments import CONFIGS, experiments

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


def one_draw(method: str, dataset: str, side: int, device: str) -> Callable[[], object]:
    """Return a call that classifies a noisy copy of an image with a configuration's classifier and random weights."""
    module = experiments().built("--config", CONFIGS / method / f"{dataset}.yaml").model.eval()
    if device != "meta":
        module.to_empty(device=device)
        for value in [*module.parameters(), *module.buffers()]:
            nn.init.normal_(value, std=0.02) if value.is_floating_point() else nn.init.zeros_(value)
    image = torch.rand(1, 3, side, side, device=device)
    noise = torch.zeros_like(image)

    @torch.no_grad()
    def draw() -> object:
        smoothed = isinstance(module, SmoothedClassifier)
        return module.smoothed_logits(image, noise, 0.5) if smoothed else module(image)

    return draw


def test_a_draw_on_imagenet_takes_a_fraction_of_the_operations(report: Report) -> None:
    """According to the paper, rRCM takes 1/85 of the time of diffusion-based methods, on average over these methods."""
    operations = []
    for method in ("denoised_smoothing", "rrcm"):
        draw = one_draw(method, "imagenet", 224, "meta")
        with FlopCounterMode(display=False) as counter:
            draw()
        operations.append(counter.get_total_flops())
    ratio = operations[0] / operations[1]
    report("operations of a draw of denoised smoothing over rRCM-B's, ImageNet (the paper: 85 in time)", ratio, ">= 40")
    assert ratio >= 40


def test_a_draw_on_cifar10_takes_a_fraction_of_the_time(report: Report) -> None:
    denoised, consistent = (one_draw(method, "cifar10", 32, "cpu") for method in ("denoised_smoothing", "rrcm"))
    ratio = paired_ratio(denoised, consistent, rounds=5, clock=time.process_time)
    report("CPU time of a draw of denoised smoothing over rRCM-B's, CIFAR-10", ratio, ">= 1.5")
    assert ratio >= 1.5
