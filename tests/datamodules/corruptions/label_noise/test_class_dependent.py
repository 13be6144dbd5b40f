import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.corruptions.label_noise import (
    AsymmetricCIFAR10,
    AsymmetricMNIST,
    BlocksCIFAR100,
    LabelNoise,
    PairFlip,
    SuperclassCIFAR100,
    Symmetric,
    cifar100_superclass,
    empirical_transition_matrix,
)
from datamodules.corruptions.label_noise.class_dependent import rounded_up
from tests.datamodules.corruptions.label_noise.examples import CLASS_DEPENDENT, name, shuffled_labels


def off_diagonal_flow(matrix: Tensor) -> dict[tuple[int, int], float]:
    """Return the possible (true, given) pairs of different classes, with the probability of each pair."""
    return {(i, j): matrix[i, j].item() for i, j in itertools.permutations(range(len(matrix)), 2) if matrix[i, j] > 0}


@pytest.mark.parametrize(("noise", "num_classes"), CLASS_DEPENDENT, ids=name)
def test_frequencies_of_given_labels_are_the_transition_matrix(noise: LabelNoise, num_classes: int) -> None:
    per_class = 400_000 // num_classes
    label = shuffled_labels(per_class, num_classes)
    expected = noise.transition_matrix(num_classes)
    found = empirical_transition_matrix(label, noise.apply(label, num_classes), num_classes)
    error = (expected * (1 - expected) / per_class).sqrt()

    assert expected.dtype == torch.float64
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(num_classes, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (found[expected == 0] == 0).all()
    assert (found[expected == 1] == 1).all()
    uncertain = error > 0
    deviation = (found - expected)[uncertain] / error[uncertain]
    assert (deviation.abs() > 3).double().mean() <= 0.01  # 0.3 % of normal deviations exceed 3
    assert deviation.abs().max() < 4
    mean_error = math.sqrt((expected.diag() * (1 - expected.diag())).sum() / per_class) / num_classes
    assert abs((found.diag() - expected.diag()).mean()) <= 3 * mean_error


@pytest.mark.parametrize("count", [100, 45_000, 50_000, 1_281_167, 100_000_000])
def test_a_rate_in_percent_takes_its_exact_share_rounded_up(count: int) -> None:
    rates = range(100)
    assert [rounded_up(percent / 100, count) for percent in rates] == [-(-percent * count // 100) for percent in rates]


def test_no_label_more_is_drawn_where_the_product_rounds_up() -> None:
    label = shuffled_labels(5_000, 10)
    assert math.ceil(0.07 * 50_000) == 3_501
    assert (Symmetric(0.07, include_true_class=False, seed=0).apply(label, 10).numpy() != label).sum() == 3_500
    few = shuffled_labels(100, 10)  # 0.07 * 100 is 7.000000000000001
    flipped = AsymmetricCIFAR10(0.07, seed=0).apply(few, 10).numpy()
    assert [(flipped[few == k] != k).sum() for k in (2, 3, 4, 5, 9)] == [7] * 5


@pytest.mark.parametrize(
    ("noise", "pairs"),
    [
        (AsymmetricCIFAR10(0.3), [(9, 1), (2, 0), (4, 7), (3, 5), (5, 3)]),
        (AsymmetricMNIST(0.3), [(2, 7), (3, 8), (5, 6), (6, 5), (7, 1)]),
        (PairFlip(0.3), [(k, (k + 1) % 10) for k in range(10)]),
    ],
    ids=name,
)
def test_flips_are_those_of_the_papers(noise: LabelNoise, pairs: list[tuple[int, int]]) -> None:
    matrix = noise.transition_matrix(10)
    assert off_diagonal_flow(matrix) == pytest.approx(dict.fromkeys(pairs, 0.3))
    assert matrix.diag().tolist() == pytest.approx([0.7 if k in dict(pairs) else 1.0 for k in range(10)])


def test_flips_in_place_turn_some_cats_back() -> None:
    """A share r of the cats become dogs, then a share r of all dogs become cats: r (1 - r) of the cats stay dogs."""
    rate, count = 0.4, 40_000
    label = shuffled_labels(count, 10)
    noisy = AsymmetricCIFAR10(rate, sequential_quirk=True, seed=0).apply(label, 10).numpy()
    became_dogs = (noisy[label == 3] == 5).sum()
    became_cats = (noisy[label == 5] == 3).sum()
    assert abs(became_dogs / count - rate * (1 - rate)) < 3 * math.sqrt(rate * 0.24 / count)
    assert abs(became_cats / count - rate) < 3 * math.sqrt(0.24 / count)
    # The second flip takes a share r of all dogs after the first flip: true dogs, and cats that turn back.
    assert became_cats + (rate * count - became_dogs) == rate * (count + rate * count)
    assert (noisy[np.isin(label, [0, 1, 6, 7, 8])] == label[np.isin(label, [0, 1, 6, 7, 8])]).all()


FINE_TO_COARSE = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7
6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10
16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16
12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
"""


def test_superclasses_agree_with_the_labels_of_the_data_set() -> None:
    """`FINE_TO_COARSE` lists the dataset's superclass ids; the noise module derives them from the class names."""
    assert cifar100_superclass().tolist() == [int(number) for number in FINE_TO_COARSE.split()]


def test_superclasses_are_twenty_of_five_and_flips_stay_inside_going_round_all_five() -> None:
    superclass = cifar100_superclass()
    assert np.bincount(superclass).tolist() == [5] * 20
    label = shuffled_labels(200, 100)
    noisy = SuperclassCIFAR100(0.9, seed=0).apply(label, 100).numpy()
    np.testing.assert_array_equal(superclass[noisy], superclass[label])
    step = SuperclassCIFAR100(0.0, seed=0).target(100)
    orbit = np.stack(list(itertools.accumulate(range(4), lambda seen, _: step[seen], initial=np.arange(100))))
    assert all(len(set(column)) == 5 for column in orbit.T)
    np.testing.assert_array_equal(step[orbit[-1]], np.arange(100))
    assert step[4] == 30  # beaver -> dolphin


def test_blocks_have_r_above_the_diagonal_and_wrap_around() -> None:
    block = BlocksCIFAR100(0.3).transition_matrix(100)[35:40, 35:40]
    expected = 0.7 * torch.eye(5, dtype=torch.float64) + 0.3 * torch.eye(5, dtype=torch.float64).roll(1, dims=1)
    torch.testing.assert_close(block, expected)
