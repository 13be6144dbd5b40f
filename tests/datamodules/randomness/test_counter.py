import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.corruptions.image_noise import CounterRNG, SeededImageRNG
from datamodules.randomness.counter import poisson_quantile

LIKE = torch.empty(7, 3, 41, 41, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_have_their_law(dtype: torch.dtype) -> None:
    numbers = CounterRNG(3, 1, torch.arange(7))
    like = LIKE.to(dtype)
    for drawn, law in ((numbers.uniform(like), stats.uniform), (numbers.normal(like), stats.norm)):
        assert (drawn.shape, drawn.dtype) == (like.shape, dtype)
        assert stats.kstest(drawn.flatten().numpy(), law.cdf).pvalue > 1e-3
        rows = drawn.flatten(1).numpy()
        assert np.abs(np.corrcoef(rows) - np.eye(7)).max() < 0.07  # samples are independent
        halves = rows[:, :-1].reshape(7, 2, -1)  # the two numbers of a word
        assert abs(np.corrcoef(halves[:, 0].ravel(), halves[:, 1].ravel())[0, 1]) < 0.03
        assert float(drawn.abs().max()) < 6


def test_numbers_follow_from_seed_visit_sample_and_the_call_alone() -> None:
    first, again = (CounterRNG(3, 1, torch.tensor([5, 2])) for _ in range(2))
    alone = CounterRNG(3, 1, torch.tensor([2]))
    for _ in range(2):
        drawn = first.normal(LIKE[:2])
        assert torch.equal(drawn, again.normal(LIKE[:2]))
        assert torch.equal(drawn[1:], alone.normal(LIKE[:1]))
    others = [CounterRNG(4, 1, torch.tensor([2])), CounterRNG(3, 2, torch.tensor([2])), alone]
    assert all(not torch.equal(drawn[1:], other.normal(LIKE[:1])) for other in others)


def test_numbers_of_one_image_are_numpys_in_the_order_rows_columns_channels() -> None:
    numbers, like = SeededImageRNG(0), torch.empty(1, 3, 4, 5)
    np.random.seed(0)  # noqa: NPY002
    for drawn in (numbers.normal(like), numbers.normal(like)):
        expected = np.random.normal(0, 1, (4, 5, 3))  # noqa: NPY002
        np.testing.assert_array_equal(drawn[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("rate", [0.0, 1e-3, 0.05, 0.7, 3.0, 7.99, 8.01, 21.0, 200.0, 1e4])
def test_poissons_quantiles_are_scipys(rate: float) -> None:
    tail = np.logspace(-16, -1, 61)
    u = np.concatenate([tail[tail > 1.2e-16], np.linspace(0.1, 0.9, 301), 1 - tail[tail > 1.2e-16]])
    k = poisson_quantile(torch.from_numpy(u), torch.full((len(u),), rate, dtype=torch.float64)).numpy()
    expected = stats.poisson.ppf(u, rate)
    # Where u is the end of a step but for rounding, either count is right.
    near = np.abs(stats.poisson.cdf(np.minimum(k, expected), rate) - u) < 1e-14
    np.testing.assert_array_equal(k[~near], expected[~near])


@pytest.mark.parametrize("shape", [1.0, 2.5, 50.0, 3000.0])
def test_gamma_numbers_have_their_law(shape: float) -> None:
    drawn = CounterRNG(0, 0, torch.arange(7)).gamma(torch.full_like(LIKE, shape))
    assert stats.kstest(drawn.flatten().numpy(), stats.gamma(shape).cdf).pvalue > 1e-3


def test_poisson_and_gamma_numbers_of_one_image_are_numpys() -> None:
    rate = torch.rand(1, 3, 4, 5).double() * 9
    in_rows = rate[0].permute(1, 2, 0).numpy()
    random = np.random.RandomState(0)
    for kind in ("poisson", "standard_gamma"):
        expected = getattr(random, kind)(in_rows)
        random.seed(0)
        drawn = getattr(SeededImageRNG(0), kind.removeprefix("standard_"))(rate)
        np.testing.assert_array_equal(drawn[0].permute(1, 2, 0).numpy(), expected)
