from pathlib import Path
from typing import Any

import pytest

from datamodules.corruptions.image_noise import Gaussian
from datamodules.restoration.image_pairs import ImagePairs
from lightning_modules.diffusion.ddrm import DDRM
from lightning_modules.diffusion.dps import DPS
from lightning_modules.diffusion.pigdm import PiGDM
from lightning_modules.diffusion.red_diff import REDDiff
from tests.datamodules.restoration.test_measured_images import Five
from tests.diffusion.gaussian_images import SCHEDULER, GaussianImages
from tests.diffusion.test_ddpm import batch, training
from tests.diffusion.test_measured_restoration import module
from tests.rejections import Row, rejections
from tests.trainers import quiet

# fmt: off
REJECTED: list[Row] = [
    ("training_step", lambda _: training().training_step(batch(), 0), ValueError, "so the images must have captions"),
    ("training caption_dropout", lambda _: training(caption_dropout=1.0), ValueError,
     r"caption_dropout must be in \[0, 1\), got 1"),
    ("DDRM eta_b", lambda _: DDRM(GaussianImages(), SCHEDULER, eta_b=1.5), ValueError, r"eta_b must be in \[0, 1\]"),
    ("DPS strength", lambda _: DPS(GaussianImages(), SCHEDULER, strength=-1), ValueError,
     "strength must be at least 0"),
    ("DPS eta", lambda _: DPS(GaussianImages(), SCHEDULER, eta=1.5), ValueError, r"eta must be in \[0, 1\]"),
    ("DPS steps", lambda _: DPS(GaussianImages(), SCHEDULER, steps=0), ValueError, r"steps must be in \[1, 1000\]"),
    ("ImagePairs noise", lambda _: quiet().test(module(REDDiff), ImagePairs(test=Five(), noise=Gaussian(25))),
     TypeError, "REDDiff needs a MeasurementSource, and ImagePairs lacks operator"),
    ("PiGDM eta", lambda _: PiGDM(GaussianImages(), SCHEDULER, eta=-1), ValueError, r"eta must be in \[0, 1\]"),
    ("PiGDM steps", lambda _: PiGDM(GaussianImages(), SCHEDULER, steps=0), ValueError,
     r"steps must be in \[1, 1000\]"),
    ("REDDiff steps", lambda _: REDDiff(GaussianImages(), SCHEDULER, steps=1001), ValueError,
     r"steps must be in \[1, 1000\], got 1001"),
    ("REDDiff strength", lambda _: REDDiff(GaussianImages(), SCHEDULER, strength=-1), ValueError,
     "strength must be at least 0"),
    ("REDDiff sigma", lambda _: REDDiff(GaussianImages(), SCHEDULER, sigma=-1), ValueError,
     "sigma must be at least 0"),
    ("REDDiff learning_rate", lambda _: REDDiff(GaussianImages(), SCHEDULER, learning_rate=0), ValueError,
     "learning_rate must be positive"),
    ("REDDiff weighting", lambda _: REDDiff(GaussianImages(), SCHEDULER, weighting="cubic"), ValueError,
     "weighting must be one of linear"),
    ("REDDiff order", lambda _: REDDiff(GaussianImages(), SCHEDULER, order="sideways"), ValueError,
     "order must be one of descending"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
