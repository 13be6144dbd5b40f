"""Latents of Gaussian images in closed form, and their inverse."""

import math

import pytest
import torch

from lightning_modules.sde.processes import VE, Process
from tests.diffusion.score_sde.exact_network import DEVIATION, MEAN
from tests.diffusion.score_sde.test_module import module, randn
from tests.sde.exact import PROCESSES


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_latents_keep_the_quantile_of_each_pixel_and_decode_to_the_image(process: Process) -> None:
    built = module(process)
    image = MEAN + DEVIATION * randn(3, 1, 4, 4)
    assert ((image > 0) & (image < 1)).all()
    latent = built.encode(image)
    data, mean, deviation = (image, MEAN, DEVIATION)
    if not isinstance(process, VE):
        data, mean, deviation = 2 * image - 1, 2 * MEAN - 1, 2 * DEVIATION

    def moments(t: float) -> tuple[float, float]:
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        scale, noise = (float(each) for each in process.kernel(one, torch.full((1,), t, dtype=torch.float64)))
        return scale * mean, math.hypot(scale * deviation, noise)

    (first, spread), (last, wide) = moments(1e-5), moments(1.0)
    torch.testing.assert_close(latent, last + wide * (data - first) / spread, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(built.decode(latent), image, rtol=0, atol=1e-4)
    assert latent.dtype == torch.float64
    assert not latent.requires_grad
