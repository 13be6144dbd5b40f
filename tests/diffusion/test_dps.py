from functools import partial

import pytest
import torch

from datamodules.corruptions.operators import AverageDownsampling, Inpainting, LinearOperator
from lightning_modules.diffusion.dps import dps_guidance
from tests.diffusion.gaussian_images import images, shrinkage, step

MASK = Inpainting(torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5)


@pytest.mark.parametrize("operator", [MASK, AverageDownsampling(2)])
@pytest.mark.parametrize("t", [900, 300])
def test_the_gradient_of_dps_is_that_of_the_distance(operator: LinearOperator, t: int) -> None:
    """The step is -zeta d |r|^2 / d x / |r| = 2 zeta a H^T r / |r| with r = y - H a x, separately for each image."""
    x, y = images(2, 1, 4, 4), operator.forward(images(2, 1, 4, 4, seed=1))
    estimate, correction = step(partial(dps_guidance, measured=y, operator=operator, strength=0.3), t, x)
    residual = y - operator.forward(shrinkage(t) * x)
    norm = residual.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(correction, 2 * 0.3 * shrinkage(t) * operator.transpose(residual) / norm)
    torch.testing.assert_close(estimate, shrinkage(t) * x)


def test_a_measurement_that_is_met_gives_no_gradient_instead_of_none() -> None:
    nought = torch.zeros(2, 1, 4, 4)
    _, correction = step(partial(dps_guidance, measured=nought, operator=MASK, strength=1.0), 300, nought)
    assert correction.eq(0).all()
