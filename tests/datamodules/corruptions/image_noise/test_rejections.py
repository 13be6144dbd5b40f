from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.corruptions.image_noise import (
    CorrelatedGaussian,
    CounterRNG,
    Poisson,
    Sensor,
    SmoothMask,
)
from datamodules.corruptions.image_noise.calibration import photon_transfer
from tests.datamodules.corruptions.image_noise.test_sensor import numbers
from tests.rejections import Row, rejections


def mask_of(grid: int) -> object:
    return SmoothMask(grid=grid).sample(torch.zeros(1, 1, 8, 10), CounterRNG(0, 0, torch.zeros(1).long()))


# fmt: off
REJECTED: list[Row] = [
    ("calibration levels", lambda _: photon_transfer(np.array([5.0]), np.array([1.0])), ValueError,
     "at least two light levels"),
    ("calibration variance", lambda _: photon_transfer(np.array([5.0, 9.0]), np.array([2.0, 1.0])), ValueError,
     "variance falls with the mean"),
    ("Poisson range", lambda _: Poisson((0.01, 0.1)).score_input(torch.ones(1)), ValueError,
     r"zeta \[0.01, 0.1\] is a range"),
    ("CorrelatedGaussian likelihood",
     lambda _: CorrelatedGaussian().log_likelihood(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)), TypeError,
     "CorrelatedGaussian has no likelihood"),
    ("Sensor images", lambda _: Sensor().sample(torch.zeros(1, 3, 4, 4), numbers(1)), ValueError,
     "packed raw images of 4 channels, got 3"),
    ("SmoothMask grid of an image", lambda _: mask_of(9), ValueError,
     "grid must be at most 8, the side of an image, got 9"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
