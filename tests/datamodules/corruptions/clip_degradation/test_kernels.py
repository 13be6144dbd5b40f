"""The taps of every kernel family equal those of its formula."""

import math

import numpy as np
import pytest
import torch
from scipy.special import j1

from datamodules.corruptions.clip_degradation import kernels

SIZE = 9
SIGMA_X, SIGMA_Y, ROTATION, BETA = (torch.tensor(values, dtype=torch.float64) for values in (
    (0.7, 2.3), (1.9, 0.4), (0.6, -2.5), (0.5, 3.1)
))  # fmt: skip


def expected(frame: int, form) -> np.ndarray:
    """Compute a kernel from the inverse of its covariance, tap by tap."""
    angle = float(ROTATION[frame])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ np.diag([float(SIGMA_X[frame]) ** 2, float(SIGMA_Y[frame]) ** 2]) @ turn.T
    inverse = np.linalg.inv(covariance)
    kernel = np.zeros((SIZE, SIZE))
    for row in range(SIZE):
        for column in range(SIZE):
            place = np.array([column - SIZE // 2, row - SIZE // 2])
            kernel[row, column] = form(place @ inverse @ place, float(BETA[frame]))
    return kernel / kernel.sum()


@pytest.mark.parametrize(
    ("made", "form"),
    [
        (kernels.gaussian(SIZE, SIGMA_X, SIGMA_Y, ROTATION), lambda q, beta: math.exp(-q / 2)),
        (
            kernels.generalized_gaussian_kernels(SIZE, SIGMA_X, SIGMA_Y, ROTATION, BETA),
            lambda q, beta: math.exp(-(q**beta) / 2),
        ),
        (kernels.plateau(SIZE, SIGMA_X, SIGMA_Y, ROTATION, BETA), lambda q, beta: 1 / (1 + q**beta)),
    ],
    ids=["gaussian", "generalized", "plateau"],
)
def test_kernels_of_gaussian_kind(made: torch.Tensor, form) -> None:
    for frame in range(2):
        np.testing.assert_allclose(made[frame], expected(frame, form), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("size", [7, 21])
def test_sinc_filters(size: int) -> None:
    cutoff = torch.tensor([math.pi / 5, math.pi], dtype=torch.float64)
    made = kernels.sinc(size, cutoff)
    torch.testing.assert_close(made.sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(made, made.transpose(1, 2))
    for frame, omega in enumerate(cutoff.tolist()):
        kernel = np.full((size, size), omega**2 / (4 * math.pi))
        for row in range(size):
            for column in range(size):
                radius = math.hypot(row - size // 2, column - size // 2)
                if radius:
                    kernel[row, column] = omega * j1(omega * radius) / (2 * math.pi * radius)
        np.testing.assert_allclose(made[frame], kernel / kernel.sum(), rtol=1e-9, atol=1e-15)
