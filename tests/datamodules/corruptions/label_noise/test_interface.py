import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corruptions.label_noise import (
    AsymmetricCIFAR10,
    AsymmetricMNIST,
    BlocksCIFAR100,
    InstanceDependent,
    LabelNoise,
    PairFlip,
    SuperclassCIFAR100,
    Symmetric,
    empirical_transition_matrix,
)
from tests.datamodules.corruptions.label_noise.examples import CLASS_DEPENDENT, RATE, images, name, shuffled_labels

EVERY_KIND = [*CLASS_DEPENDENT, (InstanceDependent(RATE, seed=0), 10)]


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
"""Hashes of the labels of each of `EVERY_KIND` with seed 0; if one changes, older runs cannot be reproduced."""


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
    num_classes = 100 if "100" in kind.__name__ else 10
    image = images(3)
    with pytest.raises(ValueError, match=r"seed of .* is not set"):
        kind(0.1).apply(np.array([0, 1, 2]), num_classes, image)
    with pytest.raises(ValueError, match=rf"label must be in 0 ... {num_classes - 1}, got {num_classes} "):
        kind(0.1, seed=0).apply(np.array([0, 1, num_classes]), num_classes, image)
    with pytest.raises(ValueError, match="label must be one integer per sample, got float64"):
        kind(0.1, seed=0).apply(np.array([0.0, 1.0, 2.0]), num_classes, image)


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


def test_empirical_transition_matrix_counts_pairs() -> None:
    matrix = empirical_transition_matrix(torch.tensor([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 2, 1]), 3)
    assert matrix[:2].tolist() == [[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]]
    assert matrix[2].isnan().all()
    with pytest.raises(ValueError, match="same length, got 1 and 2"):
        empirical_transition_matrix(np.array([0]), np.array([0, 1]), 2)
