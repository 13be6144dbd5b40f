from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.augmentation.crop_and_flip import Augmentation
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
    ("one_network detectors 1", lambda _: one_network(**{**PLAIN, "detectors": []}), ValueError, "detectors"),
    ("one_network detectors 2", lambda _: one_network(**{**PLAIN, "detectors": ["small"]}), ValueError, "detectors"),
    ("one_network threshold", lambda _: one_network(**{**PLAIN, "threshold": 1.0}), ValueError, "threshold"),
    ("one_network warmup_epochs", lambda _: one_network(**{**PLAIN, "warmup_epochs": 0}), ValueError, "warmup_epochs"),
    ("one_network gamma", lambda _: one_network(**{**PLAIN, "gamma": 0.0}), ValueError, "gamma"),
    ("one_network guess_views", lambda _: one_network(**{**PLAIN, "guess_views": 0}), ValueError, "guess_views"),
    ("one_network mixup_alpha", lambda _: one_network(**{**PLAIN, "mixup_alpha": -1.0}), ValueError, "mixup_alpha"),
    ("one_network contrast_weight", lambda _: one_network(**{**PLAIN, "contrast_weight": -1.0}), ValueError,
     "contrast_weight"),
    ("one_network temperature", lambda _: one_network(**{**PLAIN, "temperature": 0.0}), ValueError, "temperature"),
    ("one_network projection_features", lambda _: one_network(**{**PLAIN, "projection_features": 0}), ValueError,
     "projection_features"),
    ("one_network feature_layer", lambda _: one_network(**{**PLAIN, "feature_layer": "layer2"}), ValueError,
     "feature_layer"),
    ("one_network head_lr_factor", lambda _: one_network(**{**PLAIN, "head_lr_factor": 0.0}), ValueError,
     "head_lr_factor"),
    ("fit", lambda _: fit(one_network(**PLAIN), 1, data(augmentation=Augmentation(flip=True))), ValueError,
     "PLSLSA.* data.augmentation"),
    ("fit passes_per_epoch", lambda _: fit(two_networks(**PLAIN), 1, data(passes_per_epoch=1)), ValueError,
     "PLSLSA.* data.passes_per_epoch"),
    ("state of another training set", state_of_another_training_set, ValueError, "per-sample state"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
