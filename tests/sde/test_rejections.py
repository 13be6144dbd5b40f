from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.sde.mean_reverting import MeanReverting
from lightning_modules.sde.processes import VE, SubVP
from lightning_modules.sde.samplers import PredictorCorrector, ancestral
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("MeanReverting steps", lambda _: MeanReverting(steps=0), ValueError, "steps"),
    ("MeanReverting schedule", lambda _: MeanReverting(schedule="sine"), ValueError, "schedule"),
    ("MeanReverting remaining", lambda _: MeanReverting(remaining=1.0), ValueError, "remaining"),
    ("MeanReverting deviation", lambda _: MeanReverting(deviation=0.0), ValueError, "deviation"),
    ("VE 2", lambda _: VE(2.0, 1.0), ValueError, "sigma_max must be larger than sigma_min 2.0, got 1.0"),
    ("PredictorCorrector flow", lambda _: PredictorCorrector(predictor="ancestral", flow=True), ValueError,
     "flow needs the predictor euler_maruyama or .*, got ancestral"),
    ("SubVP 2", lambda _: ancestral(lambda x, t: -x, torch.ones(1, 1), 0.5, 10, SubVP(), torch.zeros_like), ValueError,
     "ancestral is not defined for SubVP"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
