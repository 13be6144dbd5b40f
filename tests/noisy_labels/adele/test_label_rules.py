import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.noisy_labels.adele.label_rules import (
    categories_due,
    confident_prediction,
    merged_label,
    updated_label,
)

K, H, W = 4, 5, 6


def random_case(seed: int, num_images: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Draw labels with few categories per image and ignored pixels, probabilities, and the categories to correct."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(K, (num_images, H, W), generator=random)
    absent = torch.randint(K, (num_images, 1, 1), generator=random)
    label = torch.where((label == absent) & (absent > 0), 0, label)
    label[0] = 0
    label[torch.rand(num_images, H, W, generator=random) < 0.1] = 255
    probability = (3 * torch.randn(num_images, K, H, W, generator=random)).softmax(1)
    on = torch.rand(K, generator=random) < 0.5
    return label, probability, on


def merged_by_definition(y: Tensor, p: Tensor, on: set[int], tau_fg: float, tau_bg: float) -> Tensor:
    shown, k = set(y.unique().tolist()), p.argmax(0)
    confident = (p[1:].amax(0) > tau_fg) | (p[0] > tau_bg)
    corrected, allowed = (torch.tensor([*each]) for each in (on | {0}, (on & shown) | {0}))
    changes = confident & torch.isin(y, corrected) & torch.isin(k, allowed)
    return torch.where(changes, k, y) if shown & on else y


def updated_by_definition(y: Tensor, p: Tensor, on: set[int], tau: float) -> Tensor:
    shown, k = set(y.unique().tolist()) - {255}, p.argmax(0)
    if not shown & on and shown - {0}:
        return y
    allowed = (on | {0}) & shown if shown - {0} else on | {0}
    new = torch.where((p.amax(0) > tau) & torch.isin(k, torch.tensor([*allowed])), k, y)
    before, after = (each[y != 255] != 0 for each in (y, new))
    return y if after.sum() < 0.5 * before.sum() and (~after).float().mean() > 0.95 else new


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_rules_equal_their_definition_and_merging_is_idempotent(seed: int) -> None:
    label, p, on = random_case(seed)
    categories = set(on.nonzero().flatten().tolist()) - {0}
    predicted = confident_prediction(p, 0.7, 0.6)
    merged = merged_label(label, predicted, on)
    highest, k = p.max(1)
    updated = updated_label(label, k, highest, on, 0.6)
    for b, y in enumerate(label):
        assert torch.equal(merged[b], merged_by_definition(y, p[b], categories, 0.7, 0.6))
        assert torch.equal(updated[b], updated_by_definition(y, p[b], categories, 0.6))
    assert torch.equal(merged_label(merged, predicted, on), merged)
    assert torch.equal(merged_label(label, predicted, torch.tensor([True, False, False, False])), label)


def test_a_confidence_of_exactly_tau_is_not_enough() -> None:
    p = torch.zeros(1, K, 1, 3, dtype=torch.float64)
    p[0, 1, 0, :2], p[0, 2, 0, :2] = torch.tensor([0.75, 0.76]), torch.tensor([0.25, 0.24])
    p[0, 0, 0, 2], p[0, 1, 0, 2] = 0.75, 0.25
    assert confident_prediction(p, 0.75, 0.75).tolist() == [[[255, 1, 255]]]
    assert confident_prediction(p, 0.75, 0.7).tolist() == [[[255, 1, 0]]]
    label, on = torch.tensor([[[2, 2, 1]]]), torch.tensor([False, True, True, False])
    highest, k = p.max(1)
    assert updated_label(label, k, highest, on, 0.75).tolist() == [[[2, 1, 1]]]


def test_update_skips_images_that_would_nearly_lose_their_foreground() -> None:
    label = torch.zeros(2, 10, 10, dtype=torch.int64)
    label[0, 0, :9], label[1, :2] = 1, 1  # 9 and 20 foreground pixels out of 100
    k = torch.zeros_like(label)
    k[0, 0, :4], k[1, 0, :9] = 1, 1  # 4 and 9 remain: 96 and 91 background pixels
    on = torch.tensor([False, True])
    certain = torch.ones(2, 10, 10)
    new = updated_label(label, k, certain, on, 0.8)
    assert torch.equal(new[0], label[0])
    assert torch.equal(new[1], k[1])
    filled = [F.pad(each, (0, 7, 0, 3), value=value) for each, value in ((label, 255), (k, 0))]
    assert torch.equal(updated_label(*filled, torch.ones(2, 13, 17), on, 0.8)[:, :10, :10], new)


def test_background_enters_an_image_that_shows_none_by_merging_alone() -> None:
    label, k = torch.ones(1, 1, 3, dtype=torch.int64), torch.tensor([[[0, 1, 2]]])
    on = torch.tensor([False, True, True])
    assert merged_label(label, k, on).tolist() == [[[0, 1, 1]]]
    assert updated_label(label, k, torch.ones(1, 1, 3), on, 0.8).tolist() == [[[1, 1, 1]]]


def test_update_gives_images_of_background_alone_any_category_that_is_on() -> None:
    label, k = torch.zeros(1, 1, 3, dtype=torch.int64), torch.tensor([[[1, 2, 0]]])
    on = torch.tensor([False, True, False])
    assert updated_label(label, k, torch.ones(1, 1, 3), on, 0.8).tolist() == [[[1, 0, 0]]]


def test_a_category_is_corrected_at_the_first_epoch_of_each_stretch_of_ten_at_which_it_has_ended() -> None:
    """In 1-based epochs, early learning has ended for category 1 from 5 to 17 and from 24, for category 2 from 12."""
    corrected = torch.zeros(3, dtype=torch.bool)
    found: dict[int, list[int]] = {}
    for number in range(1, 41):
        ended = torch.tensor([False, number >= 5 and not 18 <= number <= 23, number >= 12])
        on, corrected = categories_due(ended, corrected, number - 1, 10)
        if on.any():
            found[number] = on.nonzero().flatten().tolist()
    assert found == {5: [1], 10: [1], 12: [2], 20: [2], 24: [1], 30: [1, 2], 40: [1, 2]}
