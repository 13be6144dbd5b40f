"""Time of a training step with StatsQ weights divided by that of the dense network."""

import copy
import time
from collections.abc import Callable

import pytest
import timm
from torch import nn

from lightning_modules.backbones.replacement import layers_named, replace_layers, with_function
from lightning_modules.efficiency.ofq.quantizers import StatsQ
from tests.benchmarks.image_steps import BATCH, stepping
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


@pytest.mark.parametrize("bits", [2, 4])
def test_time_of_a_step(bits: int, report: Report) -> None:
    plain = timm.create_model("vit_small_patch16_224", num_classes=10)
    ours = copy.deepcopy(plain)
    layers = layers_named(ours, ["blocks.*"], (nn.Linear,), "layers")
    replace_layers(ours, layers, "layers", lambda name, layer: with_function(layer, StatsQ(bits)))
    ratio = paired_ratio(stepping(ours), stepping(plain), rounds=3, clock=time.process_time)
    report(f"step with {bits}-bit weights (StatsQ) over a dense one, ViT-S, batches of {BATCH}", ratio, "<= 1.25")
    assert ratio <= 1.25
