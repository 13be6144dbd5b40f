"""Implicit steps compared with the minimum found by scipy."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from lightning_modules.optimization.optimistic_omd import ImplicitOMD


def test_an_implicit_step_minimises_the_hinge_loss_in_the_ball_on_host_and_device() -> None:
    random = np.random.default_rng(0)
    host, device = (ImplicitOMD([nn.Parameter(torch.zeros(3, dtype=torch.float64))], D=2.0, G=6.0) for _ in "ab")
    anchor, hint, variation = np.zeros(3), np.zeros(3), 0.0
    kinds: set[tuple[bool, bool]] = set()
    for _ in range(60):
        a, x = random.standard_normal(3) * random.choice([0.5, 3]), host.point.numpy().copy()
        value = max(0.0, 1 - a @ x)
        gradient = -a * (value > 0)
        eta = 2 / np.sqrt(4 * 36 + variation)
        # min t + |u - anchor|^2 / (2 eta) with t >= 0 and t >= 1 - <a, u>, in the ball
        found = minimize(
            lambda v, eta=eta, anchor=anchor: v[3] + ((v[:3] - anchor) ** 2).sum() / (2 * eta),
            [*anchor, max(0.0, 1 - a @ anchor)],
            constraints=[
                {"type": "ineq", "fun": lambda v: v[3]},
                {"type": "ineq", "fun": lambda v, a=a: v[3] - 1 + a @ v[:3]},
                {"type": "ineq", "fun": lambda v: 1 - v[:3] @ v[:3]},
            ],
            options={"ftol": 1e-14, "maxiter": 300},
        )
        for optimizer in (host, device):
            [parameter] = optimizer.param_groups[0]["params"]
            parameter.grad = torch.from_numpy(gradient)
        host.step(partial(torch.tensor, value))
        device._loss = torch.tensor(value)
        with torch.no_grad():
            device._play(device._end_round(torch.from_numpy(gradient), device.memory))
        torch.testing.assert_close(host.point, device.point, rtol=0, atol=1e-9)
        anchor = host.memory["anchor"].numpy().copy()
        if value > 0:  # otherwise the loss is 0 at the played point, and its gradient carries no further information
            np.testing.assert_allclose(anchor, found.x[:3], atol=2e-4)
            kinds.add((abs(1 - a @ anchor) < 1e-9, bool(np.linalg.norm(anchor) > 1 - 1e-9)))
        variation += ((gradient - hint) ** 2).sum()
        hint = gradient
        expected = anchor - 2 / np.sqrt(4 * 36 + variation) * gradient
        np.testing.assert_allclose(host.point, expected / max(1, np.linalg.norm(expected)), atol=1e-9)
    assert {(False, False), (True, False)} <= kinds  # full steps, and steps to the kink
    with pytest.raises(ValueError, match="needs a closure"):
        host.step()
