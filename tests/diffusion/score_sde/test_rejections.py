from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler
from torch import nn

from datamodules.corruptions.image_noise import Gaussian
from datamodules.corruptions.operators import AverageDownsampling, Grayscale
from datamodules.restoration.image_pairs import ImagePairs
from lightning_modules.diffusion.score_sde import ScoreSDE, pretrained_process
from lightning_modules.diffusion.score_sde.trained_levels import TrainedLevels
from lightning_modules.sde.flow import ProbabilityFlow
from lightning_modules.sde.processes import VE, SubVP
from lightning_modules.sde.samplers import PredictorCorrector
from tests.diffusion.score_sde.test_inpainting import PREDICTED, GaussianPixels, data, module
from tests.rejections import Row, rejection_test
from tests.trainers import quiet


def prediction_of_image_pairs(_: Path) -> object:
    pairs = ImagePairs(test=GaussianPixels(), noise=Gaussian(25))
    return quiet().predict(module(), pairs)


def score_sde(options: dict[str, Any]) -> object:
    settings = {"process": VE(), "image_shape": [1, 4, 4], "sampler": PredictorCorrector(), **options}
    return ScoreSDE(nn.Linear(1, 1), **settings)


def pretrained(root: Path, config: dict[str, Any]) -> object:
    DDPMScheduler(**config).save_pretrained(root)
    return pretrained_process(str(root))


# fmt: off
REJECTED: list[Row] = [
    ("test 1", lambda _: quiet().test(module(sampler=PREDICTED), data(AverageDownsampling(2))), ValueError,
     "data.operator must be a mask .* or Grayscale .*got AverageDownsampling"),
    ("test 2", lambda _: quiet().test(module(sampler=ProbabilityFlow()), data(Grayscale())), ValueError,
     "model.sampler: ProbabilityFlow cannot inpaint"),
    ("prediction of image pairs", prediction_of_image_pairs, TypeError,
     "ScoreSDE needs a MeasurementSource, and ImagePairs lacks operator"),
    ("score_sde 3", lambda _: score_sde({"num_levels": 10, "likelihood_weighting": True}), ValueError,
     "num_levels must be None: likelihood_weighting and likelihood_repeats"),
    ("score_sde 4", lambda _: score_sde({"image_shape": [4, 4]}), ValueError,
     r"image_shape must be three positive integers C, H and W, got \[4, 4\]"),
    ("score_sde 5", lambda _: score_sde({"process": SubVP(), "sampler": PredictorCorrector("ancestral")}),
     ValueError, "sampler: the predictor ancestral is not"),
    ("score_sde 6", lambda _: score_sde({"process": SubVP(), "num_levels": 10}), ValueError,
     "num_levels: discrete models need a VE or VP process, got SubVP"),
    ("pretrained 1",
     lambda root: pretrained(root, {"beta_schedule": "squaredcos_cap_v2"}), ValueError,
     "beta_schedule must be linear .* got squaredcos_cap_v2"),
    ("pretrained 2",
     lambda root: pretrained(root, {"prediction_type": "v_prediction"}), ValueError,
     "prediction_type must be epsilon .* got v_prediction"),
    ("TrainedLevels", lambda _: TrainedLevels(SubVP(), 1000), ValueError,
     "num_levels: discrete models need a VE or VP process, got SubVP"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
