"""FID, KID and IS compared with the published formulas and with torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from callbacks.generation import statistics
from callbacks.generation.statistics import (
    exact_distance,
    frechet_distance,
    inception_score,
    kernel_sums,
    kid_basis,
    moment_sums,
    moments_of,
    num_subsets,
    reservoir,
    score_sums,
    subset_distances,
)
from datamodules.randomness.generators import generator_of
from tests.largest_tensor import LargestTensor

HOST = torch.device("cpu")


class Identity(nn.Identity):
    num_features = 12


def features(n: int, seed: int, dimensions: int = 12) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimensions, dimensions, generator=random) / 3
    return torch.randn(n, dimensions, generator=random) @ mix + 0.3 * seed


def moments(feature: Tensor) -> statistics.FeatureMoments:
    return moments_of(moment_sums(feature.numpy(), HOST), len(feature))


def test_fid_is_that_of_pytorch_fids_formula() -> None:
    first, second = features(3000, 1), features(2500, 2)
    means = [each.double().numpy().mean(axis=0) for each in (first, second)]
    covariances = [np.cov(each.double().numpy(), rowvar=False) for each in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(moments(first), moments(first)) == pytest.approx(0, abs=1e-9)


def test_fid_of_diagonal_gaussians_is_the_closed_form() -> None:
    mean, deviations = torch.tensor([1.0, -2.0]).double(), torch.tensor([[1.0, 3.0], [2.0, 0.5]]).double()
    first, second = (
        statistics.FeatureMoments(m, s.square().diag(), None) for m, s in zip((mean, 0 * mean), deviations, strict=True)
    )
    assert frechet_distance(first, second) == pytest.approx(5 + 1 + 6.25)


def test_fid_of_few_images_has_no_rounding_noise_in_the_directions_without_any() -> None:
    """The trace of the matrix square root must equal the nuclear norm of the product of the centred features."""
    first, second = features(20, 1, 200), features(15, 2, 200)
    centred = [each.double() - each.double().mean(dim=0) for each in (first, second)]
    traces = sum(float(each.square().sum()) / (len(each) - 1) for each in centred)
    nuclear = torch.linalg.matrix_norm(centred[0] @ centred[1].T, "nuc") / np.sqrt(19 * 14)
    apart = (first.double().mean(dim=0) - second.double().mean(dim=0)).square().sum()
    expected = float(apart) + traces - 2 * float(nuclear)
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, abs=1e-6)


def test_fid_kid_and_is_are_those_of_torchmetrics() -> None:
    first, second = features(900, 1), features(900, 2)
    fid = FrechetInceptionDistance(feature=Identity())
    kid = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=900)
    score = InceptionScore(feature=Identity(), splits=1)
    for metric in (fid, kid):
        metric.update(first, real=False)
        metric.update(second, real=True)
    score.update(first)
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(float(fid.compute()), rel=1e-5)
    assert num_subsets(900, 900) == 1
    ours = subset_distances(first.numpy(), second.numpy(), 0, HOST)
    assert float(ours.mean()) == pytest.approx(float(kid.compute()[0]), rel=1e-4)
    exact = exact_distance(kernel_sums(first.numpy(), second.numpy(), HOST), 900, 900)
    assert exact == pytest.approx(float(ours.mean()), rel=1e-9)
    identity = torch.eye(12)
    given = inception_score(score_sums(first.numpy(), identity, HOST), 900)
    assert given == pytest.approx(float(score.compute()[0]), rel=1e-5)


def squared_mmd(first: Tensor, second: Tensor) -> float:
    """Compute the unbiased estimate with all kernel values at once."""
    m, n, dimensions = len(first), len(second), first.shape[1]
    xx, yy, xy = (
        (one @ other.T / dimensions + 1) ** 3 for one, other in ((first, first), (second, second), (first, second))
    )
    return float((xx.sum() - xx.trace()) / (m * m - m) + (yy.sum() - yy.trace()) / (n * n - n) - 2 * xy.mean())


def test_a_subset_is_that_of_its_own_seed_on_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", 7)
    monkeypatch.setattr(statistics, "SUBSET_SIZE", 20)
    first, second = features(40, 1).double(), features(25, 2).double()
    found = subset_distances(first.numpy(), second.numpy(), 5, HOST)
    for number in (0, 1, 99):
        generator = generator_of(5, number)
        chosen = [rows[torch.randperm(len(rows), generator=generator)[:20]] for rows in (first, second)]
        assert float(found[number]) == pytest.approx(squared_mmd(*chosen), rel=1e-10, abs=1e-13)


def test_exact_kid_of_uneven_sets_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", 7)
    first, second = features(40, 1).numpy(), features(25, 2).numpy()
    expected = squared_mmd(torch.from_numpy(first).double(), torch.from_numpy(second).double())
    assert exact_distance(kernel_sums(first, second, HOST), 40, 25) == pytest.approx(float(expected), rel=1e-12)


def test_subsets_come_from_a_seeded_reservoir_of_fixed_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESERVOIR", 30)
    monkeypatch.setattr(statistics, "SUBSET_SIZE", 20)
    first, second = features(400, 1).numpy(), features(25, 2).numpy()
    kept = reservoir(400, 5, statistics.SUBSETS)
    assert len(set(kept)) == 30
    assert kept.max() < 400
    assert (reservoir(400, 6, statistics.SUBSETS) != kept).any()
    np.testing.assert_array_equal(reservoir(25, 5, 1), np.arange(25))
    found = subset_distances(first, second, 5, HOST)
    first[np.setdiff1d(np.arange(400), kept)] = np.nan  # rows that KID must not read
    torch.testing.assert_close(subset_distances(first, second, 5, HOST), found)
    assert kid_basis(400, 25, exact=False) == "100 subsets of 20 among 30 of 400 and 25 images"
    assert kid_basis(400, 25, exact=True) == "all pairs of 400 and 25 images"


def test_rows_of_a_reservoir_are_equally_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESERVOIR", 50)
    times = np.bincount(np.concatenate([reservoir(100, seed, 0) for seed in range(400)]), minlength=100)
    assert abs(times - 200).max() < 4.5 * 10  # a count has standard deviation sqrt(400 / 4)


def test_shares_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", 7)
    monkeypatch.setattr(statistics, "SUBSET_SIZE", 20)
    first, second = features(40, 1).numpy(), features(25, 2).numpy()
    for whole, shares in (
        (moment_sums(first, HOST), [moment_sums(first, HOST, r, 3) for r in range(3)]),
        (kernel_sums(first, second, HOST), [kernel_sums(first, second, HOST, r, 3) for r in range(3)]),
        (subset_distances(first, second, 5, HOST), [subset_distances(first, second, 5, HOST, r, 3) for r in range(3)]),
        (score_sums(first, torch.eye(12), HOST), [score_sums(first, torch.eye(12), HOST, r, 3) for r in range(3)]),
    ):
        torch.testing.assert_close(sum(shares), whole, rtol=1e-12, atol=1e-12)
    assert len(subset_distances(first, second, 5, HOST).unique()) == statistics.SUBSETS


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", 50)
    monkeypatch.setattr(statistics, "SUBSET_SIZE", 50)
    monkeypatch.setattr(statistics, "SUBSETS", 3)
    monkeypatch.setattr(statistics, "RESERVOIR", 60)
    feature = features(2000, 1).numpy()
    with LargestTensor() as largest:
        moment_sums(feature, HOST)
        kernel_sums(feature[:400], feature[400:800], HOST)
        score_sums(feature, torch.eye(12), HOST)
        subset_distances(feature, feature[:1500], 0, HOST)
    assert largest.elements <= 50 * 50
