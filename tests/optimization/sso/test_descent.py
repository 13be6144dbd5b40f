"""Descent equals torch's on the mean loss, and SLS takes the steps found by its search."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.optimization.sso import Descent, LineSearchDescent
from tests.optimization.sso.test_module import LOSS, X, Y, fitted, network


def test_descent_steps_along_the_mean_gradient() -> None:
    module, plain = Descent(network(), LOSS, lambda p: torch.optim.SGD(p, lr=0.7)), network()
    fitted(module, 1, None)  # type: ignore[arg-type]
    (nn.functional.soft_margin_loss(plain(X).flatten(), Y)).backward()
    for ours, theirs in zip(module.network.parameters(), plain.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.data, theirs.data - 0.7 * theirs.grad, rtol=0, atol=1e-12)


def test_a_line_search_carries_its_step_from_batch_to_batch() -> None:
    module, plain, step = LineSearchDescent(network(), LOSS), network(), 1.0
    fitted(module, 3)  # type: ignore[arg-type]
    for batch in range(3):
        rows = slice(10 * batch, 10 * batch + 10)
        loss = LOSS(plain(X[rows]).flatten(), Y[rows]) / 10
        gradient = torch.autograd.grad(loss, list(plain.parameters()))
        squared, step = sum(float((each**2).sum()) for each in gradient), step * 2 ** (1 / 3)
        while True:
            moved = copy.deepcopy(plain)
            for parameter, slope in zip(moved.parameters(), gradient, strict=True):
                parameter.data -= step * slope
            if LOSS(moved(X[rows]).flatten(), Y[rows]) / 10 <= loss - 0.1 * step * squared:
                break
            step *= 0.9
        plain = moved
    assert module.step_size.item() == pytest.approx(step)
    assert module.loss.gradients == 3
    for ours, theirs in zip(module.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.data, theirs.data, rtol=0, atol=1e-12)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="reduction must be sum"):
        Descent(network(), nn.MSELoss())
