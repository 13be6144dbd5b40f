"""The surrogate touches the loss, is never below it, and has its minimum where its scaling implies."""

import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.sso.surrogate import code_surrogate, paper_surrogate
from tests.numbers import numbers

X, Y = numbers(7, 4), numbers(7, 3, seed=1)


def squared_loss(outputs: Tensor) -> Tensor:
    return ((outputs - Y) ** 2).sum() / 2


def model(theta: Tensor) -> Tensor:
    return (X @ theta).tanh()


def gradient_at(outputs: Tensor) -> Tensor:
    at = outputs.detach().requires_grad_()
    return torch.autograd.grad(squared_loss(at), at)[0]


@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_it_touches_the_loss_and_majorises_it(eta: float) -> None:
    theta = numbers(4, 3, seed=2).requires_grad_()
    at, inverse = model(theta).detach(), torch.tensor(1 / eta)
    g, value = gradient_at(at), squared_loss(at)
    touching = paper_surrogate(model(theta), at, g, inverse, value)
    torch.testing.assert_close(touching, value, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(each, theta)[0] for each in (touching, squared_loss(model(theta))))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for seed in range(100):
        outputs = model(numbers(4, 3, seed=seed) * 2)
        assert paper_surrogate(outputs, at, g, inverse, value) >= squared_loss(outputs) - 1e-12


@pytest.mark.parametrize("per_sample", [False, True])
def test_scalings_have_their_least_values_where_they_say(per_sample: bool) -> None:
    at, h = numbers(7, 3, seed=3), numbers(7, 3, seed=4).abs() + 0.5 if per_sample else torch.tensor(0.7).double()
    g = gradient_at(at)
    for function, least in ((paper_surrogate, at - g / h), (code_surrogate, at - g / (2 * h))):
        outputs = least.clone().requires_grad_()
        more: tuple = (squared_loss(at),) if function is paper_surrogate else (at.numel(),)
        (slope,) = torch.autograd.grad(function(outputs, at, g, h, *more), outputs)
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_scalings_differ_by_a_factor_and_a_constant() -> None:
    at, outputs, h = numbers(7, 3, seed=3), numbers(7, 3, seed=4), torch.tensor(0.7).double()
    g, value = gradient_at(at), squared_loss(at)
    paper = paper_surrogate(outputs, at, g, 2 * h, value) - value
    torch.testing.assert_close(code_surrogate(outputs, at, g, h, 21) * 21 * h, paper, rtol=0, atol=1e-10)
    published = (g * outputs / h + (outputs - at) ** 2).mean() - (g * at / h).mean()
    torch.testing.assert_close(code_surrogate(outputs, at, g, h, 21), published, rtol=0, atol=1e-12)


def test_one_exact_step_of_a_linear_model_solves_least_squares() -> None:
    at = X @ numbers(4, 3, seed=5)
    target = at - gradient_at(at)  # eta = 1/L = 1
    theta = torch.linalg.lstsq(X, target).solution.requires_grad_()
    slope = paper_surrogate(X @ theta, at, gradient_at(at), torch.tensor(1.0), squared_loss(at))
    torch.testing.assert_close(torch.autograd.grad(slope, theta)[0], torch.zeros(4, 3).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(theta.detach(), torch.linalg.lstsq(X, Y).solution, rtol=0, atol=1e-10)
