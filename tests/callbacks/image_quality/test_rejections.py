from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, PeakSignalNoiseRatio

from callbacks.image_quality import ImageMetricsTable
from callbacks.image_quality.measures import measures_of
from callbacks.image_quality.sharpness import Sharpness
from tests.rejections import Row, rejections
from tests.trainers import quiet


class DistributionDistance(Metric):
    """A metric with the signature of torchmetrics' FID and KID."""

    def update(self, imgs: Tensor, real: bool) -> None: ...

    def compute(self) -> Tensor:
        return torch.zeros(())


class Pairs(Metric):
    """A metric that returns two values per image, one for each of two parts."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.found = (preds - target).flatten()[:2]

    def compute(self) -> Tensor:
        return self.found


def measured(metric: Metric) -> object:
    measure = measures_of({"m": metric}, [])["m"]
    return measure(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), "clipped")


# fmt: off
REJECTED: list[Row] = [
    ("Sharpness", lambda _: Sharpness().setup(quiet(), LightningModule(), "test"), TypeError, "Sharpness"),
    ("ImageMetricsTable 1", lambda _: ImageMetricsTable([PeakSignalNoiseRatio(1.0), PeakSignalNoiseRatio(1.0)]),
     ValueError, "two metrics are called peak_signal_noise_ratio; give them names"),
    ("ImageMetricsTable psnr", lambda _: ImageMetricsTable({"psnr": PeakSignalNoiseRatio(1.0)}), ValueError,
     "two metrics are called psnr; give them names"),
    ("ImageMetricsTable 2", lambda _: ImageMetricsTable({"a/b": PeakSignalNoiseRatio(1.0)}), ValueError,
     "names must consist of letters, digits and underscores, got 'a/b'"),
    ("ImageMetricsTable 3", lambda _: ImageMetricsTable([DistributionDistance()]), ValueError,
     "DistributionDistance does not measure single images"),
    ("measured 1",
     lambda _: measured(MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)),
     ValueError, r"m \(Multi.* cannot measure an image of shape \[3, 16"),
    ("measured 2", lambda _: measured(Pairs()), ValueError,
     r"m \(Pairs\) must give one number per image"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
