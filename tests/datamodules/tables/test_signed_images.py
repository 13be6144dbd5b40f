"""Images of two groups of classes as rows: their signs, split and seeds."""

from typing import Any

import torch

from datamodules.classification.digits import Digits
from datamodules.tables.signed_images import SignedImages

EVEN = [0, 2, 4, 6, 8]


def digits(seed: int = 0, **arguments: Any) -> SignedImages:
    return SignedImages(Digits(), **{"positive": EVEN, "num_points": 900, "num_test": 800, "seed": seed, **arguments})


def rows_of(features: torch.Tensor) -> set[bytes]:
    return {one.numpy().tobytes() for one in features}


def test_targets_tell_even_from_odd_digits() -> None:
    source = Digits(train_size=1300)
    parity = {}
    for part in (source.training(), source.test()):
        for image, label in zip(part.image.float() / 16, part.label, strict=True):
            parity[image.numpy().tobytes()] = 1.0 - 2.0 * (int(label) % 2)
    rows = digits().training()
    assert len(rows) == 900
    assert rows.columns["features"].shape[1:] == (1, 8, 8) == digits().row_shapes["features"]
    found = [parity[one.numpy().tobytes()] for one in rows.columns["features"]]
    assert rows.columns["target"].tolist() == found


def test_images_of_both_files_are_shuffled_and_split_without_overlap() -> None:
    training, test = digits().training().columns["features"], digits().test().columns["features"]
    assert not rows_of(training) & rows_of(test)
    assert rows_of(training) & rows_of(Digits().test().image.float() / 16)
    assert (
        rows_of(training)
        == rows_of(digits().training().columns["features"])
        != rows_of(digits(1).training().columns["features"])
    )
    assert rows_of(test) == rows_of(digits(1).test().columns["features"])
    assert rows_of(digits(num_points=100).training().columns["features"]) < rows_of(training)
