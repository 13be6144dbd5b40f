from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.augmentation.crop_and_flip import Augmentation
from lightning_modules.noisy_labels.lsa.correction_steps import Correction
from lightning_modules.noisy_labels.lsa.detection import Detection
from lightning_modules.noisy_labels.lsa.training_images import TrainingImages
from tests.noisy_labels.lsa.small import PLAIN, data, fit, one_network, two_networks
from tests.rejections import Row, rejections


def state_of_another_training_set(_: Path) -> object:
    of_ten, of_eleven = TrainingImages(6, 1), TrainingImages(6, 1)
    of_ten.allocate(10, "cpu", torch.float32)
    checkpoint: dict = {}
    of_ten.save(checkpoint)
    of_eleven.restore(checkpoint)
    return of_eleven.allocate(11, "cpu", torch.float32)


# fmt: off
REJECTED: list[Row] = [
    ("Detection", lambda _: Detection(detectors=[]), ValueError, "detectors must be a list of linear and loss"),
    ("two_networks", lambda _: two_networks(**PLAIN, correction=Correction(guess_views=2)), ValueError,
     "PLSLSAPlus needs correction.guess_views 1"),
    ("one_network feature_layer", lambda _: one_network(**PLAIN, detection=Detection()), ValueError,
     "feature_layer"),
    ("fit", lambda _: fit(one_network(**PLAIN), 1, data(augmentation=Augmentation(flip=True))), ValueError,
     "PLSLSA.* data.augmentation"),
    ("fit passes_per_epoch", lambda _: fit(two_networks(**PLAIN), 1, data(passes_per_epoch=1)), ValueError,
     r"PLSLSA.* data\.loading\.passes_per_epoch"),
    ("state of another training set", state_of_another_training_set, ValueError, "per-sample state"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
