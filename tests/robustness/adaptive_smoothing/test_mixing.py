import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from lightning_modules.robustness.adaptive_smoothing.mixing import (
    lipschitz_radius,
    log_mixture,
    smoothed_lipschitz,
    smoothing_radius,
    tight_smoothing_radius,
)
from tests.robustness.adaptive_smoothing.small_mixture import normal


def simplex(count: int, classes: int, seed: int) -> Tensor:
    return normal(count, classes, seed=seed, scale=3).softmax(dim=1)


@settings(max_examples=30, deadline=None)
@given(alpha=st.floats(0.01, 0.99), seed=st.integers(0, 10_000))
def test_softmax_of_the_mixture_is_the_convex_combination(alpha: float, seed: int) -> None:
    g, h = normal(6, 5, seed=seed, scale=4), normal(6, 5, seed=seed + 1, scale=4)
    expected = (1 - alpha) * g.softmax(dim=1) + alpha * h.softmax(dim=1)
    mixed = log_mixture(g, h, alpha)
    torch.testing.assert_close(mixed.softmax(dim=1), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed.exp().sum(dim=1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)
    per_image = torch.linspace(0, 1, 6, dtype=torch.float64)
    expected = (1 - per_image)[:, None] * g.softmax(dim=1) + per_image[:, None] * h.softmax(dim=1)
    torch.testing.assert_close(log_mixture(g, h, per_image).exp(), expected, rtol=0, atol=1e-12)


def test_at_its_ends_the_mixture_is_one_classifier() -> None:
    g, h = normal(6, 5), normal(6, 5, seed=1)
    torch.testing.assert_close(log_mixture(g, h, 0.0), g.log_softmax(dim=1))
    torch.testing.assert_close(log_mixture(g, h, 1.0), h.log_softmax(dim=1))


def test_large_scales_do_not_underflow() -> None:
    """With logits of +-200, the probabilities underflow in float32 and float16, but their logarithms do not."""
    g = 200 * torch.tensor([[1.0, -1.0, 0.5]])
    h = torch.tensor([[-150.0, 150.0, 0.0]])
    expected = np.logaddexp(
        np.log(0.1) + (g.double() - torch.logsumexp(g.double(), 1)).numpy(),
        np.log(0.9) + (h.double() - torch.logsumexp(h.double(), 1)).numpy(),
    )
    for dtype in (torch.float32, torch.float16):
        mixed = log_mixture(g.to(dtype), h.to(dtype), 0.9)
        assert mixed.dtype == torch.float32
        np.testing.assert_allclose(mixed.double().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.51, 0.6, 0.75, 0.95])
def test_a_class_of_sufficient_margin_is_never_outvoted(alpha: float, seed: int) -> None:
    g, h = simplex(20_000, 4, seed), simplex(20_000, 4, seed + 100)
    top = h.topk(2, dim=1).values
    safe = top[:, 0] - top[:, 1] >= (1 - alpha) / alpha
    kept = log_mixture(g.log(), h.log(), alpha).argmax(dim=1) == h.argmax(dim=1)
    assert safe.sum() > 20
    assert kept[safe].all()
    assert not kept[~safe].all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
def test_up_to_one_half_any_class_can_be_outvoted(alpha: float) -> None:
    h, g = torch.tensor([[0.999, 0.0005, 0.0005]]), torch.tensor([[0.0, 1.0, 0.0]])
    assert log_mixture(g.log(), h.log(), alpha).argmax() == 1
    assert smoothing_radius(0.999, 0.0005, alpha, 0.5) < 0
    assert tight_smoothing_radius(0.999, alpha, 0.5) < 0


@settings(max_examples=50, deadline=None)
@given(p=st.floats(0.4, 0.9999), share=st.floats(0.01, 1), alpha=st.floats(0.05, 1), sigma=st.floats(0.1, 2))
def test_smoothing_radius(p: float, share: float, alpha: float, sigma: float) -> None:
    second = share * min(p, 1 - p)
    radius = float(smoothing_radius(p, second, alpha, sigma))
    assert radius <= float(smoothing_radius(p, second, min(alpha + 0.05, 1), sigma)) + 1e-9
    if alpha <= 0.5:
        assert radius < 0
    # The expression in the authors' code, with mu = (1 - alpha) / alpha.
    mu = (1 - alpha) / alpha
    published = sigma / 2 * (stats.norm.ppf(p / (1 + mu)) - stats.norm.ppf((second + mu) / (1 + mu)))
    assert radius == pytest.approx(published, rel=1e-7, abs=1e-9)
    two_class = sigma / 2 * (stats.norm.ppf(p) - stats.norm.ppf(second))
    assert float(smoothing_radius(p, second, 1.0, sigma)) == pytest.approx(two_class)
    single = sigma * stats.norm.ppf(alpha * p)
    assert float(smoothing_radius(p, 1 - p, alpha, sigma)) == pytest.approx(single, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("distance", [0.1, 0.3, 0.8])
def test_flipping_a_smoothed_half_space_takes_the_certified_radius_whatever_g_is(alpha: float, distance: float) -> None:
    """At distance m from the plane, h_0 is Phi(m / sigma); the worst g is the one that always predicts class 1."""
    sigma = 0.5

    def robust(m: float) -> float:
        return float(stats.norm.cdf(m / sigma))

    radius = float(smoothing_radius(robust(distance), 1 - robust(distance), alpha, sigma))
    low, high = -5.0, 5.0
    for _ in range(80):  # the distance at which alpha h_0 = (1 - alpha) + alpha h_1
        middle = (low + high) / 2
        flipped = alpha * robust(middle) < 1 - alpha + alpha * (1 - robust(middle))
        low, high = (middle, high) if flipped else (low, middle)
    assert max(distance - high, 0) >= radius - 1e-9
    assert distance - high == pytest.approx(float(tight_smoothing_radius(robust(distance), alpha, sigma)), abs=1e-9)
    if alpha == 1:
        assert radius == pytest.approx(distance)


@pytest.mark.parametrize("alpha", [0.5, 0.6, 0.9, 1.0])
def test_lipschitz_radius_is_where_the_worst_classifier_flips(alpha: float) -> None:
    """In the worst case, h_y falls and h_i rises as fast as their constants allow, and g always predicts class i."""
    h, slope = np.array([0.7, 0.2, 0.06, 0.04]), np.array([0.5, 0.3, 0.9, 2.0])
    radius = float(lipschitz_radius(h[0], h[1:], alpha, slope[0], slope[1:]))
    margins = [
        lambda r, i=i: alpha * (h[0] - slope[0] * r) - (1 - alpha) - alpha * (h[i] + slope[i] * r) for i in (1, 2, 3)
    ]
    assert min(margin(radius) for margin in margins) == pytest.approx(0, abs=1e-12)
    assert min(margin(radius - 0.01) for margin in margins) > 0
    assert (radius > 0) == (alpha > 0.6)
    batch = lipschitz_radius(h[[0, 0]], np.stack([h[1:], h[1:]]), alpha, slope[0], slope[1:])
    np.testing.assert_allclose(batch, [radius, radius])


def test_the_constant_of_a_smoothed_half_space_is_the_slope_at_its_plane() -> None:
    for sigma in (0.25, 1.0):
        slope = (stats.norm.cdf(1e-5 / sigma) - stats.norm.cdf(-1e-5 / sigma)) / 2e-5
        assert smoothed_lipschitz(sigma) == pytest.approx(slope, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(p=st.floats(0.5, 0.9999), alpha=st.floats(0.05, 1), sigma=st.floats(0.1, 2))
def test_lipschitz_radius_of_a_smoothed_classifier_never_exceeds_the_tight_one(
    p: float, alpha: float, sigma: float
) -> None:
    constant = smoothed_lipschitz(sigma)
    radius = float(lipschitz_radius(p, [1 - p], alpha, constant, constant))
    assert radius <= max(float(tight_smoothing_radius(p, alpha, sigma)), 0) + 1e-9
    assert radius == pytest.approx((2 * alpha * p - 1) / (2 * alpha * constant), rel=1e-9, abs=1e-12)
