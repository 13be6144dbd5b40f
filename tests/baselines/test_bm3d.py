"""Tests of BM3D: filtering requires the package, and the test of the published PSNR requires the images of Set12."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import camera

from datamodules.corruptions.image_noise import CounterRNG, PoissonGaussian
from datamodules.corruptions.image_noise.poisson_gaussian import (
    estimate_poisson_gaussian,
    invert_stabilization,
    stabilize_variance,
)
from datamodules.files.data_directory import data_directory
from lightning_modules.baselines import bm3d
from lightning_modules.baselines.bm3d import BM3D
from lightning_modules.interfaces import Denoiser, require
from lightning_modules.metrics.image_quality import psnr


@pytest.fixture
def filtered_with(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace BM3D by a function that subtracts the noise's standard deviation, and records it."""
    deviations: list[float] = []

    def filtered(noisy: np.ndarray, sigma: float) -> np.ndarray:
        deviations.append(sigma)
        return noisy - sigma

    monkeypatch.setattr(bm3d, "find_spec", lambda name: name)
    monkeypatch.setattr(bm3d, "bm3d_filtered", filtered)
    return deviations


def test_images_are_filtered_one_by_one_with_their_deviation(filtered_with: list[float]) -> None:
    module = BM3D(grey_levels=51)
    for protocol in (Denoiser,):
        require(module, protocol, "a test")
    image = torch.rand(2, 3, 8, 9)
    torch.testing.assert_close(module.restore(image), image - 0.2)
    expected = (image - torch.tensor([0.5, 0.25])[:, None, None, None]).clamp(0, 1)
    torch.testing.assert_close(module.denoise(image, torch.tensor([0.5, 0.25])), expected)
    assert filtered_with == pytest.approx([0.2, 0.2, 0.5, 0.25])


def test_a_deviation_that_is_not_given_is_estimated(filtered_with: list[float]) -> None:
    clean = torch.from_numpy(camera())[None, None] / 255
    noisy = clean[..., :256, :256] + 0.1 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    BM3D().restore(noisy)
    BM3D().restore(torch.zeros(1, 3, 16, 16))
    assert filtered_with == pytest.approx([0.1, 1e-4], rel=0.1)


def test_noise_that_grows_with_the_brightness_is_stabilised(filtered_with: list[float]) -> None:
    """The stabilised noise has the standard deviation 1, which the replaced filter subtracts."""
    clean = torch.from_numpy(camera())[None, None] / 255
    noisy = PoissonGaussian(0.02, 0.02).sample(clean, CounterRNG(0, 0, torch.tensor([0])))
    gain, variance = (each[..., None, None] for each in estimate_poisson_gaussian(noisy))
    expected = invert_stabilization(stabilize_variance(noisy.double(), gain, variance) - 1, gain, variance)
    torch.testing.assert_close(BM3D(poisson_gaussian=True).restore(noisy), expected.to(noisy))
    assert 0 < filtered_with[0] < 0.2


def test_refusals(monkeypatch: pytest.MonkeyPatch, filtered_with: list[float]) -> None:
    with pytest.raises(ValueError, match="grey_levels must be positive, got 0"):
        BM3D(0)
    with pytest.raises(ValueError, match="grey_levels must be null with poisson_gaussian, got 25"):
        BM3D(25, poisson_gaussian=True)
    with pytest.raises(ValueError, match="cannot be trained: run test or predict"):
        BM3D(25).setup("fit")
    monkeypatch.setattr(bm3d, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "noiseworks\[bm3d\]"'):
        BM3D(25).setup("test")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_package_denoises(channels: int) -> None:
    pytest.importorskip("bm3d")
    clean = (torch.from_numpy(camera())[200:248, 200:248] / 255).expand(1, channels, -1, -1)
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    estimate = BM3D(25).restore(noisy)
    assert estimate.shape == noisy.shape
    assert float(psnr(estimate, clean)) > float(psnr(noisy, clean, "unclipped")) + 5


@pytest.mark.data
def test_the_published_mean_of_set12_is_met() -> None:
    """The expected 29.96 dB are from table 2 of the Noise2Score paper.

    The tolerance of 0.1 dB covers a different draw of the noise and a newer version of the package.
    """
    pytest.importorskip("bm3d")
    measured = []
    for file in sorted((data_directory(None, "Set12") / "Set12").glob("*.png")):
        pixels = np.array(Image.open(file))
        clean = torch.from_numpy(pixels)[None, None].double() / 255
        noise = np.random.RandomState(0).standard_normal(pixels.shape)
        noisy = clean + 25 / 255 * torch.from_numpy(noise)
        assert float(psnr(noisy, clean, "unclipped")) == pytest.approx(20.17, abs=0.1)
        measured.append(float(psnr(BM3D(25).restore(noisy), clean)))
    assert np.mean(measured) == pytest.approx(29.96, abs=0.1)
