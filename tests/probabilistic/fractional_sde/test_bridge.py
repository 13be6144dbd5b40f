"""Bridges with the optimal control, whose loss and standard deviation are known; a step's gradient; complete runs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.loading import Loading
from datamodules.sequences.bridge_paths import BridgePaths
from datamodules.sequences.sequences import Sequences
from lightning_modules.probabilistic.fractional_sde import BrownianNoise, FractionalBridge, FractionalNoise
from lightning_modules.probabilistic.fractional_sde.bridge import misfit
from lightning_modules.probabilistic.fractional_sde.exact import path_covariance
from lightning_modules.probabilistic.fractional_sde.noise import Noise
from tests.conformance.runs import CONFIGS, rows, run
from tests.trainers import quiet

SIGMA, END = 0.5, 2.0


class BestControl(nn.Module):
    """The control u = -(c a) (a z) / (sigma^2 + v); from the state z = (x, y), X(T) has mean a z and variance v."""

    def __init__(self, noise: Noise, theta: float) -> None:
        super().__init__()
        size = 1 + noise.num_processes
        self.matrix = torch.zeros(size, size, dtype=torch.float64)
        self.matrix[0, 0], self.matrix[0, 1:] = -theta, -noise.gamma * noise.omega()
        self.matrix[1:, 1:] = -torch.diag(noise.gamma)
        self.kick = torch.cat([noise.omega().sum()[None], torch.ones(size - 1, dtype=torch.float64)])

    def forward(self, told: Tensor) -> Tensor:
        time, z = float(torch.atan2(told[0, 0], told[0, 1])), told[:, 2:]
        fine = torch.linspace(0, END - time, 101, dtype=torch.float64)
        ahead = torch.linalg.matrix_exp(self.matrix * fine[:, None, None])[:, 0]
        variance = torch.trapezoid((ahead @ self.kick).square(), fine)
        return -(ahead[-1] @ self.kick) * (z @ ahead[-1])[:, None] / (SIGMA**2 + variance)


def best(noise: Noise, kind: Any, hurst: float, theta: float = 0.0) -> dict[str, float]:
    """Measure the optimal control in double precision."""
    module = FractionalBridge(noise, theta, hidden_features=[4], substeps=6).double()
    module.control = BestControl(noise, theta)
    paths = BridgePaths(hurst, kind, theta, END, SIGMA, num_times=101, num_test=12_000)
    torch.manual_seed(0)
    trainer = quiet()
    trainer.test(module, Sequences(paths, loading=Loading(evaluation_batch_size=7_000)), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("noise", "hurst", "theta"),
    [
        (lambda: FractionalNoise(0.3, "II", horizon=END), 0.3, 0.0),
        (lambda: FractionalNoise(0.7, "II", horizon=END), 0.7, 0.0),
        (lambda: FractionalNoise(0.7, "II", horizon=END), 0.7, 1.0),
        (BrownianNoise, 0.5, 0.0),
    ],
)
def test_the_best_control_of_type_two_reaches_the_least_loss_and_the_exact_bridge(
    noise: Callable[[], Noise], hurst: float, theta: float
) -> None:
    found = best(noise(), "II", hurst, theta)
    assert found["test/loss"] == pytest.approx(found["test/nll"] + found["test/kl_path"])
    assert abs(found["test/excess"]) < 0.03  # a path's loss has a standard deviation of 1.2, and time steps are finite
    assert found["test/std_error"] < 0.01


def test_of_type_one_no_control_reaches_the_least_loss() -> None:
    """Y(0) is sampled from the prior, although the observation contains information about it.

    In this test, this raises the smallest possible loss by exactly 0.072.
    """
    noise = FractionalNoise(0.9, "I", horizon=6.0)
    share = noise.omega() * torch.expm1(-noise.gamma * END) @ noise.start_factor
    of_start, variance = float(share.square().sum()), float(path_covariance(noise, 0.0, 0.02, 101)[-1, -1])
    left = SIGMA**2 + variance - of_start
    gap = 0.5 * math.log(left / (SIGMA**2 + variance)) + 0.5 * of_start / left
    assert gap == pytest.approx(0.072, abs=1e-3)
    assert best(noise, "I", 0.9)["test/excess"] == pytest.approx(gap, abs=0.03)


def test_brownian_noise_has_another_bridge() -> None:
    assert best(BrownianNoise(), "II", 0.7)["test/std_error"] > 0.08


def test_the_misfit_counts_what_was_observed_alone() -> None:
    x, observed = torch.tensor([[[1.0], [5.0], [2.0]]]), torch.zeros(1, 3, 1)
    sigma = torch.tensor([2.0, torch.inf, 0.5])
    assert misfit(x, observed, sigma).tolist() == [pytest.approx((1 / 4 + 4 / 0.25) / 2)]


def test_a_step_and_its_gradient_against_differences() -> None:
    module = FractionalBridge(FractionalNoise(kind="I", horizon=END), 0.5, hidden_features=[3], substeps=2).double()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    batch: Any = {
        **{
            "observed": torch.zeros(5, 6, 1).double(),
            "interval": 0.02,
            "index": torch.arange(5),
            "global_batch_size": 5,
        },
        "sigma": torch.tensor([torch.inf] * 5 + [0.3], dtype=torch.float64),
    }
    parameters = list(module.parameters())
    nn.init.normal_(parameters[-2], generator=torch.Generator().manual_seed(1))
    start = nn.utils.parameters_to_vector(parameters).detach()

    def loss(values: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(values, parameters)
        torch.manual_seed(0)
        return module.training_step(batch, 0)["loss"]

    loss(start).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    assert len(gradient) == len(start)  # the gradients of the control and of H
    with torch.no_grad():
        shifts = 1e-6 * torch.eye(len(start), dtype=torch.float64)
        differences = torch.stack([(loss(start + shift) - loss(start - shift)) / 2e-6 for shift in shifts])
    torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-7)


def test_a_control_does_nothing_at_first() -> None:
    module = FractionalBridge(FractionalNoise(0.7))
    assert not module.control(torch.randn(4, 8)).any()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_the_demos_loss_is_within_a_tenth_of_the_least(seed: str, tmp_path: Path) -> None:
    command = ("fit", "--config", CONFIGS / "fractional_sde" / "demo.yaml", "--seed_everything", seed)
    run(*command, "--test_after_fit", "true", "--run_directory", tmp_path)
    found = {row["metric"]: row["value"] for row in rows(tmp_path / "test_metrics.csv")}
    assert abs(found["test/excess"]) < 0.1
