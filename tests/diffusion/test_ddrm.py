"""DDRM agrees with its equations, computed with dense matrices, and with consequences of these equations."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.corruptions.operators import AverageDownsampling, Blur, Grayscale, LinearOperator, PhaseRetrieval
from datamodules.corruptions.operators import Inpainting as Mask
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.counter import CounterRNG
from datamodules.randomness.generators import drawing
from lightning_modules.diffusion.ddrm import DDRM, ddrm
from lightning_modules.diffusion.measured_restoration import STREAM
from tests.datamodules.corruptions.operators.test_interface import dense
from tests.diffusion.gaussian_images import ABAR, SCHEDULER, GaussianImages, images
from tests.diffusion.test_red_diff import smooth

SHAPE = (3, 4, 4)
TIMES = [990, 400, 120, 15, -1]
MASK = Mask(torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5)


class Drawn:
    """Draws the same noise in the same order each time."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


def written_out(y: np.ndarray, h: np.ndarray, sigma: float, eta: float, eta_b: float) -> np.ndarray:
    """Compute the update of each component with the SVD of the matrix, for one image."""
    u, s, vt = np.linalg.svd(h)
    s = np.append(s, np.zeros(len(vt) - len(s)))
    s[s < 1e-8] = 0
    draw = Drawn()

    def noise() -> np.ndarray:
        return vt @ draw(torch.zeros(1, *SHAPE, dtype=torch.float64)).numpy().ravel()

    levels = [((1 - ABAR[t]) / ABAR[t]) ** 0.5 if t >= 0 else 0.0 for t in TIMES]
    pinv = np.array([(u.T @ y)[i] / s[i] if s[i] else 0.0 for i in range(len(s))])
    z, n = np.zeros(len(s)), noise()
    for i, value in enumerate(s):
        if value and sigma / value < levels[0]:
            z[i] = pinv[i] + (levels[0] ** 2 - (sigma / value) ** 2) ** 0.5 * n[i]
        else:
            z[i] = levels[0] * n[i]
    for t, here, there in zip(TIMES, levels, levels[1:], strict=False):
        x_t = ABAR[t] ** 0.5 * torch.from_numpy(vt.T @ z).view(1, *SHAPE)
        e = smooth(x_t, torch.tensor([t])).numpy().ravel()
        clean, n, rest = vt @ ((x_t.numpy().ravel() - (1 - ABAR[t]) ** 0.5 * e) / ABAR[t] ** 0.5), noise(), 1 - eta**2
        for i, value in enumerate(s):
            if value == 0:
                z[i] = clean[i] + rest**0.5 * there * (z[i] - clean[i]) / here + eta * there * n[i]
            elif there < sigma / value:
                z[i] = clean[i] + rest**0.5 * there * (pinv[i] - clean[i]) / (sigma / value) + eta * there * n[i]
            else:
                variance = there**2 - (sigma * eta_b / value) ** 2
                z[i] = (1 - eta_b) * clean[i] + eta_b * pinv[i] + variance**0.5 * n[i]
    return vt.T @ z


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("operator", [MASK, AverageDownsampling(2), Blur(3, 0.6), Grayscale()])
def test_a_path_is_that_of_the_equations_in_dense_matrices(operator: LinearOperator, sigma: float) -> None:
    clean = images(1, *SHAPE)
    y = operator.forward(clean) + sigma * images(*operator.forward(clean).shape, seed=1)
    for eta, eta_b in ((0.85, 1.0), (0.3, 0.6)):
        found = ddrm(smooth, y, operator, TIMES, ABAR, sigma=sigma, eta=eta, eta_b=eta_b, draw=Drawn())
        expected = written_out(y.numpy().ravel(), dense(operator.forward, SHAPE), sigma, eta, eta_b)
        np.testing.assert_allclose(found.numpy().ravel(), expected, rtol=0, atol=1e-9)


def test_every_level_keeps_its_variance_for_the_denoiser_that_knows_the_image() -> None:
    """With eta_b = 1 and any eta, z_u is the image plus noise of standard deviation s_u in every direction."""
    clean, operator, sigma = images(1, 1, 4, 4).expand(20_000, 1, 4, 4), AverageDownsampling(2), 0.2
    y = operator.forward(clean) + sigma * images(20_000, 1, 2, 2, seed=1)
    seen: list[float] = []

    def knows(x: Tensor, t: Tensor) -> Tensor:
        abar = float(ABAR[t[0]])
        noise = (x - abar**0.5 * clean) / (1 - abar) ** 0.5
        pixels, measured = noise.square().mean().item(), (2 * operator.forward(noise)).square().mean().item()
        seen.extend((pixels, measured))
        return noise

    found = ddrm(knows, y, operator, TIMES, ABAR, sigma=sigma)
    assert seen == pytest.approx([1] * len(seen), abs=0.02)
    torch.testing.assert_close(found, clean)


def test_the_module_takes_the_noise_of_the_data_and_keeps_what_is_measured_without_noise() -> None:
    clean = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    y = MASK.forward(2 * clean - 1)
    module: Any = DDRM(GaussianImages().double(), SCHEDULER, steps=5)
    for sigma in (0.0, 0.25):
        found = module.restore(MASK.forward(clean), MASK, torch.Generator().manual_seed(3), sigma=sigma)
        draw = drawing(torch.Generator().manual_seed(3))
        expected = ddrm(module.network, y, MASK, module.times(), ABAR, sigma=2 * sigma, draw=draw)
        torch.testing.assert_close(found, ((expected + 1) / 2).detach(), rtol=0, atol=1e-12)
        assert torch.allclose(MASK.forward(found), MASK.forward(clean), rtol=0, atol=1e-12) == (sigma == 0)
        assert not found.requires_grad
        source = SimpleNamespace(operator=MASK, sigma=sigma)
        module._trainer = SimpleNamespace(datamodule=source)
        given = {"noisy": (y + 1) / 2, "measured": y, "index": torch.arange(2)}
        draw = CounterRNG(run_seed(), 0, torch.arange(2), STREAM).normal
        expected = ddrm(module.network, y, MASK, module.times(), ABAR, sigma=2 * sigma, draw=draw)
        torch.testing.assert_close(module.estimate(given), ((expected + 1) / 2).detach())
    with pytest.raises(ValueError, match=r"data.operator must be linear for DDRM, such as .*, got PhaseRetrieval"):
        module.restore(y, PhaseRetrieval())
