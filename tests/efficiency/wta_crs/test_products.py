"""Sampled layers and products next to plain ones: values that agree exactly, saved tensors, and measured errors."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.activation_memory import SavedBytes
from lightning_modules.efficiency.wta_crs import estimator
from lightning_modules.efficiency.wta_crs.products import (
    SampledLinear,
    SampledProduct,
    Sampler,
    fill_unknown_norms,
    sampled_product,
)
from tests.numbers import numbers


def generators(count: int) -> list[torch.Generator | None]:
    return [torch.Generator().manual_seed(share) for share in range(count)]


B, N, D, OUT = 4, 12, 5, 3
INPUTS, GRADIENT = numbers(B, N, D), numbers(B, N, OUT, seed=1)
PLAIN = nn.Linear(D, OUT).double()


def sampled(ratio: float) -> tuple[SampledLinear, Sampler]:
    sampler = Sampler(ratio)
    return SampledLinear(copy.deepcopy(PLAIN), SampledProduct(sampler, "fc")), sampler


def passed(layer: nn.Module, inputs: Tensor = INPUTS, gradient: Tensor = GRADIENT) -> dict[str, Tensor]:
    """Return the output and all gradients."""
    inputs = inputs.clone().requires_grad_()
    layer.zero_grad()
    output = layer(inputs)
    output.backward(gradient)
    assert inputs.grad is not None
    found = {name: parameter.grad.clone() for name, parameter in layer.named_parameters() if parameter.grad is not None}
    return {"output": output.detach(), "input": inputs.grad, **found}


@pytest.mark.parametrize("shares", [1, 3])
def test_all_but_the_weights_gradient_is_exact_and_all_of_it_with_all_tokens(shares: int) -> None:
    plain = passed(PLAIN)
    for ratio in (1.0, 0.3):
        layer, sampler = sampled(ratio)
        sampler.begin_step(B, None, generators(shares))
        ours = passed(layer)
        for name in ("output", "input", "bias"):
            torch.testing.assert_close(ours[name], plain[name], rtol=0, atol=1e-12)
        near = torch.allclose(ours["weight"], plain["weight"], rtol=0, atol=1e-12)
        assert near == (ratio == 1.0)


@pytest.mark.parametrize("shares", [1, 3])
def test_the_weights_gradient_is_unbiased_whatever_is_known(shares: int) -> None:
    layer, sampler = sampled(0.3)
    known = torch.rand(B, N, dtype=torch.float64) + 0.1
    known[1] = 0  # not seen yet
    draws = []
    for _ in range(1500):
        sampler.begin_step(B, known, [None] * shares)
        draws.append(passed(layer)["weight"])
    drawn = torch.stack(draws)
    deviation = drawn.std(dim=0) / len(drawn) ** 0.5
    assert ((drawn.mean(dim=0) - passed(PLAIN)["weight"]).abs() < 4.5 * deviation).all()


def test_a_share_is_sampled_as_if_it_were_alone() -> None:
    layer, sampler = sampled(0.3)
    known = torch.rand(5, N, dtype=torch.float64)
    inputs, gradient = numbers(5, N, D, seed=2), numbers(5, N, OUT, seed=3)
    sampler.begin_step(5, known, generators(2))
    together = passed(layer, inputs, gradient)["weight"]
    apart = torch.zeros_like(together)
    for share, generator in enumerate(generators(2)):
        own = slice(share, None, 2)
        sampler.begin_step(len(inputs[own]), known[own], [generator])
        apart += passed(layer, inputs[own], gradient[own])["weight"]
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)


def test_the_measured_norms_are_the_tokens_own_and_evaluation_measures_nothing() -> None:
    layer, sampler = sampled(0.3)
    assert sampler.measured_norms() is None
    sampler.begin_step(B)
    passed(layer)
    assert sampler.widths == [N]
    measured = sampler.measured_norms()
    assert measured is not None
    torch.testing.assert_close(measured, GRADIENT.norm(dim=2), rtol=0, atol=1e-12)
    sampler.begin_step(B)
    passed(layer.eval())
    assert sampler.measured_norms() is None
    torch.testing.assert_close(passed(layer)["weight"], passed(PLAIN)["weight"], rtol=0, atol=0)


def test_a_sample_that_was_not_seen_has_the_mean_of_the_others() -> None:
    known = torch.tensor([[1.0, 3.0], [0.0, 0.0], [4.0, 0.0]])
    assert fill_unknown_norms(known).tolist() == [[1, 3], [2, 2], [4, 0]]
    assert fill_unknown_norms(torch.zeros(2, 2)).tolist() == [[1, 1], [1, 1]]


def test_the_layer_keeps_the_chosen_rows_and_their_places_alone() -> None:
    layer, sampler = sampled(0.3)
    sampler.begin_step(B)
    k = estimator.budget(B * N, 0.3)
    with SavedBytes(layer) as saved:
        output = layer(INPUTS.clone())  # no other reference exists
    assert saved.total == k * D * 8 + k * 8
    with SavedBytes(layer) as exact:
        PLAIN(INPUTS.clone())
    assert exact.total > saved.total * 2
    output.sum().backward()


def test_gradients_of_inputs_pass_gradcheck() -> None:
    layer, sampler = sampled(0.3)
    layer.requires_grad_(True)
    sampler.begin_step(1)
    inputs = numbers(1, N, D).requires_grad_()

    def loss(inputs: Tensor) -> Tensor:
        sampler.begin_step(1, None, generators(1))
        return layer(inputs).sin()

    assert torch.autograd.gradcheck(loss, (inputs,))


def test_half_precision_keeps_half_and_scales_in_single() -> None:
    layer, sampler = sampled(0.3)
    layer.float()
    sampler.begin_step(B)
    with torch.autocast("cpu", dtype=torch.bfloat16), SavedBytes(layer) as saved:
        output = layer(1000 * INPUTS.float())
    k = estimator.budget(B * N, 0.3)
    assert output.dtype == torch.bfloat16
    assert saved.total == k * D * 2 + k * 8 + OUT * D * 2  # includes the weight that autocast created
    output.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


# products of heads


HEADS, TOKENS, WIDTH, KEYS = 2, 20, 15, 24
FIRST, SECOND = numbers(3, HEADS, TOKENS, WIDTH), numbers(3, HEADS, WIDTH, KEYS, seed=1)
FOR_PRODUCT = numbers(3, HEADS, TOKENS, KEYS, seed=2)


def product(ratio: float, known: Tensor | None = None, shares: int = 1, seeded: bool = True) -> dict[str, Tensor]:
    sampler = Sampler(ratio)
    its = SampledProduct(sampler, "attn")
    sampler.begin_step(3, known, generators(shares) if seeded else [None] * shares)
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    output = sampled_product(first, second, its)
    output.backward(FOR_PRODUCT)
    assert first.grad is not None
    assert second.grad is not None
    measured = sampler.measured_norms()
    assert measured is not None
    return {"output": output.detach(), "first": first.grad, "second": second.grad, "measured": measured}


def test_a_product_is_exact_its_gradients_unbiased_and_its_norms_those_of_columns_and_rows() -> None:
    exact = {"first": FOR_PRODUCT @ SECOND.mT, "second": FIRST.mT @ FOR_PRODUCT}
    whole = product(1.0)
    for name, value in {**exact, "output": FIRST @ SECOND}.items():
        torch.testing.assert_close(whole[name], value, rtol=0, atol=1e-12)
    norms = torch.cat([FOR_PRODUCT.norm(dim=2).flatten(1), FOR_PRODUCT.norm(dim=3).flatten(1)], dim=1)
    torch.testing.assert_close(whole["measured"], norms, rtol=0, atol=1e-12)
    draws = [product(0.3, norms, shares=1 + draw % 2, seeded=False) for draw in range(800)]
    for name, value in exact.items():
        drawn = torch.stack([draw[name] for draw in draws])
        torch.testing.assert_close(drawn.mean(dim=0), value, rtol=0, atol=5 * float(drawn.std(dim=0).max()) / 800**0.5)
        assert float(drawn.std(dim=0).max()) > 0.1


def test_a_product_of_shares_is_that_of_each() -> None:
    known = torch.rand(3, HEADS * (TOKENS + KEYS), dtype=torch.float64)
    together = product(0.5, known, shares=2)
    sampler = Sampler(0.5)
    its = SampledProduct(sampler, "attn")
    for share, generator in enumerate(generators(2)):
        own = slice(share, None, 2)
        first, second = FIRST[own].clone().requires_grad_(), SECOND[own].clone().requires_grad_()
        sampler.begin_step(len(first), known[own], [generator])
        sampled_product(first, second, its).backward(FOR_PRODUCT[own])
        assert first.grad is not None
        assert second.grad is not None
        torch.testing.assert_close(together["second"][own], second.grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(together["first"][own], first.grad, rtol=0, atol=1e-12)


# unsuitable inputs


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(F.relu(inputs)) + self.layer(inputs)


@pytest.mark.parametrize(
    ("samples", "forward", "message"),
    [
        (B, lambda layer: Twice(layer)(INPUTS), "fc is called twice in a step"),
        (5, lambda layer: layer(INPUTS), "fc has 48 rows for 5 samples"),
        (B, lambda layer: layer(INPUTS[:, :7]), "fc has 28 rows for 4 samples, but needs 12 for each"),
    ],
)
def test_calls_that_cannot_be_remembered_are_named(samples: int, forward: Any, message: str) -> None:
    layer, sampler = sampled(0.3)
    sampler.begin_step(B)
    layer(INPUTS)
    sampler.begin_step(samples)
    with pytest.raises(ValueError, match=message):
        forward(layer)
