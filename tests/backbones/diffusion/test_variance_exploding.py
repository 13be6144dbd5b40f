"""A VE model in the variables of a VP model, compared with closed forms for Gaussian images."""

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.backbones.diffusion.variance_exploding import ScoreOfDenoiser, VarianceExploding
from lightning_modules.diffusion.noise_diffusion import NoiseDiffusion
from lightning_modules.sde.discrete import noise_levels, scheduler_levels

MEAN, DEVIATION = 0.6, 0.1


class Exact(nn.Module):
    """The exact score of N(m, v) images, on the scale [0, 1], with added noise of standard deviation s."""

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == noisy.shape[:1]
        return (MEAN - noisy) / (DEVIATION**2 + sigma.view(-1, 1, 1, 1) ** 2)


def test_gaussian_images_keep_their_quantile_in_the_encoder_of_a_ve_model() -> None:
    """For a noisy image u_t, (u_t - m) / sqrt(v + s_t^2) is constant along the flow.

    The latents have variance 1, and decoding them gives the images.
    """
    model = VarianceExploding(Exact(), 0.01, 10.0).double()
    levels = noise_levels(scheduler_levels(model.scheduler))
    assert levels[[0, -1]].tolist() == pytest.approx([0.01, 10.0], rel=1e-3)  # diffusers stores abar in float32
    assert levels[500] / levels[499] == pytest.approx(1000 ** (1 / 999), rel=1e-3)
    method = NoiseDiffusion(model, num_steps=400, encoded_steps=300)
    image = MEAN + DEVIATION * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    latent = method.encode(model.encode(image), None)
    first, last = (levels[method.path[k]] for k in (0, -1))
    flow = MEAN + (image - MEAN) * ((DEVIATION**2 + last**2) / (DEVIATION**2 + first**2)) ** 0.5
    expected = (2 * flow - 1) / (1 + 4 * last**2) ** 0.5
    torch.testing.assert_close(latent, expected, rtol=0, atol=0.03)
    torch.testing.assert_close(method.decode(latent, None), image, rtol=0, atol=0.01)
    with pytest.raises(ValueError, match="sigma_max must be above sigma_min 1, got"):
        VarianceExploding(Exact(), 1.0, 0.5)


def test_the_score_follows_from_a_denoiser_by_tweedies_formula() -> None:
    """For N(0.3, 0.04) images and noise of variance s^2, the posterior mean implies the score of N(0.3, 0.04 + s^2)."""
    noisy = torch.linspace(-1, 2, 24, dtype=torch.float64).view(2, 3, 2, 2)
    level = torch.tensor([0.5, 2.0], dtype=torch.float64)
    variance = level.view(-1, 1, 1, 1) ** 2

    class PosteriorMean(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (0.04 * image + variance * 0.3) / (0.04 + variance)

    found = ScoreOfDenoiser(PosteriorMean())(noisy, level)
    torch.testing.assert_close(found, (0.3 - noisy) / (0.04 + variance))
