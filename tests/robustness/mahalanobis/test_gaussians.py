import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor

from lightning_modules.robustness.mahalanobis.gaussians import (
    ClassGaussians,
    mahalanobis_confidence,
    mahalanobis_distances,
    standardized_score,
    whiten,
)
from tests.robustness.mahalanobis.small_detector import D, K, N, fitted, samples


def centred(features: Tensor, label: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Compute in a loop the class means, and the features minus the mean of their class."""
    means = np.stack([features.numpy()[label == c].mean(0) for c in range(K)])
    return means, features.numpy() - means[label]


@pytest.mark.parametrize("rank", [D, 3])
def test_statistics_are_scikit_learns(rank: int) -> None:
    features, label = samples(rank=rank)
    gaussians = ClassGaussians(K, [D])
    gaussians.update([features], label)
    means, rest = centred(features, label)
    estimate = EmpiricalCovariance(assume_centered=False).fit(rest)
    np.testing.assert_allclose(gaussians.means(0), means, rtol=1e-12)
    np.testing.assert_allclose(gaussians.covariance(0), estimate.covariance_, atol=1e-10)
    whitened = gaussians.whitening(0)
    assert whitened.rank == rank
    np.testing.assert_allclose(whitened.precision, estimate.precision_, rtol=1e-6, atol=1e-8)
    sigma, P = gaussians.covariance(0), whitened.precision
    torch.testing.assert_close(P @ sigma @ P, P, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(1, N - 1), max_size=5), offset=st.sampled_from([0, 1e6]))
def test_streaming_equals_two_passes_whatever_the_batches_and_their_order(
    seed: int, cuts: list[int], offset: float
) -> None:
    """At an offset of 1e6, sums of squares would lose six more digits."""
    features, label = samples(seed % 1000)
    features = features + offset
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    gaussians = ClassGaussians(K, [2, D - 2])
    for rows in torch.tensor_split(order, sorted(cuts)):
        gaussians.update(features[rows].split([2, D - 2], dim=1), label[rows])
    means, rest = centred(features, label)
    sigma = rest.T @ rest / N
    scale = np.abs(sigma).max()
    tolerance = 1e-9 if offset == 0 else 1e-7
    np.testing.assert_allclose(torch.cat([gaussians.means(0), gaussians.means(1)], dim=1), means, rtol=1e-12)
    np.testing.assert_allclose(gaussians.covariance(0), sigma[:2, :2], atol=tolerance * scale)
    np.testing.assert_allclose(gaussians.covariance(1), sigma[2:, 2:], atol=tolerance * scale)
    assert torch.equal(gaussians.count, torch.bincount(label, minlength=K).double())


def test_statistics_take_the_memory_that_is_stated_and_stay_in_double_precision() -> None:
    gaussians = ClassGaussians(10, [64, 128])
    stated = 8 * (10 + 10 * 192 + 64**2 + 128**2)
    assert sum(buffer.numel() * buffer.element_size() for buffer in gaussians.buffers()) == stated
    gaussians.mean.fill_(1 + 1e-12)
    for moved in (gaussians.to(torch.bfloat16), gaussians.half(), gaussians.float()):
        assert moved.mean.dtype == torch.float64
        assert float(moved.mean[0, 0]) == 1 + 1e-12


@pytest.mark.parametrize("rank", [D, 3])
def test_distances_are_those_of_scipy_with_the_pseudo_inverse(rank: int) -> None:
    features, label = samples(rank=rank)
    means, rest = centred(features, label)
    precision = np.linalg.pinv(rest.T @ rest / N, hermitian=True, rcond=1e-12)
    whitened = fitted(features, label)
    x = features[:7] + torch.randn(7, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    expected = [[mahalanobis(row, mean, precision) ** 2 for mean in means] for row in x.numpy()]
    np.testing.assert_allclose(mahalanobis_distances(x, whitened), expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(
        mahalanobis_confidence(x, whitened), -0.5 * np.min(expected, axis=1), rtol=1e-9, atol=1e-10
    )
    own = mahalanobis_distances(torch.from_numpy(means), whitened).diagonal()
    assert float(own.max()) < 1e-9


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_distances_do_not_change_under_invertible_affine_maps(seed: int) -> None:
    features, label = samples(seed % 1000)
    random = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(D, D, generator=random, dtype=torch.float64))
    A = q * torch.linspace(0.5, 2, D, dtype=torch.float64)
    b = torch.randn(D, generator=random, dtype=torch.float64)
    mapped = features @ A + b
    distances = mahalanobis_distances(features, fitted(features, label))
    torch.testing.assert_close(mahalanobis_distances(mapped, fitted(mapped, label)), distances, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rank", [D, 3])
def test_the_mean_distance_to_the_own_class_is_the_rank(rank: int) -> None:
    features, label = samples(rank=rank)
    own = mahalanobis_distances(features, fitted(features, label)).gather(1, label[:, None])
    assert float(own.mean()) == pytest.approx(rank, rel=1e-9)


def test_standardised_confidence_of_a_gaussian_has_mean_zero_and_deviation_one() -> None:
    z = torch.randn(200_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = standardized_score(-0.5 * z.square().sum(dim=1), 8)
    assert float(value.mean()) == pytest.approx(0, abs=0.01)
    assert float(value.std()) == pytest.approx(1, abs=0.01)


def test_a_class_without_samples_attracts_nothing() -> None:
    features, label = samples(rank=3)
    gaussians = ClassGaussians(K + 1, [D])
    gaussians.update([features], label + (label > 0))  # class 1 is empty
    assert gaussians.whitening(0).classes.tolist() == [0, 2, 3]
    torch.testing.assert_close(
        mahalanobis_distances(features, gaussians.whitening(0)),
        mahalanobis_distances(features, fitted(features, label)),
    )


def test_whitening_keeps_no_direction_of_a_constant_feature() -> None:
    mean = torch.zeros(2, 3, dtype=torch.float64)
    whitened = whiten(mean, torch.zeros(3, 3, dtype=torch.float64), torch.tensor([True, True]))
    assert whitened.rank == 0
    assert mahalanobis_distances(torch.rand(4, 3), whitened).tolist() == [[0.0, 0.0]] * 4
