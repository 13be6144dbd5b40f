import numpy as np
import torch
from scipy import stats

from datamodules.corruptions.image_noise import CounterRNG, Gamma, Impulse, Poisson, SeededImageRNG

CLEAN = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double() * 0.9 + 0.05
LEVELS = torch.tensor([0.0, 0.1, 0.7, 1.0], dtype=torch.float64)[:, None, None, None].expand(4, 1, 120, 120)


def moments(noise: Poisson | Gamma | Impulse) -> tuple[np.ndarray, np.ndarray]:
    drawn = noise.sample(LEVELS, CounterRNG(0, 0, torch.arange(4))).flatten(1)
    return drawn.mean(dim=1).numpy(), drawn.var(dim=1).numpy()


def test_means_and_variances_are_those_of_the_laws() -> None:
    x = LEVELS[:, 0, 0, 0].numpy()
    for noise, variance in ((Poisson(0.05), 0.05 * x), (Gamma(50), x**2 / 50)):
        mean, spread = moments(noise)
        np.testing.assert_allclose(mean, x, atol=4 * np.sqrt(variance.max() / 14400))
        np.testing.assert_allclose(spread, variance, rtol=0.06, atol=1e-12)
    mean, _ = moments(Impulse(0.3, salt=0.2))
    np.testing.assert_allclose(mean, 0.7 * x + 0.3 * 0.2, atol=0.015)


def test_poisson_noise_of_the_protocol_is_whole_counts_of_numpys_generator() -> None:
    drawn = Poisson(0.05).sample(CLEAN[:1], SeededImageRNG())
    expected = 0.05 * np.random.RandomState(0).poisson(CLEAN[0].permute(1, 2, 0).numpy() / 0.05)
    np.testing.assert_allclose(drawn[0].permute(1, 2, 0), expected, rtol=1e-15)


def test_likelihoods_are_scipys() -> None:
    x = CLEAN.numpy()
    noisy = Poisson(0.05).sample(CLEAN, CounterRNG(0, 0, torch.arange(2)))
    expected = stats.poisson(x / 0.05).logpmf((noisy / 0.05).round().numpy())
    np.testing.assert_allclose(Poisson(0.05).log_likelihood(noisy, CLEAN), expected.reshape(2, -1).sum(1), rtol=1e-9)
    noisy = Gamma(50).sample(CLEAN, CounterRNG(0, 0, torch.arange(2)))
    expected = stats.gamma(50, scale=x / 50).logpdf(noisy.numpy())
    np.testing.assert_allclose(Gamma(50).log_likelihood(noisy, CLEAN), expected.reshape(2, -1).sum(1), rtol=1e-9)
    clean, noisy = torch.tensor([[0.0, 0.5, 0.5, 1.0]]), torch.tensor([[0.0, 1.0, 0.5, 0.0]])
    probability = (0.7 + 0.3 * 0.8) * (0.3 * 0.2) * 0.7 * (0.3 * 0.8)
    torch.testing.assert_close(Impulse(0.3, 0.2).log_likelihood(noisy, clean), torch.tensor([probability]).log())


def test_gamma_noise_of_an_inverse_gamma_prior_has_its_posterior_mean() -> None:
    """For the prior x ~ IG(a, b), 1 / E[1 / x | y] = (b + k y) / (a + k)."""
    y, a, b, k = CLEAN, 3.0, 0.7, 50.0
    score = (k - 1) / y - k * (a + k) / (b + k * y)
    torch.testing.assert_close(Gamma(k).posterior_mean(y, score), (b + k * y) / (a + k), rtol=1e-12, atol=0)
    assert float(Gamma(1.5).posterior_mean(y, 100 / y).min()) > 0  # the denominator stays positive
    torch.testing.assert_close(Gamma(1e9).posterior_mean(y, torch.ones_like(y)), y, rtol=1e-8, atol=0)  # little noise


def test_poisson_noise_of_a_gamma_prior_has_nearly_its_posterior() -> None:
    """The rates x / zeta have the distribution Gamma(shape a, rate b), so that x is proportional to zeta."""
    z, a, b = torch.arange(60, dtype=torch.float64), 2.5, 0.3
    digamma = torch.special.digamma
    score = digamma(z + a) - digamma(z + 1) - np.log(1 + b)
    estimate = Poisson(0.05).posterior_mean(0.05 * z, score)
    error = estimate / (0.05 * digamma(z + a).exp() / (1 + b)) - 1
    assert float(error[5:].abs().max()) < 2e-3
    assert float(error[20:].abs().max()) < 2e-4
    assert -0.12 < float(error[0]) < -0.10
    torch.testing.assert_close(Poisson(0.1).posterior_mean(0.1 * z, score), 2 * estimate)
    torch.testing.assert_close(Poisson(0.05).score_input(0.05 * z), z)
