"""Memory and time of sampled training, compared with exact training of the same network."""

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.activation_memory import SavedBytes
from lightning_modules.efficiency.wta_crs.module import sample_products
from lightning_modules.efficiency.wta_crs.products import Sampler
from tests.benchmarks.pairs import paired_ratio
from tests.efficiency.wta_crs.networks import logits, t5

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
VIT, T5 = "ViT-Ti/16, all linear layers", "T5 of width 256, 128 tokens"
FULL = {"layers": ["*.o", "*.wi", "*.wo"], "attention": ["*Attention"], "compact": True}
"""The products that the paper samples in T5; masks are stored as bits, and normalisations recomputed from outputs."""


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", num_classes=10).train()


def images(network: nn.Module) -> Tensor:
    return network(torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))


def saved(network: nn.Module, forward: Callable[[Any], Tensor]) -> int:
    with SavedBytes(network) as counted:
        forward(network)
    return counted.total


def sampled(network: nn.Module, ratio: float, samples: int = 2, **products: Any) -> tuple[nn.Module, Sampler]:
    ours, sampler = copy.deepcopy(network), Sampler(ratio)
    sample_products(ours, products["layers"], products.get("attention", []), sampler, products.get("compact", False))
    sampler.begin_step(samples)
    return ours, sampler


@pytest.mark.parametrize(("ratio", "target"), [(0.3, 0.76), (0.1, 0.68)])
@pytest.mark.parametrize("fused", [True, False])
def test_bytes_that_linear_layers_alone_leave(ratio: float, target: float, fused: bool, report: Report) -> None:
    plain = vit()
    for block in plain.blocks:
        block.attn.fused_attn = fused
    share = saved(sampled(plain, ratio, layers=["blocks.*"])[0], images) / saved(plain, images)
    how = "fused" if fused else "in parts"
    report(f"saved bytes with {ratio:.0%} of the tokens over all, {VIT}, attention {how}", share, f"<= {target}")
    assert share <= target + 0.01


def texts(network: nn.Module) -> Tensor:
    return logits(network, samples=4, tokens=128)


@pytest.mark.parametrize("ratio", [0.3, 0.1])
def test_bytes_that_the_full_recipe_leaves(ratio: float, report: Report) -> None:
    plain = t5(dropout=0.1, d_model=256, layers=4, attention="eager")
    exact = saved(plain, texts)
    parts = {
        "linear layers alone": {"layers": FULL["layers"]},
        "with products of attention": {key: FULL[key] for key in ("layers", "attention")},
        "with all of the recipe": FULL,
    }
    for name, products in parts.items():
        share = saved(sampled(plain, ratio, samples=4, **products)[0], texts) / exact
        report(
            f"saved bytes with {ratio:.0%} of the tokens over all, {T5}, {name}",
            share,
            "< 0.5" if "all" in name else "",
        )
    assert share < 0.5


@pytest.mark.parametrize("ratio", [0.3, 0.1])
def test_time_of_a_step(ratio: float, report: Report) -> None:
    plain = vit()
    ours, sampler = sampled(plain, ratio, layers=["blocks.*"])

    def step(network: nn.Module) -> None:
        F.cross_entropy(images(network), torch.tensor([0, 1])).backward()

    def our_step() -> None:
        sampler.begin_step(2)
        step(ours)

    share = paired_ratio(our_step, lambda: step(plain), rounds=7, clock=time.process_time)
    report(
        f"CPU time of a step with {ratio:.0%} of the tokens over that with all, {VIT}, batches of 2", share, "<= 1.2"
    )
    assert share <= 1.2
