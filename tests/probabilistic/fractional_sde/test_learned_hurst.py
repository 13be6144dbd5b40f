"""The evidence, and the bound with the optimal control and finite steps, prefer different Hurst indices.

Everything is linear and Gaussian, so the optimal control follows from a Riccati recursion over the steps of the paths
of configs/fractional_sde/demo_paths.yaml. The bound prefers smoother noise than the evidence does. A control that acts
at the left end of a step does not observe dW within the step, and this matters more for rougher noise.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from datamodules.sequences.fractional_paths import FractionalPaths
from lightning_modules.probabilistic.fractional_sde.exact import least_loss, path_covariance
from lightning_modules.probabilistic.fractional_sde.integration import increments, integrate, misfit
from lightning_modules.probabilistic.fractional_sde.noise import FractionalNoise

THETA, SIGMA, TIMES, INTERVAL = 0.2, 0.3, 50, 1 / 30
HURST = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
SCALES = [0.65, 0.8, 0.95, 1.1, 1.3, 1.6]


def riccati(noise: FractionalNoise, scale: float, observed: Tensor, substeps: int) -> tuple[Tensor, list[Tensor]]:
    """Compute the minimal loss of paths `[N, F]`, `[N]`, and the optimal weights of (x, y, 1) at each step.

    With the cost-to-go V(z) = z P z / 2 + q z + r and z' = A z + c (u dt + dW), u = -(c P A z + q c) / (1 + c P c dt).
    """
    gamma, omega, dt = noise.gamma, scale * noise.omega(), INTERVAL / substeps
    move = torch.eye(1 + len(gamma), dtype=torch.float64)
    move[0, 0] -= THETA * dt
    move[0, 1:] -= gamma * omega * dt
    move[1:, 1:] -= torch.diag(gamma) * dt
    kick = torch.cat([omega.sum()[None], torch.ones_like(gamma)])
    seen = torch.zeros_like(kick).index_fill(0, torch.tensor(0), 1)
    p, q, r = (
        torch.zeros_like(move),
        torch.zeros(len(observed), len(kick)).double(),
        torch.zeros(len(observed)).double(),
    )
    controls = []
    for time in reversed(range(TIMES)):
        p = p + torch.outer(seen, seen) / SIGMA**2
        q = q - observed[:, time, None] / SIGMA**2 * seen
        r = r + observed[:, time].square() / (2 * SIGMA**2)
        for _ in range(substeps if time else 0):
            stiff, pull, push = kick @ p @ kick, kick @ p @ move, q @ kick
            controls.append(torch.cat([pull.expand(len(q), -1), push[:, None]], dim=1) / -(1 + stiff * dt))
            r = r + 0.5 * stiff * dt - 0.5 * dt * push.square() / (1 + stiff * dt)
            q = q @ move - dt * push[:, None] * pull / (1 + stiff * dt)
            p = move.T @ p @ move - dt * torch.outer(pull, pull) / (1 + stiff * dt)
    return r + 0.5 * (p[1:, 1:] * (noise.start_factor @ noise.start_factor.T)).sum(), controls[::-1]


def least_losses(hurst: float, substeps: int | None, indices: Sequence[float]) -> list[float]:
    """For each index of the noise, compute the mean loss over paths with H = `hurst`, with the optimal scale.

    If `substeps` is None, the loss is minus the log evidence instead of that of the optimal control with finite steps.
    """
    law = FractionalPaths(hurst, THETA, 1.0, SIGMA, dim=1, num_times=TIMES, interval=INTERVAL, seed=0)
    observed = law.training().fetch(torch.arange(500), 0)[:, :, 0]
    sigma, second = law.truth()["sigma"], observed.T @ observed / len(observed)

    def loss(noise: FractionalNoise, scale: float) -> float:
        if substeps is not None:
            return float(riccati(noise, scale, observed, substeps)[0].mean())
        covariance = scale**2 * path_covariance(noise, THETA, INTERVAL, TIMES)
        none = least_loss(covariance, torch.zeros(TIMES).double(), sigma)
        return float(none + 0.5 * (torch.linalg.inv(covariance + torch.diag(sigma**2)) * second).sum())

    noises = [FractionalNoise(each, horizon=INTERVAL * (TIMES - 1)) for each in indices]
    return [min(loss(noise, scale) for scale in SCALES) for noise in noises]


def preferred(hurst: float, substeps: int | None) -> float:
    """Find the H with the smallest mean loss over paths with true index `hurst`; see `least_losses`."""
    least = least_losses(hurst, substeps, HURST)
    return HURST[least.index(min(least))]


def test_the_best_control_is_what_integration_makes_of_it() -> None:
    law = FractionalPaths(0.3, THETA, 1.0, SIGMA, dim=1, num_times=TIMES, interval=INTERVAL, seed=0)
    noise = FractionalNoise(0.4, horizon=INTERVAL * (TIMES - 1))
    observed = law.training().fetch(torch.zeros(4000, dtype=torch.int64), 0)
    expected, controls = riccati(noise, 0.9, observed[:, :, 0], 2)
    torch.manual_seed(0)
    x = torch.zeros(4000, 1).double()
    path = integrate(
        *(x, noise.start(x), increments(x, 2 * (TIMES - 1), INTERVAL / 2), INTERVAL, 2, noise.gamma, noise.omega()),
        drift=lambda x: -THETA * x,
        diffusion=lambda x: torch.full_like(x, 0.9),
        control=lambda step, x, y: (controls[step] * torch.cat([x, y[:, 0], torch.ones_like(x)], 1)).sum(
            1, keepdim=True
        ),
        solver="euler",
    )
    loss = misfit(path.x, observed, law.truth()["sigma"]) + path.divergence
    assert float(loss.mean()) == pytest.approx(float(expected[0]), abs=4 * float(loss.std()) / 4000**0.5)


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_the_evidence_tells_h(hurst: float) -> None:
    assert preferred(hurst, None) == hurst


def test_the_bound_of_two_steps_leans_to_smoother_noise() -> None:
    assert preferred(0.3, 2) == 0.4
    assert preferred(0.7, 2) == 0.7


def test_the_bound_of_two_steps_prefers_white_noise_to_the_true_index_of_rough_paths() -> None:
    """For this reason, no control makes the rough paths of configs/fractional_sde/claim.yaml learn H = 0.3."""
    true, white = least_losses(0.3, 2, [0.3, 0.5])
    assert true - white > 0.5
    true, white = least_losses(0.3, None, [0.3, 0.5])
    assert white - true > 0.5


@pytest.mark.nightly
def test_the_bound_of_short_steps_does_not() -> None:
    assert preferred(0.3, 40) == 0.3
