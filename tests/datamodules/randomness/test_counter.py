import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from datamodules.corruptions.image_noise import CounterRNG, SeededImageRNG
from datamodules.randomness import counter
from datamodules.randomness.counter import poisson_quantile, sample_uniform

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


def test_uniform_numbers_are_below_one_whatever_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, (2^24 - 1/2) / 2^24 is rounded to 1, whose logarithm of 1 - u is infinite."""
    monkeypatch.setattr(counter, "sample_words", lambda *_: torch.full((1, 1), -1))
    for dtype in (torch.float32, torch.float64):
        drawn = CounterRNG(0, 0, torch.arange(1)).uniform(torch.empty(1, 1, dtype=dtype))
        assert 0 < (1 - drawn).item() <= 2**-24
    rate = torch.ones(1, 1, dtype=torch.float64)
    assert CounterRNG(0, 0, torch.arange(1)).poisson(rate).isfinite().all()
    monkeypatch.setattr(counter, "sample_words", lambda *_: torch.zeros(1, 1, dtype=torch.int64))
    assert CounterRNG(0, 0, torch.arange(1)).uniform(torch.empty(1, 1)).item() == 2**-25


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
    # If u equals the end of a step up to rounding, either count is correct.
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


WORD = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """Compute the generator's output for a state with Python integers (Steele, Lea and Flood, OOPSLA 2014)."""
    z = (state + GOLDEN) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def reference_uniform(seed: int, epoch: int, index: int, count: int, stream: int) -> list[float]:
    """Compute the numbers without tensors: a key from seed, epoch and stream, a state from the sample, a sequence."""
    key = 0
    for word in (seed, epoch, stream):
        key = splitmix64(key ^ (word % WORD))
    state = splitmix64((index + key) % WORD)
    return [(splitmix64((state + k * GOLDEN) % WORD) >> 40) / 2**24 for k in range(1, count + 1)]


def test_the_generator_gives_the_published_sequence() -> None:
    """Compare with the first outputs of splitmix64 from state 1234567, a common reference for implementations."""
    outputs = [splitmix64((1234567 + k * GOLDEN) % WORD) for k in range(5)]
    assert outputs == [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_uniform_numbers_are_those_of_big_integers(
    seed: int, epoch: int, index: list[int], count: int, stream: int
) -> None:
    found = sample_uniform(seed, epoch, torch.tensor(index), count, stream)
    assert found.dtype == torch.float32
    assert found.tolist() == [reference_uniform(seed, epoch, each, count, stream) for each in index]


def test_uniform_numbers_are_uniform_and_independent() -> None:
    """Compare numbers over samples, visits of one sample, positions within one sample, seeds and streams."""
    samples = sample_uniform(0, 0, torch.arange(20_000), count=3)
    one = torch.tensor([17])
    visits = torch.cat([sample_uniform(0, epoch, one, count=3) for epoch in range(3000)])
    seeds = torch.cat([sample_uniform(seed, 0, one, count=3) for seed in range(3000)])
    for numbers in (samples, visits, seeds):
        assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
        correlation = torch.corrcoef(numbers.T)[~torch.eye(3, dtype=torch.bool)]
        assert correlation.abs().max() < 4 / len(numbers) ** 0.5
    other_stream = sample_uniform(0, 0, torch.arange(20_000), count=3, stream=1)
    next_visit = sample_uniform(0, 1, torch.arange(20_000), count=3)
    pairs = torch.stack([each[:, 0] for each in (samples, other_stream, next_visit, samples.roll(1, dims=0))])
    assert torch.corrcoef(pairs)[~torch.eye(4, dtype=torch.bool)].abs().max() < 4 / 20_000**0.5
    assert samples.min() >= 0
    assert samples.max() < 1
