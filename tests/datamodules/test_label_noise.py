import hashlib
import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor

from datamodules.batches import UNVERIFIED
from datamodules.corruptions.label_noise import (
    CIFAR100_SUPERCLASSES,
    AsymmetricCIFAR10,
    AsymmetricMNIST,
    BlocksCIFAR100,
    FromCSV,
    HumanCIFARN,
    InstanceDependent,
    LabelNoise,
    PairFlip,
    SuperclassCIFAR100,
    Symmetric,
    cifar100_superclass,
    empirical_transition_matrix,
    instance_dependent,
    interface,
)
from datamodules.corruptions.label_noise.class_dependent import rounded_up
from datamodules.corruptions.label_noise.instance_dependent import (
    class_scores,
    truncated_normal,
    truncated_normal_mean,
    wrong_class_probability,
)

RATE = 0.4
CLASS_DEPENDENT = [
    (Symmetric(RATE, seed=0), 10),
    (Symmetric(RATE, include_true_class=False, seed=0), 10),
    (AsymmetricCIFAR10(RATE, seed=0), 10),
    (AsymmetricCIFAR10(RATE, sequential_quirk=True, seed=0), 10),
    (AsymmetricMNIST(RATE, seed=0), 10),
    (PairFlip(RATE, seed=0), 7),
    (BlocksCIFAR100(RATE, seed=0), 100),
    (SuperclassCIFAR100(RATE, seed=0), 100),
]
EVERY_KIND = [*CLASS_DEPENDENT, (InstanceDependent(RATE, seed=0), 10)]


def name(value: object) -> str:
    return type(value).__name__ if not isinstance(value, int) else str(value)


def shuffled_labels(per_class: int, num_classes: int) -> np.ndarray:
    return np.random.default_rng(1).permutation(np.repeat(np.arange(num_classes), per_class))


def images(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(256, size=(count, 3, 4, 4), dtype=np.uint8))


def off_diagonal_flow(matrix: Tensor) -> dict[tuple[int, int], float]:
    """(true, given) pairs of different classes with their probabilities."""
    return {(i, j): matrix[i, j].item() for i, j in itertools.permutations(range(len(matrix)), 2) if matrix[i, j] > 0}


# Transition matrices


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
    assert (deviation.abs() > 3).double().mean() <= 0.01  # 0.3 % of normal deviations
    assert deviation.abs().max() < 4
    mean_error = math.sqrt((expected.diag() * (1 - expected.diag())).sum() / per_class) / num_classes
    assert abs((found.diag() - expected.diag()).mean()) <= 3 * mean_error


@pytest.mark.parametrize("count", [1, 10, 45_000, 50_001])
@pytest.mark.parametrize("noise_rate", [0.0, 0.2, 1 / 3, 0.8])
def test_symmetric_noise_draws_exactly_the_stated_number_of_labels_anew(count: int, noise_rate: float) -> None:
    label = np.random.default_rng(3).integers(1_000, size=count)
    noisy = Symmetric(noise_rate, include_true_class=False, seed=0).apply(label, 1_000)
    assert (noisy.numpy() != label).sum() == math.ceil(noise_rate * count)


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


@pytest.mark.parametrize("noise_rate", [0.2, 0.5, 0.8])
def test_share_of_wrong_labels_tells_the_two_symmetric_conventions_apart(noise_rate: float) -> None:
    label, num_classes = shuffled_labels(20_000, 10), 10
    with_true = Symmetric(noise_rate, seed=0).apply(label, num_classes).numpy() != label
    without = Symmetric(noise_rate, include_true_class=False, seed=0).apply(label, num_classes).numpy() != label
    drawn = noise_rate * len(label)
    error = math.sqrt(drawn * 0.1 * 0.9) / len(label)
    assert abs(with_true.mean() - noise_rate * (1 - 1 / num_classes)) < 3 * error
    assert without.sum() == math.ceil(drawn)


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


def test_each_source_class_of_cifar10_loses_exactly_its_share() -> None:
    label = shuffled_labels(5_001, 10)
    noisy = AsymmetricCIFAR10(RATE, seed=0).apply(label, 10).numpy()
    lost = [int((noisy[label == k] != k).sum()) for k in range(10)]
    assert lost == [math.ceil(RATE * 5_001) if k in (2, 3, 4, 5, 9) else 0 for k in range(10)]


def test_flips_in_place_turn_some_cats_back() -> None:
    """r of the cats become dogs, then r of all dogs become cats, so that r (1 - r) of the cats stay dogs."""
    rate, count = 0.4, 40_000
    label = shuffled_labels(count, 10)
    noisy = AsymmetricCIFAR10(rate, sequential_quirk=True, seed=0).apply(label, 10).numpy()
    became_dogs = (noisy[label == 3] == 5).sum()
    became_cats = (noisy[label == 5] == 3).sum()
    assert abs(became_dogs / count - rate * (1 - rate)) < 3 * math.sqrt(rate * 0.24 / count)
    assert abs(became_cats / count - rate) < 3 * math.sqrt(0.24 / count)
    # all dogs after the cats were flipped, less those that stayed
    assert became_cats + (rate * count - became_dogs) == rate * (count + rate * count)
    assert (noisy[np.isin(label, [0, 1, 6, 7, 8])] == label[np.isin(label, [0, 1, 6, 7, 8])]).all()


# CIFAR-100's two tables

FINE_TO_COARSE = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7
6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10
16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16
12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
"""


def test_superclasses_agree_with_the_labels_of_the_data_set() -> None:
    """`FINE_TO_COARSE` holds the ids as the data set pairs them; the module derives them from the names."""
    assert cifar100_superclass().tolist() == [int(number) for number in FINE_TO_COARSE.split()]


def test_ids_are_alphabetical_ranks() -> None:
    assert list(CIFAR100_SUPERCLASSES) == sorted(CIFAR100_SUPERCLASSES)
    fine = sorted(itertools.chain(*CIFAR100_SUPERCLASSES.values()))
    assert len(set(fine)) == 100
    assert [fine[k] for k in (0, 1, 39, 53, 98, 99)] == [
        "apple",
        "aquarium_fish",
        "keyboard",
        "orange",
        "woman",
        "worm",
    ]


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


def test_blocks_are_not_the_superclasses() -> None:
    superclass = cifar100_superclass()
    assert (superclass[BlocksCIFAR100(0.1).target(100)] != superclass).sum() > 80


# Noise that depends on the image


def test_scores_are_the_exact_linear_map() -> None:
    """Against Python integers, whose sums are exact, for uint8 pixels and for their float32 quotients by 255."""
    random = np.random.default_rng(4)
    pixel = random.integers(256, size=(3, 1, 20, 20), dtype=np.uint8)
    weight = np.rint(random.standard_normal((400, 5)) * 2**16)
    product = pixel.reshape(3, 400).astype(object) @ weight.astype(int).astype(object)
    expected = product.astype(np.float64) / 2**16
    from_integers = class_scores(torch.from_numpy(pixel), weight / 2**16)
    from_floats = class_scores(torch.from_numpy(pixel).float() / 255, weight / 2**16)
    np.testing.assert_allclose(from_integers, expected, rtol=1e-15)
    np.testing.assert_array_equal(from_floats, from_integers)


def test_no_class_weights_are_drawn_from_the_numbers_that_flip_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []

    def recorded(*arguments: Any) -> np.random.Generator:
        random = interface.random_stream(*arguments)
        states.append(str(random.bit_generator.state))
        return random

    monkeypatch.setattr(instance_dependent, "random_stream", recorded)
    label = shuffled_labels(50, 4)
    InstanceDependent(RATE, seed=0).apply(label, 4, images(len(label)))
    assert len(set(states)) == len(states) == 1 + 4


def test_scores_do_not_depend_on_the_order_of_summation() -> None:
    random = np.random.default_rng(5)
    image, weight = torch.from_numpy(random.random((4, 5_000))), random.standard_normal((5_000, 10))
    order = random.permutation(5_000)
    np.testing.assert_array_equal(class_scores(image, weight), class_scores(image[:, order], weight[order]))
    np.testing.assert_allclose(class_scores(image, weight), 255 * image.numpy() @ weight, rtol=1e-4, atol=0.5)


def test_wrong_classes_follow_the_softmax_without_the_true_class() -> None:
    scores = torch.from_numpy(np.random.default_rng(6).normal(0, 2, size=(8, 5)))
    probability = wrong_class_probability(scores.numpy(), true_class=2)
    expected = torch.nn.functional.softmax(scores[:, [0, 1, 3, 4]], dim=1)
    torch.testing.assert_close(torch.from_numpy(probability[:, [0, 1, 3, 4]]), expected, rtol=1e-12, atol=0)
    assert (probability[:, 2] == 0).all()


def test_wrong_classes_of_one_image_are_drawn_with_their_probabilities() -> None:
    """Copies of one faint image, whose softmax is not one-hot: frequencies among the flipped labels are the softmax."""
    count, num_classes, seed = 60_000, 5, 3
    faint = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    faint[0, 0, 0, 1] = 1
    label = np.full(count, 1)
    noisy = InstanceDependent(0.5, seed=seed).apply(label, num_classes, faint.expand(count, 1, 2, 2)).numpy()
    stream = instance_dependent.random_stream(seed, "InstanceDependent", 1 + 1)
    weight = np.exp(stream.standard_normal((4, num_classes))[1])
    weight[1] = 0
    expected = weight / weight.sum()
    wrong = noisy[noisy != 1]
    found = np.bincount(wrong, minlength=num_classes) / len(wrong)
    assert expected.max() < 0.9
    assert (np.abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / len(wrong)) + 1e-12).all()


@pytest.mark.parametrize("mean", [0.05, 0.2, 0.5, 0.95])
def test_flip_rates_are_a_normal_restricted_to_the_unit_interval(mean: float) -> None:
    """The mean against quadrature of the density, the draws against the mean."""
    grid = np.linspace(0, 1, 200_001)
    density = np.exp(-(((grid - mean) / 0.1) ** 2) / 2)
    expected = np.trapezoid(grid * density, grid) / np.trapezoid(density, grid)
    assert truncated_normal_mean(mean, 0.1) == pytest.approx(expected, abs=1e-9)
    draw = truncated_normal(mean, 0.1, 100_000, np.random.default_rng(7))
    assert draw.min() >= 0
    assert draw.max() <= 1
    assert abs(draw.mean() - expected) < 3 * draw.std() / math.sqrt(len(draw))


@pytest.mark.parametrize("noise_rate", [0.05, 0.3])
def test_mean_rate_of_instance_dependent_noise(noise_rate: float) -> None:
    label = shuffled_labels(5_000, 10)
    noisy = InstanceDependent(noise_rate, seed=0).apply(label, 10, images(len(label)))
    rate = 1 - InstanceDependent(noise_rate).transition_matrix(10)[0, 0].item()
    assert rate == pytest.approx(truncated_normal_mean(noise_rate, 0.1))
    assert abs((noisy.numpy() != label).mean() - rate) < 3 * math.sqrt(rate * (1 - rate) / len(label))


def test_transition_matrix_of_instance_dependent_noise_is_the_mean_over_seeds() -> None:
    label, num_classes, seeds = shuffled_labels(60, 4), 4, 400
    image = images(len(label))
    draws = torch.stack(
        [
            empirical_transition_matrix(
                label, InstanceDependent(0.3, seed=s).apply(label, num_classes, image), num_classes
            )
            for s in range(seeds)
        ]
    )
    expected = InstanceDependent(0.3).transition_matrix(num_classes)
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert ((draws.mean(dim=0) - expected).abs() < 4 * draws.std(dim=0) / math.sqrt(seeds)).all()
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    assert draws.std(dim=0)[off_diagonal].min() > 0.05  # one draw of W is far from the mean: it prefers some classes


def test_instance_dependent_noise_depends_on_the_image() -> None:
    """The same samples flip, as their rates do not depend on the image, but to classes that follow the image."""
    label = shuffled_labels(200, 10)
    image = images(len(label))
    noise = InstanceDependent(RATE, seed=0)
    before, after = noise.apply(label, 10, image).numpy(), noise.apply(label, 10, image.flip(0)).numpy()
    np.testing.assert_array_equal(before != label, after != label)
    wrong = before != label
    assert (before[wrong] != after[wrong]).mean() > 0.3


def test_instance_dependent_noise_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    label = shuffled_labels(100, 10)
    image = images(len(label)).float() / 255
    whole = InstanceDependent(RATE, seed=0).apply(label, 10, image)
    monkeypatch.setattr(instance_dependent, "CHUNK_VALUES", 48 * 7)
    torch.testing.assert_close(InstanceDependent(RATE, seed=0).apply(label, 10, image), whole)


def test_instance_dependent_noise_refuses_missing_images_and_images_out_of_range() -> None:
    noise, label = InstanceDependent(RATE, seed=0), np.zeros(50, dtype=np.int64)
    with pytest.raises(ValueError, match=r"image .* 50 labels, got none"):
        noise.apply(label, 10)
    with pytest.raises(ValueError, match=r"image .* 50 labels, got 49"):
        noise.apply(label, 10, images(49))
    with pytest.raises(ValueError, match=r"image must be in \[0, 1\]"):
        noise.apply(label, 10, images(50).float())
    with pytest.raises(ValueError, match=r"image must be in \[0, 1\]"):
        noise.apply(label, 10, torch.full((50, 3, 4, 4), torch.nan))


# What every kind keeps


@pytest.mark.parametrize(("noise", "num_classes"), EVERY_KIND, ids=name)
def test_labels_are_a_pure_function_of_seed_and_data(noise: LabelNoise, num_classes: int) -> None:
    label = shuffled_labels(50, num_classes)
    image = images(len(label))
    original = label.copy(), image.clone()
    np.random.seed(0)  # noqa: NPY002 (the global stream must not matter)
    torch.manual_seed(0)
    first = noise.apply(label, num_classes, image)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    second = noise.apply(torch.from_numpy(label), num_classes, image)
    assert first.dtype == torch.int64
    torch.testing.assert_close(first, second)
    np.testing.assert_array_equal(label, original[0])
    torch.testing.assert_close(image, original[1])
    seed = noise.seed
    noise.seed = 1
    other = noise.apply(label, num_classes, image)
    noise.seed = seed
    assert (other != first).float().mean() > 0.05


GOLDEN = [
    "ecc09197e17ef7ec",
    "d23f2ef026c90924",
    "e82eb76b7d3c259b",
    "2eabb1b021be9f51",
    "50f990f28abe68b8",
    "24036a3d42366001",
    "eca61ee190237c6c",
    "74cbd0aff8c52f5d",
    "7caf20a91e16d337",
]
"""Digests of the labels of seed 0 for `EVERY_KIND`. After a change here, old runs can no longer be repeated."""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("noise", "num_classes", "digest"), [(*kind, d) for kind, d in zip(EVERY_KIND, GOLDEN, strict=True)]
)
def test_labels_stay_what_they_were(noise: LabelNoise, num_classes: int, digest: str, threads: int) -> None:
    label = shuffled_labels(50, num_classes)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        noisy = noise.apply(label, num_classes, images(len(label)))
    finally:
        torch.set_num_threads(before)
    assert hashlib.sha256(noisy.numpy().astype("<i8").tobytes()).hexdigest()[:16] == digest


@settings(max_examples=60, deadline=None)
@given(data=st.data(), noise_rate=st.floats(1e-9, 1, exclude_max=True), seed=st.integers(0, 2**32 - 1))
def test_any_labels_stay_in_range_and_rate_zero_changes_none(data: st.DataObject, noise_rate: float, seed: int) -> None:
    kind, num_classes = data.draw(
        st.sampled_from(
            [
                (Symmetric, 2),
                (Symmetric, 13),
                (AsymmetricCIFAR10, 10),
                (AsymmetricMNIST, 10),
                (PairFlip, 3),
                (BlocksCIFAR100, 100),
                (SuperclassCIFAR100, 100),
                (InstanceDependent, 2),
                (InstanceDependent, 5),
            ]
        )
    )
    label = np.array(data.draw(st.lists(st.integers(0, num_classes - 1), max_size=40)), dtype=np.int64)
    image = images(len(label))
    noisy = kind(noise_rate, seed=seed).apply(label, num_classes, image)
    assert noisy.shape == label.shape
    assert ((noisy >= 0) & (noisy < num_classes)).all()
    possible = kind(noise_rate, seed=seed).transition_matrix(num_classes) > 0
    assert possible[torch.from_numpy(label), noisy].all()
    assert kind(0.0, seed=seed).apply(label, num_classes, image).tolist() == label.tolist()
    torch.testing.assert_close(kind(0.0).transition_matrix(num_classes), torch.eye(num_classes, dtype=torch.float64))


RANDOM_KINDS = [
    Symmetric,
    AsymmetricCIFAR10,
    AsymmetricMNIST,
    PairFlip,
    BlocksCIFAR100,
    SuperclassCIFAR100,
    InstanceDependent,
]


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_bad_arguments_are_named(kind: type) -> None:
    for noise_rate in (-0.1, 1.0, 40, math.nan):
        with pytest.raises(ValueError, match=rf"noise_rate must be in \[0, 1\), got {noise_rate}"):
            kind(noise_rate)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        kind(0.1, seed=-1)
    num_classes = 100 if "100" in kind.__name__ else 10
    image = images(3)
    with pytest.raises(ValueError, match=r"seed of .* is not set"):
        kind(0.1).apply(np.array([0, 1, 2]), num_classes, image)
    with pytest.raises(ValueError, match=rf"label must be in 0 ... {num_classes - 1}, got {num_classes} "):
        kind(0.1, seed=0).apply(np.array([0, 1, num_classes]), num_classes, image)
    with pytest.raises(ValueError, match=r"label must be in .*, got -1 "):
        kind(0.1, seed=0).apply(np.array([0, 1, -1]), num_classes, image)
    with pytest.raises(ValueError, match="label must be one integer a sample, got float64"):
        kind(0.1, seed=0).apply(np.array([0.0, 1.0, 2.0]), num_classes, image)
    with pytest.raises(ValueError, match=r"label must be one integer a sample, got int64 of shape \[1, 3\]"):
        kind(0.1, seed=0).apply(np.array([[0, 1, 2]]), num_classes, image)


@pytest.mark.parametrize(
    ("kind", "num_classes", "allowed"),
    [
        (AsymmetricCIFAR10, 100, "must be 10"),
        (AsymmetricMNIST, 11, "must be 10"),
        (BlocksCIFAR100, 10, "must be 100"),
        (SuperclassCIFAR100, 20, "must be 100"),
        (Symmetric, 1, "must be at least 2"),
        (PairFlip, 1, "must be at least 2"),
    ],
)
def test_a_number_of_classes_that_does_not_fit_is_refused(kind: type, num_classes: int, allowed: str) -> None:
    noise = kind(0.1, seed=0)
    with pytest.raises(ValueError, match=rf"num_classes {allowed}.*, got {num_classes}"):
        noise.apply(np.zeros(3, dtype=np.int64), num_classes)
    with pytest.raises(ValueError, match=rf"num_classes {allowed}.*, got {num_classes}"):
        noise.transition_matrix(num_classes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        *((kind.__name__, {"noise_rate": 0.1}) for kind in RANDOM_KINDS),
        ("HumanCIFARN", {"path": "CIFAR-10_human.pt", "kind": "worse_label"}),
        ("FromCSV", {"path": "labels.csv"}),
    ],
)
def test_a_config_names_each_kind_by_its_class_path(kind: str, arguments: dict) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--label_noise", type=LabelNoise | None)
    value = {"class_path": f"datamodules.corruptions.label_noise.{kind}", "init_args": arguments}
    noise = parser.instantiate_classes(parser.parse_object({"label_noise": value})).label_noise
    assert type(noise).__name__ == kind
    assert noise.seed is None


def test_a_million_labels_take_less_than_a_second() -> None:
    label = np.random.default_rng(8).integers(1_000, size=1_300_000)
    start = time.perf_counter()
    Symmetric(0.3, seed=0).apply(label, 1_000)
    assert time.perf_counter() - start < 1


def test_empirical_transition_matrix_counts_pairs() -> None:
    matrix = empirical_transition_matrix(torch.tensor([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 2, 1]), 3)
    assert matrix[:2].tolist() == [[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]]
    assert matrix[2].isnan().all()
    with pytest.raises(ValueError, match="same length, got 1 and 2"):
        empirical_transition_matrix(np.array([0]), np.array([0, 1]), 2)


# Recorded labels


def write_cifar10n(path: Path, **labels: np.ndarray) -> str:
    torch.save(labels, path)
    return str(path)


def test_human_labels_come_from_the_file(tmp_path: Path) -> None:
    clean, worst = np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1])
    path = write_cifar10n(tmp_path / "human.pt", clean_label=clean, worse_label=worst, aggre_label=clean)
    noise = HumanCIFARN(path, "worse_label")
    torch.testing.assert_close(noise.apply(clean, 3), torch.from_numpy(worst))
    assert noise.transition_matrix(3).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5]]
    torch.testing.assert_close(
        HumanCIFARN(path, "aggre_label").apply(torch.from_numpy(clean), 3), torch.from_numpy(clean)
    )


def test_human_labels_written_under_numpy_1_load(tmp_path: Path) -> None:
    """The published files name `numpy.core`, which NumPy 2 renamed. The old container leaves the pickle bare."""
    clean = np.array([1, 0, 1])
    path = tmp_path / "human.pt"
    torch.save({"clean_label": clean, "noisy_label": 1 - clean}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert HumanCIFARN(str(path), "noisy_label").apply(clean, 2).tolist() == [0, 1, 0]


def test_human_labels_of_a_set_in_another_order_are_refused(tmp_path: Path) -> None:
    clean = np.array([0, 1, 2, 2])
    path = write_cifar10n(tmp_path / "human.pt", clean_label=clean, worse_label=clean)
    noise = HumanCIFARN(path, "worse_label")
    with pytest.raises(ValueError, match=r"differ from those of the data at 2 of 4 samples, first at 0.*same order"):
        noise.apply(np.array([1, 0, 2, 2]), 3)
    with pytest.raises(ValueError, match=r"labels 4 samples, but the data have 3.*before any split"):
        noise.apply(clean[:3], 3)


def test_faulty_human_labels_are_refused(tmp_path: Path) -> None:
    clean = np.array([0, 1, 2, 2])
    with pytest.raises(ValueError, match=r"kind must be one of aggre_label, .*, got worst"):
        HumanCIFARN("human.pt", "worst")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt was not found: expected CIFAR-10_human.pt .*https://"):
        HumanCIFARN("nowhere.pt", "worse_label").apply(clean, 3)
    path = write_cifar10n(tmp_path / "human.pt", clean_label=clean, worse_label=clean + 8)
    with pytest.raises(ValueError, match="has no key noisy_label; its keys are clean_label, worse_label"):
        HumanCIFARN(path, "noisy_label").apply(clean, 10)
    with pytest.raises(ValueError, match=r"worse_label of .* must be in 0 ... 9, got 10"):
        HumanCIFARN(path, "worse_label").apply(clean, 10)
    (tmp_path / "damaged.pt").write_bytes(Path(path).read_bytes()[:300])
    with pytest.raises(ValueError, match="damaged"):
        HumanCIFARN(str(tmp_path / "damaged.pt"), "worse_label").apply(clean, 10)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a dictionary of label arrays, got list"):
        HumanCIFARN(str(tmp_path / "list.pt"), "worse_label").apply(clean, 10)


class RunsWhenLoaded:
    def __reduce__(self) -> tuple:
        return print, ("this ran",)


def test_no_code_of_a_label_file_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"clean_label": RunsWhenLoaded()}, tmp_path / "human.pt")
    with pytest.raises(ValueError, match="damaged or not a file of label arrays"):
        HumanCIFARN(str(tmp_path / "human.pt"), "worse_label").apply(np.array([0]), 10)
    assert capsys.readouterr().out == ""


def test_a_table_gives_labels_by_index(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('name,index,clean_label,label\n"a, b",2,2,0\nc,0,0,0\nd,1,1,2\n')
    noise = FromCSV(str(path))
    assert noise.apply(np.array([0, 1, 2]), 3).tolist() == [0, 2, 0]
    assert noise.transition_matrix(3).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="differ from those of the data at 1 of 3 samples, first at 2"):
        noise.apply(np.array([0, 1, 1]), 3)


def test_a_table_without_clean_labels_needs_only_the_length(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("index,label\r\n0,1\r\n1,0\r\n")
    noise = FromCSV(str(path))
    assert noise.apply(torch.tensor([0, 0]), 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match="labels 2 of 3 samples: index 2 is missing; with `partial: true`"):
        noise.apply(np.array([0, 0, 0]), 2)
    with pytest.raises(ValueError, match="no column clean_label"):
        noise.transition_matrix(2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"cannot be read \(No columns to parse from file\): expected a CSV file in UTF-8 whose first row"),
        ("index,label\n0,1\n1,0,1\n", r"cannot be read \(.*line 3, saw 3\): expected a CSV file in UTF-8"),
        ("index,label,label\n0,1,0\n1,0,0\n", "has the column label twice"),
        ("index,class\n0,1\n", r"index,label\[,clean_label\], and has no label: got index,class"),
        ("index,label\n0,cat\n1,0\n", "label of .* is 'cat', which is not the number or the name of a class"),
        ("index,label\n0,1\n1\n", "label of .* is '', which is not the number or the name of a class"),
        ("index,label\n0,1\n0,1\n", "index 0 occurs twice"),
        ("index,label\n1,1\n", "labels 1 of 2 samples: index 0 is missing"),
        ("index,label\n0,1\n2,1\n", "index in .* must be in 0 ... 1, got '2'"),
        ("index,label\n0,1\nb,1\n", "index in .* must be in 0 ... 1, got 'b'"),
        ("name,label\na.png,1\n", "labels files by name, and the samples of this set have no names"),
        ("index,label\n0,1\n1,7\n", "label of .* must be in 0 ... 1, got 7"),
    ],
)
def test_faulty_tables_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        FromCSV(str(path)).apply(np.array([0, 1]), 2)


def test_a_table_labels_files_by_name_with_classes_by_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("name,label\ndog/1.png,cat\ncat/0.png,1\n")
    label, names, classes = np.array([0, 0, 1]), ["cat/0.png", "cat/1.png", "dog/1.png"], ["cat", "dog"]
    partial = FromCSV(str(path), partial=True)
    assert partial.apply(label, 2, names=names, class_names=classes).tolist() == [1, 0, 0]
    assert partial.labels_and_truth(label, 2, names, classes)[1] is None
    with pytest.raises(ValueError, match=r"labels 2 of 3 samples: name cat/1.png is missing"):
        FromCSV(str(path)).apply(label, 2, names=names, class_names=classes)
    with pytest.raises(ValueError, match=r"labels dog/1.png, which is no file of this set; one is cat/0.png"):
        partial.apply(label[:2], 2, names=names[:2], class_names=classes)
    with pytest.raises(ValueError, match="is 'cat', which is not the number or the name"):
        partial.apply(label, 2, names=names)


TWELVE = sorted(str(number) for number in range(1, 13))
"""Names of classes in the order of their numbers: 1, 10, 11, 12, 2 ..., as folders 1 ... 12 have it."""


@pytest.mark.parametrize(
    ("words", "class_names", "options", "expected"),
    [
        (["1", "2"], TWELVE, {}, "label of .* is ambiguous, as 1 is the number of one class and the name of another"),
        (["1", "2"], TWELVE, {"classes": "name"}, [0, 4]),
        (["1", "2"], TWELVE, {"classes": "number"}, [1, 2]),
        (["1", "2", "0"], TWELVE, {}, [1, 2, 0]),  # nothing is named 0
        (["0", "1"], ["0", "1", "2"], {}, [0, 1]),  # both are the same
        (["005", "001"], [f"{number:03}" for number in range(1, 101)], {}, [4, 0]),
        (["01"], ["cat", "dog"], {}, "label of .* is '01', which is not the number or the name of a class"),
        (["1"], ["cat", "dog"], {"classes": "name"}, "label of .* is '1', which is not the name of a class"),
        (["cat"], ["cat", "dog"], {"classes": "number"}, "label of .* is 'cat', which is not the number of a class"),
        (["cat", "1"], ["cat", "dog"], {}, [0, 1]),
        (["cat", "1"], ["1", "cat"], {}, [1, 0]),
        (["cat", "1", "0"], ["1", "cat"], {}, "label of .* is ambiguous, as 1 is"),
    ],
)
def test_names_of_classes_that_are_numbers_are_not_guessed(
    tmp_path: Path, words: list[str], class_names: list[str], options: dict[str, Any], expected: list[int] | str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("index,label\n" + "".join(f"{index},{word}\n" for index, word in enumerate(words)))
    noise, label = FromCSV(str(path), **options), np.zeros(len(words), dtype=np.int64)
    if isinstance(expected, list):
        assert noise.apply(label, len(class_names), class_names=class_names).tolist() == expected
    else:
        with pytest.raises(ValueError, match=expected):
            noise.apply(label, len(class_names), class_names=class_names)


def test_columns_of_a_label_report_that_end_in_name_hold_names(tmp_path: Path) -> None:
    path = tmp_path / "label_report.csv"
    path.write_text("index,row,given,proposed,given_name,proposed_name\n0,0,0,4,1,2\n")
    label = np.array([0])
    noise = FromCSV(str(path), column="proposed_name", key="row", classes="number")
    assert noise.apply(label, 12, class_names=TWELVE).tolist() == [4]
    with pytest.raises(ValueError, match=r"proposed_name of .* is '2', which is not the name of a class"):
        noise.apply(label, 12)


def test_names_of_a_table_by_position_must_be_those_of_the_set(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("index,name,label\n1,b.png,1\n0,a.png,0\n")
    label, noise = np.array([0, 0]), FromCSV(str(path))
    assert noise.apply(label, 2).tolist() == [0, 1]
    assert noise.apply(label, 2, names=["a.png", "b.png"]).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"has b.png at index 1, and this set has a.png there; `key: name`"):
        noise.apply(label, 2, names=["b.png", "a.png"])
    by_name = FromCSV(str(path), key="name")
    assert by_name.apply(label, 2, names=["b.png", "a.png"]).tolist() == [1, 0]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_in_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("name,label\na.png,B\xe4r\n", encoding=encoding)
    with pytest.raises(
        ValueError, match=r"labels.csv cannot be read \('utf-8' codec .*\): expected a CSV file in UTF-8"
    ):
        FromCSV(str(path)).apply(np.array([0]), 2, names=["a.png"])
    path.write_text("name,label\na.png,B\xe4r\n", encoding="utf-8-sig")
    assert FromCSV(str(path)).apply(np.array([0]), 2, names=["a.png"], class_names=["A", "B\xe4r"]).tolist() == [1]


def test_a_table_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "labels.csv").write_text("index,label\n0,1\n")
    assert FromCSV("~/labels.csv").apply(np.array([0]), 2).tolist() == [1]


def test_a_label_report_gives_its_proposals_by_row_in_the_whole_set(tmp_path: Path) -> None:
    path = tmp_path / "label_report.csv"
    path.write_text("index,row,given,proposed,clean_label\n1,3,0,1,1\n0,0,0,0,0\n")
    noise = FromCSV(str(path), column="proposed", key="row", partial=True)
    assert noise.apply(np.array([0, 1, 0, 1]), 2).tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="differ from those of the data at 1 of 4 samples, first at 3"):
        noise.apply(np.array([0, 1, 0, 0]), 2)


def test_images_of_no_class_may_be_listed_as_such(tmp_path: Path) -> None:
    path = tmp_path / "label_report.csv"
    path.write_text("index,label,clean_label\n0,1,-1\n1,1,1\n2,0,0\n")
    label, known = np.array([0, 1, 0]), torch.tensor([-1, 1, 0])
    noise = FromCSV(str(path))
    given, truth = noise.labels_and_truth(label, 2, clean_label=known)
    assert given.tolist() == [1, 1, 0]
    assert truth is not None
    assert truth.tolist() == [-1, 1, 0]
    assert noise.transition_matrix(2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    for other_set in (None, torch.tensor([0, 1, -1])):
        with pytest.raises(ValueError, match=r"differ from those of the data at 1 of 3 samples, first at 0"):
            noise.labels_and_truth(label, 2, clean_label=other_set)
    with pytest.raises(ValueError, match=r"differ from those of the data at 1 of 3 samples, first at 1"):
        noise.labels_and_truth(np.array([0, 0, 0]), 2, clean_label=torch.tensor([-1, 0, 0]))
    path.write_text("index,label,clean_label\n0,-1,0\n1,1,1\n2,0,0\n")
    with pytest.raises(ValueError, match=r"label of .* must be in 0 ... 1, got -1"):
        noise.labels_and_truth(label, 2, clean_label=known)


def test_labels_that_a_user_has_verified_by_file_are_the_true_ones(tmp_path: Path) -> None:
    """Whatever the folders say; what is empty or left out is not known."""
    path = tmp_path / "mine.csv"
    path.write_text("name,label,clean_label\ncat/1.png,cat,dog\ncat/0.png,cat,\ndog/0.png,cat,-1\n")
    folder, names, classes = (
        np.array([0, 0, 1, 1]),
        ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"],
        ["cat", "dog"],
    )
    noise = FromCSV(str(path), partial=True)
    given, truth = noise.labels_and_truth(folder, 2, names, classes)
    assert given.tolist() == [0, 0, 0, 1]
    assert truth is not None
    assert truth.tolist() == [UNVERIFIED, 1, -1, UNVERIFIED]
    path.write_text("index,name,label,clean_label\n1,cat/1.png,0,1\n")
    truth = noise.labels_and_truth(folder, 2, names, classes)[1]
    assert truth is not None
    assert truth.tolist() == [UNVERIFIED, 1, UNVERIFIED, UNVERIFIED]
    assert noise.transition_matrix(2)[1].tolist() == [1.0, 0.0]
    path.write_text("name,label,clean_label\ncat/1.png,cat,\n")
    assert noise.labels_and_truth(folder, 2, names, classes)[1] is None


def test_true_labels_by_position_are_those_of_the_data_as_far_as_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("index,label,clean_label\n0,1,0\n1,1,\n")
    truth = FromCSV(str(path)).labels_and_truth(np.array([0, 0]), 2)[1]
    assert truth is not None
    assert truth.tolist() == [0, UNVERIFIED]
    with pytest.raises(ValueError, match="at 1 of 2 samples, first at 0: the two sets are not the same"):
        FromCSV(str(path)).apply(np.array([1, 0]), 2, names=["a.png", "b.png"])


def test_a_missing_table_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv was not found: expected a CSV file"):
        FromCSV("nowhere.csv").apply(np.array([0, 1]), 2)
