"""Layers that save less for backward, compared with plain layers: the same values, and the stated number of bytes."""

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.activation_memory import SavedBytes
from lightning_modules.efficiency.wta_crs.compact import (
    CompactDropout,
    CompactNorm,
    CompactReLU,
    compact_layers,
    keep_inputs,
    kept_inputs,
    pack_bits,
    restore_kept_inputs,
    unpack_bits,
)
from tests.efficiency.wta_crs.networks import bert, logits, t5, vit
from tests.numbers import numbers


@pytest.mark.parametrize("shape", [(8,), (3, 5), (2, 3, 11), (0,)])
def test_masks_are_read_as_they_were_written(shape: tuple[int, ...]) -> None:
    mask = numbers(*shape) > 0
    bits = pack_bits(mask)
    assert bits.shape == (-(-mask.numel() // 8),)
    assert bits.dtype == torch.uint8
    assert unpack_bits(bits, mask.shape).equal(mask)


class T5Norm(nn.Module):
    """T5's normalisation, in the precision of its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


@pytest.mark.parametrize("plain", [nn.LayerNorm(6), nn.LayerNorm(6, bias=False, eps=0.1), T5Norm(6)])
def test_normalisation_by_its_output_has_the_same_gradients(plain: Any) -> None:
    plain = copy.deepcopy(plain).double()
    for seed, parameter in enumerate(plain.parameters()):
        parameter.data = numbers(6, seed=seed)
    ours, inputs, gradient = CompactNorm(plain), numbers(4, 3, 6, seed=5).requires_grad_(), numbers(4, 3, 6, seed=6)
    of = [inputs, *plain.parameters()]
    torch.testing.assert_close(ours(inputs), plain(inputs), rtol=0, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours(inputs), of, gradient), torch.autograd.grad(plain(inputs), of, gradient), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_normalisation_with_a_weight_of_nought_stays() -> None:
    network = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4), nn.LayerNorm([2, 4]))
    network[0].weight.data[1] = 0
    compact_layers(network)
    assert [type(layer) for layer in network] == [nn.LayerNorm, CompactNorm, nn.LayerNorm]


@pytest.mark.parametrize(
    ("plain", "least"),
    [(nn.LayerNorm(6), 0.0), (nn.LayerNorm(6), -1e-16), (nn.LayerNorm(6, bias=False), 0.0), (T5Norm(6), 0.0)],
)
def test_a_weight_that_trains_towards_nought_is_not_divided_by(plain: Any, least: float) -> None:
    """Until the next epoch starts, only the gradients of the other entries are exact; from then on, all are exact."""
    plain = copy.deepcopy(plain).double()
    network = nn.Sequential(nn.Identity(), copy.deepcopy(plain))
    compact_layers(network)
    ours, inputs, gradient = network[1], numbers(4, 6, seed=5).requires_grad_(), numbers(4, 6, seed=6)
    for layer in (plain, ours):
        for seed, parameter in enumerate(layer.parameters()):
            parameter.data = numbers(6, seed=seed)
        layer.weight.data[2] = least

    def gradients(layer: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(inputs), [inputs, *layer.parameters()], gradient)

    mine, exact = gradients(ours), gradients(plain)
    others = torch.arange(6) != 2
    torch.testing.assert_close(mine[0][:, others], exact[0][:, others], rtol=0, atol=1e-10)
    torch.testing.assert_close(mine[1][others], exact[1][others], rtol=0, atol=1e-10)
    assert mine[0].isfinite().all()
    assert mine[1][2] == 0
    with pytest.warns(UserWarning, match=r"1: weights .* too close to 0 .*saves its input from now on"):
        keep_inputs(network)
    for mine_, exact_ in zip(gradients(ours), exact, strict=True):
        torch.testing.assert_close(mine_, exact_, rtol=0, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep_inputs(network)  # the warning appears only once


def test_a_run_that_goes_on_within_an_epoch_computes_the_same_gradients() -> None:
    """Lightning calls no hook at an epoch's start if a run resumes within it, and weights may have grown again."""
    network = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    compact_layers(network)
    network[1].weight.data[0] = 0
    with pytest.warns(UserWarning, match="saves its input from now on"):
        keep_inputs(network)
    network[1].weight.data[0] = 1
    resumed = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    compact_layers(resumed)
    restore_kept_inputs(resumed, kept_inputs(network))
    assert [layer.reads_back for layer in resumed] == [layer.reads_back for layer in network] == [True, False]


def test_dropout_and_relu_are_torchs_and_keep_bits() -> None:
    inputs = numbers(7, 9).requires_grad_()
    with SavedBytes(nn.Identity()) as saved:
        output = CompactReLU()(inputs)
    assert saved.total == 8
    gradient = numbers(7, 9, seed=1)
    assert output.equal(F.relu(inputs))
    assert torch.autograd.grad(output, inputs, gradient)[0].equal(
        torch.autograd.grad(F.relu(inputs), inputs, gradient)[0]
    )
    layer = CompactDropout(0.25)
    with SavedBytes(nn.Identity()) as saved:
        output = layer(inputs)
    assert saved.total == 8
    kept = output != 0
    torch.testing.assert_close(output, inputs * kept / 0.75)
    torch.testing.assert_close(torch.autograd.grad(output, inputs, gradient)[0], gradient * kept / 0.75)
    assert layer(torch.ones(40_000)).mean().item() == pytest.approx(1, abs=0.02)
    assert layer.eval()(inputs) is inputs
    assert not CompactDropout(1.0)(inputs).any()


@pytest.mark.parametrize("make", [vit, bert, t5])
def test_a_whole_network_computes_and_learns_the_same(make: Any) -> None:
    plain = make().double()
    ours = copy.deepcopy(plain)
    names = list(ours.state_dict())
    compact_layers(ours)
    assert list(ours.state_dict()) == names
    kinds = {type(module).__name__ for module in ours.modules()}
    assert "CompactNorm" in kinds
    assert not {"Dropout", "ReLU", "LayerNorm", "T5LayerNorm"} & kinds
    one, other = logits(ours), logits(plain)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    one.square().sum().backward(), other.square().sum().backward()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
