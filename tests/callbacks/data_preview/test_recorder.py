"""Batches are recorded as a network receives them, and only as many as needed."""

from typing import Any

import pytest
import torch

from callbacks.data_preview import record_splits, recorded
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from datamodules.loading import Loading
from datamodules.prompts.noise_pairs import NoisePairs
from datamodules.prompts.prompt_sets import ClassPrompts
from tests.callbacks.data_preview.own_data import OwnData


def test_training_images_are_augmented_and_validation_images_are_not() -> None:
    data = LabelledImages(
        Digits(), 64, split=Split(0.1), augmentation=Augmentation(crop_padding=2, flip=True), loading=Loading(seed=0)
    )
    training, validation = record_splits(data, ["training", "validation"])
    assert data.train_set is not None
    assert data.validation_set is not None
    for split, rows, changed in ((training, data.train_set.row, True), (validation, data.validation_set.row, False)):
        batch = split.batches[0]
        stored = data.train_set.source.fetch(rows[batch["index"]], None) / data.train_set.source.data_range
        assert batch["image"].dtype == torch.float32
        assert bool((batch["image"] != stored).any()) is changed
    batches = [64] * 16  # the first with which at least 1,000 images are read
    assert ([len(each["image"]) for each in training.batches], training.samples) == (batches, 1024)
    assert (validation.samples, validation.size) == (130, 130)


def test_large_samples_are_read_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST_NUMBERS", 30)  # a batch has two images of 16 pixels, and two labels
    (split,) = record_splits(OwnData(50), ["training", "validation"])
    assert split.samples == 2


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (OwnData(), {"image", "label"}),
        (OwnData(1), {"image", "label"}),
        (OwnData(kind="unknown"), {"scan", "patient", "dose"}),
        (OwnData(kind="unknown", collates=False), {"scan", "patient", "dose"}),
    ],
)
def test_batches_of_a_users_own_class_are_recorded(data: OwnData, keys: set[str]) -> None:
    (split,) = record_splits(data, ["training", "validation"])
    assert {*split.batches[0]} == keys
    assert split.samples == split.size == len(data.rows)


class Played(OwnData):
    def mean_return(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (OwnData(0), ValueError, "OwnData has no sample for training or validation"),
        (Played(), TypeError, "Played has no samples before training, because its states"),
        (
            NoisePairs(prompts=ClassPrompts(Digits(), 2)),
            ValueError,
            "NoisePairs has no training samples yet, because the method makes them before training",
        ),
    ],
)
def test_data_without_samples_are_refused(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        record_splits(data, ["training", "validation"])


def test_rows_have_the_precision_of_the_run() -> None:
    data = LabelledImages(Digits(), 64, loading=Loading(seed=0))
    (split,) = record_splits(data, ["training"], precision="64-true")
    assert split.batches[0]["image"].dtype == torch.float64
