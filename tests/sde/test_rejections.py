from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from lightning_modules.sde.ddim import scheduler_path
from lightning_modules.sde.mean_reverting import MeanReverting
from lightning_modules.sde.processes import VE, VP, SubVP
from lightning_modules.sde.samplers import PredictorCorrector, ancestral
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("DDIMScheduler", lambda _: scheduler_path(DDIMScheduler(), 1001), ValueError,
     r"num_steps must be in \[1, 1000\], got 1001"),
    ("MeanReverting steps", lambda _: MeanReverting(steps=0), ValueError, "steps"),
    ("MeanReverting schedule", lambda _: MeanReverting(schedule="sine"), ValueError, "schedule"),
    ("MeanReverting remaining", lambda _: MeanReverting(remaining=1.0), ValueError, "remaining"),
    ("MeanReverting deviation", lambda _: MeanReverting(deviation=0.0), ValueError, "deviation"),
    ("VE 1", lambda _: VE(0.0), ValueError, "sigma_min must be positive, got 0.0"),
    ("VE 2", lambda _: VE(2.0, 1.0), ValueError, "sigma_max must be larger than sigma_min 2.0, got 1.0"),
    ("VP", lambda _: VP(-1.0), ValueError, "beta_min must be at least 0, got -1.0"),
    ("SubVP 1", lambda _: SubVP(1.0, 0.5), ValueError, "beta_max must be at least 1.0, got 0.5"),
    ("PredictorCorrector predictor", lambda _: PredictorCorrector(predictor="heun"), ValueError,
     "predictor must be one of euler_maruyama, reverse_diffusion, ancestral, none"),
    ("PredictorCorrector corrector", lambda _: PredictorCorrector(corrector="mala"), ValueError,
     "corrector must be one of langevin, annealed_langevin, none, got 'mala'"),
    ("PredictorCorrector flow", lambda _: PredictorCorrector(predictor="ancestral", flow=True), ValueError,
     "flow needs the predictor euler_maruyama or .*, got ancestral"),
    ("PredictorCorrector end", lambda _: PredictorCorrector(end=0.0), ValueError, r"end must be in \(0, 1\), got 0.0"),
    ("SubVP 2", lambda _: ancestral(lambda x, t: -x, torch.ones(1, 1), 0.5, 10, SubVP(), torch.zeros_like), ValueError,
     "ancestral is not defined for SubVP"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
