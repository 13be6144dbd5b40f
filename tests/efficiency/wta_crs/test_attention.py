"""Attention of timm and transformers with sampled products, compared with plain attention."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from lightning_modules.efficiency.wta_crs import estimator
from lightning_modules.efficiency.wta_crs.attention import sample_attention
from lightning_modules.efficiency.wta_crs.products import Sampler
from tests.efficiency.wta_crs.networks import bert, logits, t5, vit

NETWORKS = {
    "timm, fused": (vit, ".attn"),
    "timm, in parts": (partial(vit, fused=False), ".attn"),
    "BERT, fused": (bert, ".self"),
    "BERT, eager": (partial(bert, attention="eager"), ".self"),
    "T5, fused": (t5, "Attention"),
    "T5, eager": (partial(t5, attention="eager"), "Attention"),
}


def with_sampled_attention(network: nn.Module, suffix: str, ratio: float) -> tuple[nn.Module, Sampler]:
    sampler = Sampler(ratio)
    for name, module in list(network.named_modules()):
        if name.endswith(suffix):
            sample_attention(module, name, sampler)
    sampler.begin_step(2)
    return network, sampler


@pytest.mark.parametrize("name", NETWORKS)
def test_sampled_attention_computes_the_same_and_has_other_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimator, "LEAST_PAIRS", 2)
    make, suffix = NETWORKS[name]
    torch.manual_seed(0)
    plain = make().double()
    theirs = logits(plain)
    theirs.square().sum().backward()
    for ratio in (1.0, 0.4):
        ours, sampler = with_sampled_attention(copy.deepcopy(plain), suffix, ratio)
        ours.zero_grad()
        output = logits(ours)
        output.square().sum().backward()
        # T5 normalises in single precision.
        torch.testing.assert_close(output, theirs, rtol=0, atol=1e-5 if "T5" in name else 1e-12)
        one, other = (
            torch.cat([p.grad.flatten() for p in n.parameters() if p.grad is not None]) for n in (ours, plain)
        )
        error = float((one - other).norm() / other.norm())
        assert error > 1e-3 if ratio < 1 else error < (1e-4 if "T5" in name else 1e-10)
        assert len(sampler.widths) > 1
        assert all(width > 0 for width in sampler.widths)
        with torch.no_grad():
            torch.testing.assert_close(logits(ours.eval()), logits(plain.eval()), rtol=0, atol=1e-6)
        plain.train()


def test_dropout_of_weights_is_what_the_caller_gives() -> None:
    network, drawn = vit(dropout=0.5), []

    def dropout(input: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        drawn.append((p, training, input.shape))
        return input

    sample_attention(network.get_submodule("blocks.0.attn"), "blocks.0.attn", Sampler(0.5), dropout)
    logits(network)
    assert (0.5, True, (2, 2, 17, 17)) in drawn


def test_modules_that_are_no_attention_are_named() -> None:
    network, _ = with_sampled_attention(vit(), ".mlp", 0.5)
    with pytest.raises(ValueError, match=r"attention: blocks.0.mlp \(scores\) multiplies 0 pairs of tensors"):
        logits(network)
