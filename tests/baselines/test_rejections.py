from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.classification.digits import Digits
from lightning_modules.baselines import OODScores
from lightning_modules.baselines.noise2noise import Noise2Noise
from lightning_modules.baselines.noise2void import Noise2Void
from tests.baselines.restoration import Restored, gradient_of_a_step
from tests.baselines.test_noise2noise import CLEAN
from tests.baselines.test_ood_scores import network
from tests.rejections import Row, rejections
from tests.trainers import quiet


def small_patches(size: tuple[int, int], square: int) -> object:
    batch: Any = {"noisy": torch.zeros(1, 1, *size), "index": torch.tensor([0]), "global_batch_size": 1}
    return Noise2Void(nn.Identity(), square=square).training_step(batch, 0)


def detectors(given: dict[str, dict[str, float]]) -> object:
    pytest.importorskip("pytorch_ood")
    return OODScores(network(), 8, given)


def ood_scores_without_other_images(_: Path) -> object:
    pytest.importorskip("pytorch_ood")
    from datamodules.classification.labelled_images import LabelledImages

    return quiet().test(OODScores(network(), 8), LabelledImages(Digits(num_classes=8)), verbose=False)


# fmt: off
REJECTED: list[Row] = [
    ("Noise2Noise without a second image",
     lambda _: gradient_of_a_step(Noise2Noise(Restored()), {"noisy": CLEAN, "clean": CLEAN}), ValueError,
     r"needs a second noisy image of each scene: set data\.noise_samples to two"),
    ("small patches 1", lambda _: small_patches((16, 7), 8), ValueError,
     r"patches of \[16, 7\] pixels must not be smaller than model.square"),
    ("small patches 2", lambda _: small_patches((4, 4), 2), ValueError,
     r"patches of \[4, 4\] pixels must not be smaller than model.square"),
    ("detectors 1", lambda _: detectors({"Nothing": {}}), ValueError,
     "detectors: Nothing must work on logits or features; allowed: .*EnergyBased"),
    ("detectors 2", lambda _: detectors({"ODIN": {}}), ValueError,
     "ODIN must work on logits or features"),
    ("detectors 3", lambda _: detectors({"ViM": {}}), ValueError,
     "ViM needs d; its arguments are d"),
    ("detectors 4", lambda _: detectors({"KNN": {"neighbours": 3}}), ValueError,
     "KNN has no argument neighbours; its arguments are k"),
    ("OODScores without other images", ood_scores_without_other_images, ValueError, "set data to OutOfDistribution"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
