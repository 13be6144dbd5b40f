from functools import partial

import torch

from datamodules.corruptions.operators import AverageDownsampling, Inpainting
from lightning_modules.diffusion.pigdm import pigdm_guidance
from tests.diffusion.gaussian_images import images, shrinkage, step

MASK = Inpainting(torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5)


def test_the_gradient_of_pigdm_is_what_the_pseudo_inverse_misses() -> None:
    operator, t, x = AverageDownsampling(2), 300, images(2, 1, 4, 4)
    y, a = operator.forward(images(2, 1, 4, 4, seed=1)), shrinkage(300)
    estimate, correction = step(partial(pigdm_guidance, measured=y, operator=operator), t, x)
    missing = operator.pseudo_inverse(y - operator.forward(a * x))
    torch.testing.assert_close(correction, 0.5 * a * missing)
    torch.testing.assert_close(estimate, a * x)


def test_pigdm_takes_known_pixels_from_the_data_and_guides_the_others() -> None:
    x, y = images(2, 1, 4, 4), MASK.forward(images(2, 1, 4, 4, seed=1))
    estimate, correction = step(partial(pigdm_guidance, measured=y, operator=MASK), 300, x)
    known = MASK.mask.expand_as(x)
    torch.testing.assert_close(estimate[known], y[known])
    torch.testing.assert_close(estimate[~known], shrinkage(300) * x[~known])
    assert correction[known].eq(0).all()
