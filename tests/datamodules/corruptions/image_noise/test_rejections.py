from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.corruptions.image_noise import (
    CorrelatedGaussian,
    CounterRNG,
    Gaussian,
    Impulse,
    Poisson,
    Sensor,
    SmoothMask,
)
from datamodules.corruptions.image_noise.calibration import line, photon_transfer
from datamodules.corruptions.image_noise.camera import camera
from datamodules.corruptions.image_noise.smooth_mask import fit_mask
from tests.datamodules.corruptions.image_noise.test_sensor import numbers
from tests.rejections import Row, rejections


def own_camera(text: str, root: Path) -> object:
    (root / "other.yaml").write_text(text)
    return camera(str(root / "other.yaml"))


def changed(**change: Any) -> object:
    return replace(camera("SonyA7S2"), **change)


def mask_of(grid: int) -> object:
    return SmoothMask(grid=grid).sample(torch.zeros(1, 1, 8, 10), CounterRNG(0, 0, torch.zeros(1).long()))


# fmt: off
REJECTED: list[Row] = [
    ("calibration levels", lambda _: photon_transfer(np.array([5.0]), np.array([1.0])), ValueError,
     "at least two light levels"),
    ("calibration variance", lambda _: photon_transfer(np.array([5.0, 9.0]), np.array([2.0, 1.0])), ValueError,
     "variance falls with the mean"),
    ("calibration gains", lambda _: line([1, 2], [1, 2]), ValueError, "at least 3 gains, got 2"),
    ("camera row", lambda _: changed(row=(1.0, 0.0, -0.1)), ValueError, "row must be slope, intercept and spread"),
    ("camera recordings", lambda _: changed(tukey_lambda=(0.1,)), ValueError, "one entry per recording"),
    ("camera tukey_lambda", lambda _: changed(tukey_lambda=(-0.6,), colour_bias=((0.0,) * 4,)), ValueError,
     "tukey_lambda must be above -0.5"),
    ("camera colour_bias", lambda _: changed(tukey_lambda=(0.1,), colour_bias=((0.0,) * 3,)), ValueError,
     "four numbers per row"),
    ("camera file", lambda root: own_camera("iso: 100", root), ValueError, r"other.yaml is not a camera file"),
    ("Gaussian range order", lambda _: Gaussian((50, 25)), ValueError,
     r"grey_levels must be one number, or a lower and a higher one, got \[50, 25\]"),
    ("Poisson range", lambda _: Poisson((0.01, 0.1)).score_input(torch.ones(1)), ValueError,
     r"zeta \[0.01, 0.1\] is a range"),
    ("CorrelatedGaussian likelihood",
     lambda _: CorrelatedGaussian().log_likelihood(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)), TypeError,
     "CorrelatedGaussian has no likelihood"),
    ("Impulse posterior mean", lambda _: Impulse().posterior_mean(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)),
     TypeError, "Impulse has no Tweedie formula"),
    ("Sensor images", lambda _: Sensor().sample(torch.zeros(1, 3, 4, 4), numbers(1)), ValueError,
     "packed raw images of 4 channels, got 3"),
    ("SmoothMask kernel", lambda _: SmoothMask(kernel=2), ValueError, "kernel must be odd"),
    ("SmoothMask grid of an image", lambda _: mask_of(9), ValueError,
     "grid must be at most 8, the side of an image, got 9"),
    ("SmoothMask kernel of an image", lambda _: fit_mask((1, 8, 8), 8, 17), ValueError,
     "kernel must be less than twice the side of an image, 8, got 17"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
