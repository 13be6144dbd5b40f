import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.corruptions.image_noise import NumbersOfOneImage, SampleNumbers

LIKE = torch.empty(7, 3, 41, 41, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_have_their_law(dtype: torch.dtype) -> None:
    numbers = SampleNumbers(3, 1, torch.arange(7))
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
    first, again = (SampleNumbers(3, 1, torch.tensor([5, 2])) for _ in range(2))
    alone = SampleNumbers(3, 1, torch.tensor([2]))
    for _ in range(2):
        drawn = first.normal(LIKE[:2])
        assert torch.equal(drawn, again.normal(LIKE[:2]))
        assert torch.equal(drawn[1:], alone.normal(LIKE[:1]))
    others = [SampleNumbers(4, 1, torch.tensor([2])), SampleNumbers(3, 2, torch.tensor([2])), alone]
    assert all(not torch.equal(drawn[1:], other.normal(LIKE[:1])) for other in others)


def test_numbers_of_one_image_are_numpys_in_the_order_rows_columns_channels() -> None:
    numbers, like = NumbersOfOneImage(0), torch.empty(1, 3, 4, 5)
    np.random.seed(0)  # noqa: NPY002
    for drawn in (numbers.normal(like), numbers.normal(like)):
        expected = np.random.normal(0, 1, (4, 5, 3))  # noqa: NPY002
        np.testing.assert_array_equal(drawn[0].permute(1, 2, 0).numpy(), expected)
