import torch

from lightning_modules.sde.processes import VE, VP, SubVP
from lightning_modules.sde.samplers import PredictorCorrector, ancestral
from tests.rejections import Row, rejection_test

# fmt: off
REJECTED: list[Row] = [
    ("VE 2", lambda _: VE(2.0, 1.0), ValueError, "sigma_max must be larger than sigma_min 2.0, got 1.0"),
    ("PredictorCorrector flow", lambda _: PredictorCorrector(predictor="ancestral", flow=True), ValueError,
     "flow needs the predictor euler_maruyama or .*, got ancestral"),
    ("steps", lambda _: PredictorCorrector(num_steps=19).check(VP()), ValueError,
     "sampler.num_steps must be above beta_max of VP, .*, got 19"),
    ("ancestral steps", lambda _: PredictorCorrector("ancestral", "none", num_steps=20).check(VP()), ValueError,
     "sampler.num_steps must be above beta_max of VP, .*, got 20"),
    ("SubVP 2", lambda _: ancestral(lambda x, t: -x, torch.ones(1, 1), 0.5, 10, SubVP(), torch.zeros_like), ValueError,
     "ancestral is not defined for SubVP"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
