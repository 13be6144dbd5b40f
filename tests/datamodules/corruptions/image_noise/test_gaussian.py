import numpy as np
import torch
from scipy import stats

from datamodules.corruptions.image_noise import CorrelatedGaussian, CounterRNG, Gaussian

RANDOM = np.random.default_rng(0)


def numbers(count: int = 50) -> CounterRNG:
    return CounterRNG(0, 0, torch.arange(count))


def test_the_formula_of_tweedie_gives_a_gaussian_priors_posterior_mean() -> None:
    """With the prior N(m, t2), the score of the noisy image y is -(y - m) / (t2 + v)."""
    y, m, t2, v = torch.from_numpy(RANDOM.normal(0.5, 0.4, (3, 1, 5, 4))), 0.3, 0.02, (50 / 255) ** 2
    mean = Gaussian(50).posterior_mean(y, -(y - m) / (t2 + v))
    torch.testing.assert_close(mean, m + t2 / (t2 + v) * (y - m), rtol=0, atol=1e-12)
    assert torch.equal(Gaussian(0).posterior_mean(y, y.exp()), y)  # without noise, the mean is y


def test_the_likelihood_is_scipys() -> None:
    clean, noisy = torch.rand(2, 3, 4, 5).double(), torch.rand(2, 3, 4, 5).double()
    expected = stats.norm(clean.numpy(), 25 / 255).logpdf(noisy.numpy()).reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(Gaussian(25).log_likelihood(noisy, clean), expected, rtol=1e-12)


def test_each_image_draws_its_level_log_uniformly() -> None:
    clean = torch.zeros(400, 1, 30, 30, dtype=torch.float64)
    spread = Gaussian((5, 50)).sample(clean, numbers(400)).flatten(1).std(dim=1).numpy() * 255
    assert stats.kstest(np.log(spread), stats.uniform(np.log(5), np.log(10)).cdf).pvalue > 1e-3


def dense(noise: CorrelatedGaussian, height: int, width: int) -> np.ndarray:
    """Compute the covariance of an image's noise from the kernel, as a sum over the white-noise pixels."""
    kernel = noise.kernel(torch.empty(0, dtype=torch.float64)).numpy()
    along = [
        np.array([[sum(kernel[k] * kernel[k + a - b] for k in range(len(kernel)) if 0 <= k + a - b < len(kernel))
                   for a in range(n)] for b in range(n)])
        for n in (height, width)
    ]  # fmt: skip
    return (25 / 255) ** 2 * np.kron(*along)


def test_correlated_noise_has_the_covariance_that_it_says() -> None:
    noise = CorrelatedGaussian(25, blur=0.7)
    clean = torch.full((20_000, 1, 3, 4), 0.5, dtype=torch.float64)
    drawn = (noise.sample(clean, numbers(20_000)) - clean).flatten(1).numpy()
    expected = dense(noise, 3, 4)
    np.testing.assert_allclose(np.diag(expected), (25 / 255) ** 2, rtol=1e-12)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=4 * (25 / 255) ** 2 * np.sqrt(2 / 20_000))


def test_correlated_noise_of_a_gaussian_prior_has_its_posterior_mean() -> None:
    noise, m, t2 = CorrelatedGaussian(25, blur=0.7), 0.3, 0.02
    covariance = dense(noise, 5, 6)
    y = RANDOM.normal(0.4, 0.2, 30)
    score = -np.linalg.solve(covariance + t2 * np.eye(30), y - m)
    mean = noise.posterior_mean(*(torch.from_numpy(each).view(1, 1, 5, 6) for each in (y, score)))
    expected = m + t2 * np.linalg.solve(covariance + t2 * np.eye(30), y - m)
    np.testing.assert_allclose(mean.flatten(), expected, atol=1e-12)
