"""Levels, thresholds, gradients and initial scales of StatsQ and LSQ: agreement with formulas, and finite precision."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.efficiency.ofq.quantizers import (
    LSQWeight,
    Quantizer,
    StatsQ,
    bounds_of,
    calibrating,
    integers,
    lsq,
    near_threshold,
    positions,
    row_scale,
    statsq,
)
from tests.numbers import numbers


@settings(deadline=None, max_examples=30)
@given(bits=st.integers(2, 8), rows=st.integers(1, 4), seed=st.integers(0, 99), factor=st.floats(1e-3, 1e3))
def test_levels_are_odd_multiples_and_follow_sign_and_scale(bits: int, rows: int, seed: int, factor: float) -> None:
    weight, n = numbers(rows, 24, seed=seed), 2 ** (bits - 1)
    quantized, scale = statsq(weight, bits), 2 * weight.abs().mean(dim=1, keepdim=True)
    odd = quantized * 2 * n / scale
    torch.testing.assert_close(odd, 2 * ((odd - 1) / 2).round() + 1, rtol=0, atol=1e-9)
    assert odd.abs().max() < 2 * n
    assert all(len(row.unique()) <= 2**bits for row in odd.round())
    torch.testing.assert_close(statsq(-weight, bits), -quantized, rtol=1e-12, atol=0)
    torch.testing.assert_close(statsq(factor * weight, bits), factor * quantized, rtol=1e-9, atol=0)


def test_every_entry_has_the_gradient_of_its_level_and_unclipped_ones_half_a_step_of_error() -> None:
    weight, gradient = numbers(5, 4, 3, 2).requires_grad_(), numbers(5, 4, 3, 2, seed=1)
    assert torch.autograd.grad(statsq(weight, 3), weight, gradient)[0].equal(gradient)
    for bits in (2, 3, 4, 8):
        scale = row_scale(weight)
        error, inside = (statsq(weight, bits) - weight).abs(), weight.abs() <= scale
        assert (error <= scale / 2**bits * (1 + 1e-5))[inside].all()
    clipped = weight.detach().clamp(-scale, scale)
    torch.testing.assert_close(statsq(weight.detach(), 24), clipped, rtol=0, atol=1e-5)


def test_a_gaussian_fills_four_levels_and_trains_less_than_a_hundredth_near_thresholds() -> None:
    weight = numbers(40, 5000)
    shares = [float((integers(positions(weight, 2), 2) == level).double().mean()) for level in (-2, -1, 0, 1)]
    assert shares == pytest.approx([0.212, 0.288, 0.288, 0.212], abs=0.02)
    for bits in (2, 3, 4):
        assert 0.002 <= near_threshold(positions(weight, bits), bits, 0.005).double().mean() <= 0.012
        assert near_threshold(positions(weight, bits), bits, 1.0).all()
        assert near_threshold(positions(weight, bits), bits, 0.0).double().mean() < 1e-4
        clipped = weight.abs() > row_scale(weight)
        assert not near_threshold(positions(weight, bits), bits, 0.99)[clipped].any()


def test_a_threshold_is_where_the_level_changes() -> None:
    weight = torch.tensor([[1.0, -1.0, 0.3, -0.3, 0.7, -0.7]], dtype=torch.float64)  # s = 4/3: thresholds 0, +-2/3
    near = near_threshold(positions(weight, 2), 2, 0.06)
    assert near.tolist() == [[False, False, False, False, True, True]]  # 0.7 is 0.05 steps beyond 2/3
    assert integers(positions(weight, 2), 2).tolist() == [[1, -2, 0, -1, 1, -2]]
    assert statsq(torch.zeros(2, 3), 2).equal(torch.zeros(2, 3))


@pytest.mark.parametrize(("signed", "offset"), [(True, 0.0), (False, 0.0), (True, 0.5)])
def test_lsq_has_the_gradients_of_its_formula_also_between_the_last_level_and_its_rounding(
    signed: bool, offset: float
) -> None:
    bounds = bounds_of(2, signed).double()
    least, greatest = bounds.tolist()
    ratio = torch.tensor([-3.0, -2.2, -1.9, -0.4, 0.2, 0.7, 0.99, 1.2, 1.4, 2.6, 3.2, 4.0], dtype=torch.float64)
    scale = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    x, gradient = ((ratio + offset) * 0.3).requires_grad_(), numbers(12)
    value = lsq(x, scale, bounds, offset=offset)
    inside = (ratio >= least) & (ratio <= greatest)
    torch.testing.assert_close(value, 0.3 * (ratio.clamp(least, greatest).round() + offset))
    of_x, of_scale = torch.autograd.grad(value, [x, scale], gradient)
    assert of_x.equal(gradient * inside)
    slope = torch.where(inside, ratio.round() - ratio, ratio.clamp(least, greatest) + offset)
    expected = (gradient * slope).sum() / math.sqrt(greatest * 12)
    torch.testing.assert_close(of_scale[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bits", [2, 3])
def test_learned_scales_of_half_integer_levels_begin_as_statsq(bits: int) -> None:
    weight, quantizer = numbers(3, 40), LSQWeight(bits, 3, offset=0.5).double()
    with calibrating([quantizer]):
        quantizer(weight)
    torch.testing.assert_close(quantizer(weight), statsq(weight, bits))
    torch.testing.assert_close(quantizer.positions(weight), positions(weight, bits))


def test_the_gradient_of_a_scale_counts_the_elements_that_share_it() -> None:
    x, gradient, scale = numbers(3, 12), numbers(3, 12, seed=1), torch.tensor([[0.2], [0.5], [1.0]]).double()
    of_rows = []
    for rows in (slice(None), slice(0, 1), slice(1, 2), slice(2, 3)):
        own = scale[rows].requires_grad_()
        of_rows.append(torch.autograd.grad(lsq(x[rows], own, bounds_of(2, True)), own, gradient[rows])[0])
    torch.testing.assert_close(of_rows[0], torch.cat(of_rows[1:]))


def test_a_scale_has_a_floor_in_value_alone() -> None:
    scale = torch.tensor([-1.0], requires_grad=True)
    value = lsq(torch.tensor([1e-5, 2.0]), scale, bounds_of(2, True))
    assert value.tolist() == pytest.approx([1e-5, 1e-5])
    assert torch.autograd.grad(value.sum(), scale)[0].item() == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((6, 5, 8), {"scales": 5, "dim": -2, "shift": (8,)}),
        ((6, 5, 8), {"scales": 8, "dim": -1, "shift": (8,)}),
        ((6, 2, 5, 5), {"scales": 5, "dim": -2, "signed": False}),
        ((6, 5, 8), {"scales": 10, "dim": -2, "shift": (8,), "heads": 2}),
        ((6, 3, 4, 4), {"scales": 3, "dim": -3, "signed": None, "shift": (4, 4)}),
        ((6, 8), {"scales": 1, "dim": -1, "shift": (8,)}),
    ],
)
def test_scales_are_measured_and_shares_of_a_batch_have_the_gradient_of_the_whole(
    shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    signed = options.get("signed", True) is not False
    x = numbers(*shape) if signed else numbers(*shape).abs()
    quantizer = Quantizer("blocks.0.fc1", 2, **options).double()
    with calibrating([quantizer]):
        quantizer(x)
    assert not quantizer.calibrating
    heads = options.get("heads", 1)
    grouped = x.view(6, 10, 4) if heads == 2 else x
    kept = [] if options["scales"] == 1 else [grouped.ndim + options["dim"]]
    mean = grouped.abs().mean(dim=[each for each in range(grouped.ndim) if each not in kept])
    factor, greatest = (2, 1) if signed else (4, 3)
    torch.testing.assert_close(quantizer.scale.detach(), (factor * mean / math.sqrt(greatest)).view(-1))
    gradients = []
    for parts in ([x], [x[:4], x[4:]]):
        quantizer.zero_grad()
        for part in parts:
            quantizer.parts = len(x) / len(part)
            (quantizer(part) ** 2).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in quantizer.parameters()])  # type: ignore[union-attr]
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, summed, rtol=0, atol=1e-12)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


def test_images_without_negative_pixels_have_all_levels_above_zero() -> None:
    quantizer = Quantizer("patch_embed.proj", 8, 1, dim=-3, signed=None)
    with calibrating([quantizer]):
        quantizer(torch.rand(2, 1, 4, 4))
    assert quantizer.describe()["range"] == [0, 255]


def test_other_numbers_of_tokens_and_pixels_are_named() -> None:
    tokens = Quantizer("blocks.0.mlp.fc1.input", 2, 5, dim=-2, shift=(8,))
    with pytest.raises(ValueError, match=r"blocks.0.mlp.fc1.input is quantised for 5 tokens in dimension -2, got 6"):
        tokens(torch.rand(2, 6, 8))
    heads = Quantizer("blocks.0.attn.query_key", 2, 10, dim=-2, shift=(8,), heads=2)
    with pytest.raises(ValueError, match="query_key is quantised for 5 tokens in dimension -2, got 4"):
        heads(torch.rand(2, 4, 8))
    pixels = Quantizer("patch_embed.proj.input", 8, 3, dim=-3, signed=None, shift=(4, 4))
    with pytest.raises(ValueError, match=r"patch_embed.proj.input is quantised for 4 entries in dimension -1, got 5"):
        pixels(torch.rand(2, 3, 4, 5))


def test_weights_of_the_ends_have_learned_scales_of_their_rows_and_say_so() -> None:
    weight, function = numbers(3, 2, 2, 2).float(), LSQWeight(8, 3)
    with calibrating([function]):
        function(weight)
    scale = 2 * weight.abs().flatten(1).mean(dim=1) / math.sqrt(127)
    told = function.describe()
    assert told == {"quantizer": "lsq", "bits": 8, "range": [-128, 127], "scale": pytest.approx(scale.tolist())}
    assert ((function(weight) - weight).abs() <= scale.view(3, 1, 1, 1) / 2 * 1.001).all()
    assert StatsQ(3).describe() == {"quantizer": "statsq", "bits": 3}
