import pytest
import torch
from torch import Tensor

from datamodules.corruptions.image_noise import (
    Gamma,
    Gaussian,
    ImageNoise,
    Impulse,
    Poisson,
    best_level,
    candidates,
    looks,
    total_variation,
)


def test_grids_leave_their_first_end_out() -> None:
    """The grids of candidate levels exclude their first end point, as in Noise2Score."""
    levels = [noise.grey_levels for noise in candidates(Gaussian(1)) if isinstance(noise, Gaussian)]
    assert (len(levels), levels[0], levels[-1]) == (50, pytest.approx(6), 55)
    counts = [noise.zeta for noise in candidates(Poisson()) if isinstance(noise, Poisson)]
    assert (len(counts), counts[0], counts[-1]) == (100, pytest.approx(0.1 - 0.095 / 100), pytest.approx(0.005))
    shapes = [noise.shape for noise in candidates(Gamma()) if isinstance(noise, Gamma)]
    assert (len(shapes), shapes[0], shapes[-1]) == (80, 41, 120)
    with pytest.raises(ValueError, match="no candidate levels for Impulse"):
        candidates(Impulse())


def test_measures_by_hand() -> None:
    constant = torch.full((2, 1, 4, 4), 0.3, dtype=torch.float64)
    torch.testing.assert_close(total_variation(constant), torch.full((2,), 2e-6, dtype=torch.float64))
    x = torch.tensor([[[[-0.5, 0.25], [0.5, 0.0]]]], dtype=torch.float64)
    y = torch.full_like(x, 0.1)
    rough = (0.25 + 0.5) / 2 + (0.5 + 0.25) / 2  # differences of the clipped x: down, across
    fits = ((0.25 - 0.1 * torch.log(torch.tensor(0.25))) + (0.5 - 0.1 * torch.log(torch.tensor(0.5)))) / 2
    torch.testing.assert_close(looks(Poisson(), y, x), (0.1 * rough + fits.double())[None], rtol=0, atol=1e-6)
    x = torch.tensor([[[[0.5, 0.25], [0.5, -0.5]]]], dtype=torch.float64)  # one pixel contributes only to the roughness
    ratios, logs = torch.tensor([0.2, 0.4, 0.2]), torch.tensor([0.5, 0.25, 0.5]).log()
    expected = (0.75 / 2 + 1.25 / 2) + logs.mean() + ratios.mean() + (ratios**2).mean()
    torch.testing.assert_close(looks(Gamma(), y, x), expected.double()[None], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "calls"), [(Gaussian(10), 1), (Poisson(0.01), 100)])
def test_each_image_gets_the_level_that_looks_best_and_scores_are_computed_once(family: ImageNoise, calls: int) -> None:
    """Each image has one level at which the score removes the noise exactly: all denoised pixels are 0.5."""
    random = torch.Generator().manual_seed(0)
    noises = candidates(family)
    noise = torch.randn(3, 1, 16, 16, generator=random, dtype=torch.float64) * 0.05
    right = torch.tensor([4, 17, 30])
    asked = []

    def score(given: Tensor) -> Tensor:
        asked.append(given)
        levels = [getattr(noises[at], "zeta", None) or getattr(noises[at], "sigma", 0) for at in right.tolist()]
        level = torch.tensor(levels, dtype=torch.float64)[:, None, None, None]
        if isinstance(family, Gaussian):
            return -noise / level**2
        zeta = (0.5 + noise) / given  # computed from the counts
        wanted = torch.where((zeta - level).abs() < 1e-9, 0.5, 3.0)
        return (wanted / (0.5 + noise + zeta / 2)).log()

    chosen, denoised = best_level(noises, 0.5 + noise, score)
    assert torch.equal(chosen, right)
    assert float((denoised - 0.5).abs().max()) < 1e-9
    assert len(asked) == calls
