import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from lightning_modules.sde.flow import ProbabilityFlow, bits_per_dimension, likelihood, solve_flow
from lightning_modules.sde.processes import VP, Process
from tests.sde.exact import PROCESSES, gaussian_score, mixture_score, variance

DEVIATION, EPS = 0.4, 1e-3


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def deviation(process: Process, t: float) -> float:
    return math.sqrt(float(variance(process, torch.tensor(t, dtype=torch.float64), DEVIATION)))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_gaussian_data_keep_their_quantile_along_the_flow(process: Process) -> None:
    x, score = randn(4, 1, 3, 3), gaussian_score(process, 0.0, DEVIATION)
    decoded = solve_flow(score, x, process, 1.0, EPS)
    expected = x * deviation(process, EPS) / deviation(process, 1.0)
    torch.testing.assert_close(decoded.x, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(solve_flow(score, decoded.x, process, EPS, 1.0).x, x, rtol=1e-3, atol=1e-3)
    coarse = solve_flow(score, x, process, 1.0, EPS, tolerance=1e-2)
    assert coarse.evaluations < decoded.evaluations


def test_complex_data_are_moved_by_the_same_map() -> None:
    x = torch.complex(randn(2, 3), randn(2, 3).flip(1))
    moved = solve_flow(gaussian_score(VP(), 0.0, DEVIATION), x, VP(), 1.0, EPS).x
    torch.testing.assert_close(moved, x * deviation(VP(), EPS) / deviation(VP(), 1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_log_density_of_gaussian_data_is_exact(process: Process) -> None:
    """The Jacobian is diagonal, so the trace estimate with random signs is exact; x_1 nearly follows the prior."""
    score = gaussian_score(process, 0.0, DEVIATION)
    x = randn(5, 1, 2, 2) * DEVIATION
    signs = torch.where(randn(5, 1, 2, 2) > 0.3, 1.0, -1.0).double()
    with torch.inference_mode():
        found = likelihood(score, x, process, signs, start=EPS)
    latent = x * deviation(process, 1.0) / deviation(process, EPS)
    jacobian = 4 * math.log(deviation(process, 1.0) / deviation(process, EPS))
    torch.testing.assert_close(found.log_density, process.prior_log_density(latent) + jacobian, rtol=0, atol=2e-3)
    normal = stats.norm(0, deviation(process, EPS)).logpdf(x.numpy()).sum(axis=(1, 2, 3))
    torch.testing.assert_close(found.log_density, torch.from_numpy(normal), rtol=0.02, atol=0.02)
    torch.testing.assert_close(found.latent, latent, rtol=1e-3, atol=1e-3)


def test_log_density_of_a_mixture_is_near_its_own() -> None:
    points = torch.tensor([[-1.0], [0.5], [1.0]], dtype=torch.float64)
    x = torch.tensor([[-1.2], [0.2], [0.6]], dtype=torch.float64)
    found = likelihood(mixture_score(VP(), points, 0.3), x, VP(), torch.ones_like(x))
    density = stats.norm(points.numpy()[:, 0], 0.3).pdf(x.numpy()).mean(axis=1)
    torch.testing.assert_close(found.log_density, torch.from_numpy(density).log(), rtol=0, atol=5e-3)


def test_uniform_images_cost_eight_bits() -> None:
    """Density 1/2 on [-1, 1] and density 1 on [0, 1] describe the same images."""
    for width in (2.0, 1.0):
        bits = bits_per_dimension(torch.tensor([-12 * math.log(width)]), 12, width)
        assert float(bits) == pytest.approx(8)


def test_a_flow_respects_nothing_that_is_known() -> None:
    with pytest.raises(ValueError, match="cannot condition on known pixels"):
        ProbabilityFlow()(lambda x, t: -x, randn(1, 2), VP(), torch.zeros_like, lambda moved, t: moved)
    sampled = ProbabilityFlow(end=EPS, denoise=True)(
        gaussian_score(VP(), 0.5, 0.0), randn(3, 4), VP(), torch.zeros_like
    )
    torch.testing.assert_close(sampled, torch.full((3, 4), 0.5, dtype=torch.float64), rtol=0, atol=0.02)
