"""Lanczos eigenvalues equal those of SciPy and NumPy; Lanczos quadrature gives moments; noise with a spike."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from lightning_modules.metrics.lanczos import Spectrum, lanczos, spectral_density, unit_vector

DOUBLE = torch.zeros((), dtype=torch.float64)


def symmetric(size: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn + drawn.T) / 2


def spectrum_of(matrix: Tensor, steps: int, seed: int = 0) -> Spectrum:
    return lanczos(lambda v: matrix @ v, unit_vector(len(matrix), seed, like=DOUBLE), steps)


def test_as_many_steps_as_dimensions_give_all_eigenvalues() -> None:
    matrix = symmetric(30)
    found = spectrum_of(matrix, 50)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(matrix), rtol=0, atol=1e-8)
    assert found.weights.sum().item() == pytest.approx(1, abs=1e-12)


def test_extreme_values_are_scipys() -> None:
    matrix = symmetric(200)
    operator = LinearOperator((200, 200), matvec=lambda v: matrix.numpy() @ v, dtype=np.float64)
    found = spectrum_of(matrix, 100).values
    oracle = eigsh(operator, k=2, which="BE", return_eigenvectors=False)
    assert found[[0, -1]].tolist() == pytest.approx(sorted(oracle), abs=1e-8)


def test_the_quadrature_is_exact_for_low_moments() -> None:
    matrix, q = symmetric(40), unit_vector(40, 3, like=DOUBLE)
    found = lanczos(lambda v: matrix @ v, q, 6)
    power = q
    for degree in range(12):
        assert (found.weights * found.values**degree).sum().item() == pytest.approx((q @ power).item(), rel=1e-9)
        power = matrix @ power


def test_ritz_values_keep_their_own_weights_and_an_invariant_start_ends_early() -> None:
    matrix = torch.diag(torch.tensor([-5.0, 1.0, 3.0, 3.0], dtype=torch.float64))
    start = torch.tensor([0.6, 0.0, 0.8, 0.0], dtype=torch.float64)
    values, weights = lanczos(lambda v: matrix @ v, start, 4)
    assert values.tolist() == pytest.approx([-5, 3])
    assert weights.tolist() == pytest.approx([0.36, 0.64])


def test_there_are_no_ghosts_in_single_precision() -> None:
    matrix = torch.diag(torch.cat([torch.linspace(0, 1, 299), torch.tensor([50.0])]))
    found = lanczos(lambda v: matrix @ v, unit_vector(300, 0, like=matrix), 60)
    assert (found.values > 2).sum() == 1
    assert found.values[-1].item() == pytest.approx(50, rel=1e-5)


@pytest.mark.parametrize(("spike", "expected"), [(3.0, 3 + 1 / 3), (0.5, 2.0)])
def test_noise_shifts_a_spike_or_hides_it(spike: float, expected: float) -> None:
    """Symmetric Gaussian noise of variance 1 / P moves an eigenvalue l > 1 to l + 1 / l.

    An eigenvalue below 1 is hidden by the noise: the largest eigenvalue is then 2, as for the noise alone.
    """
    noise = symmetric(400, seed=1) * math.sqrt(2 / 400)
    noise[0, 0] += spike
    assert spectrum_of(noise, 80).values[-1].item() == pytest.approx(expected, rel=0.05)


def test_a_density_is_the_average_of_its_gaussians() -> None:
    at = torch.linspace(-40, 40, 20_001, dtype=torch.float64)
    spectra = [spectrum_of(symmetric(30), 10, seed) for seed in range(3)]
    density = spectral_density(spectra, at, 0.5)
    assert torch.trapezoid(density, at).item() == pytest.approx(1, abs=1e-6)
    mean = sum(float((each.weights * each.values).sum()) for each in spectra) / 3
    assert torch.trapezoid(density * at, at).item() == pytest.approx(mean, abs=1e-6)
