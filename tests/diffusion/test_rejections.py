from datamodules.corruptions.image_noise import Gaussian
from datamodules.restoration.image_pairs import ImagePairs
from lightning_modules.diffusion.red_diff import REDDiff
from tests.datamodules.restoration.test_measured_images import Five
from tests.diffusion.test_ddpm import batch, training
from tests.diffusion.test_measured_restoration import module
from tests.rejections import Row, rejection_test
from tests.trainers import quiet

# fmt: off
REJECTED: list[Row] = [
    ("training_step", lambda _: training().training_step(batch(), 0), ValueError, "so the images must have captions"),
    ("ImagePairs noise", lambda _: quiet().test(module(REDDiff), ImagePairs(test=Five(), noise=Gaussian(25))),
     TypeError, "REDDiff needs a MeasurementSource, and ImagePairs lacks operator"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
