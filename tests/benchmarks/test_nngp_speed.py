"""CPU time of NNGP kernels over the same recursion in plain NumPy."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.probabilistic.scale_mixture_nngp import DenseNetwork, NetworkKernel
from tests.benchmarks.pairs import medians, seconds

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
DEPTH, WEIGHT, BIAS = 4, 1.4, 0.3


def relu(a: Any, b: Any, c: Any) -> Any:
    root = np.sqrt(a * b)
    cosine = np.clip(c / root, -1, 1)
    angle = np.arccos(cosine)
    return root * (np.sqrt(1 - cosine * cosine) + (np.pi - angle) * cosine) / (2 * np.pi)


def erf(a: Any, b: Any, c: Any) -> Any:
    return 2 / np.pi * np.arcsin(np.clip(2 * c / np.sqrt((1 + 2 * a) * (1 + 2 * b)), -1, 1))


def kernel(x: np.ndarray, activation: Callable[[Any, Any, Any], Any]) -> np.ndarray:
    variance, k = (x * x).mean(1), x @ x.T / x.shape[1]
    for _ in range(DEPTH):
        variance, k = (WEIGHT**2 * each + BIAS**2 for each in (variance, k))
        k, variance = activation(variance[:, None], variance, k), activation(variance, variance, variance)
    return k


@pytest.mark.parametrize("rows", [500, 1500])
@pytest.mark.parametrize("activation", [relu, erf])
def test_kernel_beside_numpy(activation: Callable[[Any, Any, Any], Any], rows: int, report: Report) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 10))
    given, name = torch.from_numpy(x), activation.__name__
    ours = NetworkKernel(DenseNetwork(DEPTH, name), WEIGHT, BIAS).requires_grad_(False)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours(given, given).numpy(), kernel(x, activation), rtol=1e-12, atol=1e-12)
    works = {"ours": lambda: ours(given, given), "theirs": lambda: kernel(x, activation)}
    timed = {each: lambda work=work: seconds(work, time.process_time) for each, work in works.items()}
    spent = medians(timed, rounds=15)
    ratio = spent["ours"] / spent["theirs"]
    report(f"CPU time of an NNGP kernel of {rows:,} rows, {name}, {DEPTH} layers, over plain NumPy", ratio, "<= 1.05")
    assert ratio <= 1.3
