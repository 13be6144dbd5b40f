import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from callbacks.early_learning.counts import (
    RunningCounts,
    count_categories,
    count_right_labels,
    label_fit,
    overall_shares,
)


def random_labels(shape: tuple[int, ...], num_classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], num_classes, *shape[1:], generator=generator)
    given, true = torch.randint(num_classes, (2, *shape), generator=generator)
    return logits, given, true


def one_by_one(predicted: Tensor, label: Tensor) -> np.ndarray:
    """Count how often each of four categories is the label, the prediction, and both, `[3, 4]`; 255 is ignored."""
    counts = np.zeros((3, 4), dtype=int)
    for p, y in zip(predicted.flatten(), label.flatten(), strict=True):
        for k in range(4):
            counts[:, k] += (y == k, y != 255 and p == k, y == k and p == k)
    return counts


@pytest.mark.parametrize("shape", [(50,), (4, 6, 5)], ids=["samples", "pixels"])
def test_counts_equal_counting_one_by_one(shape: tuple[int, ...]) -> None:
    logits, given, true = random_labels(shape, 4, seed=0)
    given.view(-1)[::7], true.view(-1)[::5] = 255, 255
    p = logits.argmax(1)
    false = one_by_one(p, given.where((given != true) & (true != 255), torch.tensor(255)))
    expected = np.concatenate([one_by_one(p, given), one_by_one(p, true), false[[0, 2]]])
    np.testing.assert_array_equal(count_categories(logits, given, true), expected)
    without_truth = count_categories(logits, given)
    np.testing.assert_array_equal(without_truth[:3], expected[:3])
    assert (without_truth[3:] == 0).all()


def test_255_is_a_category_of_samples_and_ignored_in_pixels() -> None:
    logits, label = torch.zeros(2, 300, 1, 1), torch.full((2, 1, 1), 255)
    logits[:, 255] = 1
    assert count_categories(logits, label)[2].sum() == 0
    assert count_categories(logits.flatten(1), label.flatten())[2, 255] == 2


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 29), st.integers(0, 100))
def test_counts_of_two_parts_add_up_to_those_of_the_whole(cut: int, seed: int) -> None:
    logits, given, true = random_labels((30, 3, 3), 5, seed)
    halves = (slice(cut), slice(cut, None))
    parts = sum(count_categories(logits[rows], given[rows], true[rows]) for rows in halves)
    whole = count_categories(logits, given, true)
    assert torch.equal(parts, whole)
    assert torch.equal(label_fit(*parts[:3], per_pixel=True), label_fit(*whole[:3], per_pixel=True))


@pytest.mark.parametrize("per_pixel", [True, False])
def test_fits_of_many_pixels_are_not_rounded_to_single_precision(per_pixel: bool) -> None:
    """2^24 + 1 is the smallest positive integer that single precision cannot represent."""
    many = torch.tensor([2**24 + 1])
    assert label_fit(many, many, many, per_pixel).item() == 1
    wrong = 2 if per_pixel else 1  # a wrong pixel counts twice in the union
    one_less = label_fit(many, many, many - 1, per_pixel).item()
    assert one_less == pytest.approx(1 - wrong / (many.item() + wrong - 1), rel=1e-12)


def test_counting_never_waits_for_the_device() -> None:
    """The test runs on the meta device, where any operation that needs a value fails."""
    label = torch.zeros(3, 4, 4, dtype=torch.int64, device="meta")
    assert count_categories(torch.zeros(3, 5, 4, 4, device="meta"), label, label).is_meta
    assert count_right_labels(label, label, 5).is_meta


def test_right_labels_equal_counting_one_by_one() -> None:
    """A pixel labelled 255 counts as missing from its true category; a pixel with the true label 255 is not counted."""
    _, current, true = random_labels((4, 6, 5), 4, seed=1)
    current.view(-1)[::7], true.view(-1)[::5] = 255, 255
    np.testing.assert_array_equal(count_right_labels(current, true, 4), one_by_one(current, true))


def test_a_half_counted_epoch_is_saved_and_goes_on() -> None:
    """With an interval of 2, records end at batches 0, 2, 4, ...; each epoch starts a new record."""
    whole, half = RunningCounts(3, 2), RunningCounts(3, 2)
    for number in range(5):
        whole.add(7, torch.full((11, 3), 10**number))
    for number in range(4):
        half.add(7, torch.full((11, 3), 10**number))
    resumed = RunningCounts(3, 2)
    resumed.load_state_dict(half.state_dict())
    resumed.add(7, torch.full((11, 3), 10**4))
    assert resumed.epoch == 7
    counts = resumed.close()
    assert counts[:, 0, 0].tolist() == [1, 110, 11000, 0]
    assert torch.equal(counts, whole.close())
    assert resumed.epoch is None
    assert resumed.close().shape == (1, 11, 3)


def test_a_category_that_is_predicted_and_never_labelled_has_an_iou_of_zero() -> None:
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 1])].T.view(1, 3, 2, 2)  # nothing is known about the third category
    counts = torch.nn.functional.pad(count_categories(logits, torch.zeros(1, 2, 2).long()), (0, 0, 0, 3))
    assert overall_shares(counts, per_pixel=True)["fit_given"].item() == pytest.approx((0.5 + 0) / 2)
    never = overall_shares(torch.zeros_like(counts), per_pixel=True)["fit_given"]
    assert never.isnan()
