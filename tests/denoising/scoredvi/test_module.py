import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.files.data_directory import data_directory
from datamodules.restoration.camera_pairs import SIDD
from datamodules.restoration.images import Crops
from lightning_modules.backbones import with_weights
from lightning_modules.denoising.scoredvi import ScoreDVI
from lightning_modules.denoising.scoredvi.module import Fitting, Posterior
from lightning_modules.metrics.image_quality import psnr
from lightning_modules.networks.bias_free_dncnn import BiasFreeDnCNN
from lightning_modules.networks.unet import UNet

K, C, H, W = 2, 1, 4, 6


class Gaussian(nn.Module):
    """A denoiser that returns the posterior mean of N(m, 0.09) images under noise of variance s2."""

    def __init__(self, m: float, s2: float) -> None:
        super().__init__()
        self.m, self.s2 = m, s2

    def forward(self, noisy: Tensor) -> Tensor:
        return (0.09 * noisy + self.s2 * self.m) / (0.09 + self.s2)


def module(**more: Any) -> ScoreDVI:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(C, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2 * K * C, 1))
    denoisers = [Gaussian(0.3, 0.05), Gaussian(0.6, 0.02)]
    options = {"beta": 0.01, "side_width": 4, "side_depth": 3, **more}
    return ScoreDVI(denoisers, network, **options).double()


class Given(nn.Module):
    """Stands in for the posterior network, and returns its own parameters as the posterior."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        numbers = torch.randn(6, 1, K, C, H, W, generator=random, dtype=torch.float64)
        self.mu, self.log_alpha, self.log_beta = (nn.Parameter(0.5 * numbers[row]) for row in (0, 1, 2))
        variance = torch.tensor([0.05, 0.02], dtype=torch.float64)[None, :, None, None, None]
        self.log_variance = nn.Parameter(variance.log().expand(1, K, C, H, W).clone())
        self.rho, self.d = numbers[4].softmax(dim=1), numbers[5].exp()

    def forward(self, noisy: Tensor) -> tuple[Tensor, ...]:
        return self.mu, self.log_variance, self.log_alpha, self.log_beta, self.rho, self.d


def test_the_gradient_of_a_step_is_that_of_the_paper() -> None:
    """dL/dmu = [rho (mu - y) alpha / beta - lambda rho mean score] / (C H W)."""
    method, posterior = module(fitting=Fitting(samples=3)), Given()
    noisy = torch.rand(1, C, H, W, dtype=torch.float64)
    torch.manual_seed(5)
    loss, mean, sigma = method.bound(posterior, noisy, weight=2.0)  # type: ignore[arg-type]
    loss.backward()
    torch.manual_seed(5)
    normal = torch.randn(3, K, C, H, W, dtype=torch.float64)
    mu, rho = posterior.mu.detach(), posterior.rho
    for k, (m, s2) in enumerate([(0.3, 0.05), (0.6, 0.02)]):
        score = ((m - (mu[:, k] + s2**0.5 * normal[:, k])) / (0.09 + s2)).mean(dim=0, keepdim=True)
        data = (mu[:, k] - noisy) * (posterior.log_alpha - posterior.log_beta).exp()[:, k]
        assert posterior.mu.grad is not None
        torch.testing.assert_close(posterior.mu.grad[:, k], (rho[:, k] * (data - 2 * score) / (C * H * W)).detach())
    torch.testing.assert_close(mean, (mu * rho).sum(dim=1))
    assert float(sigma) == pytest.approx((0.05**0.5 + 0.02**0.5) / 2)


def test_the_estimate_averages_the_mean_of_each_step() -> None:
    """After one step, the estimate is .9 y + .1 m, where m is the mean before the step."""
    method = module(fitting=Fitting(steps=1, restart_above=None), weight=1.0)
    noisy = torch.rand(1, C, H, W, dtype=torch.float64)
    torch.manual_seed(3)
    found, _ = method.fit_posterior(noisy, 1.0)
    torch.manual_seed(3)
    posterior = Posterior(method.network, C, K, 4, 3).to(noisy)
    mu, *_, rho, _ = posterior(noisy)
    torch.testing.assert_close(found, 0.9 * noisy + 0.1 * (mu * rho).sum(dim=1).detach())
    assert all(torch.equal(one, other) for one, other in zip(method.network.parameters(), copies(method), strict=True))


def copies(method: ScoreDVI) -> list[Tensor]:
    """Return the weights of the template network of a new module."""
    return [parameter.detach() for parameter in module().network.parameters()]


def test_estimates_follow_from_the_generator_alone_and_the_threads_numbers_go_on() -> None:
    method = module(fitting=Fitting(steps=2, restart_above=None), weight=1.0)
    noisy = torch.rand(2, C, H, W, dtype=torch.float64)
    before = torch.get_rng_state()
    found = [method.restore(noisy, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not found[0].requires_grad


def test_a_fit_that_stays_uncertain_is_made_again() -> None:
    noisy = torch.rand(1, C, H, W, dtype=torch.float64)
    for above, times in ((0.0, 2), (100.0, 1), (None, 1)):
        method, calls = module(fitting=Fitting(steps=1, restart_above=above), weight=1.0), []
        fitted = method.fit_posterior
        method.fit_posterior = lambda *given, fitted=fitted, calls=calls: calls.append(given) or fitted(*given)  # type: ignore[method-assign]
        method.restore(noisy)
        assert len(calls) == times


def test_the_mean_settles_between_data_and_prior() -> None:
    """With a fixed precision p, the mean solves p (mu - y) + lambda (mu - m) / (t2 + s2) = 0."""
    method, posterior = module(fitting=Fitting(samples=5)), Given()
    noisy = torch.rand(1, C, H, W, dtype=torch.float64)
    precision = (posterior.log_alpha - posterior.log_beta).exp().detach()
    torch.manual_seed(0)
    average = torch.zeros_like(posterior.mu)
    for step in range(800):
        loss, _, _ = method.bound(posterior, noisy, weight=0.5)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss, [posterior.mu])
        with torch.no_grad():
            posterior.mu -= 0.05 * gradient * C * H * W / posterior.rho
            average += posterior.mu / 600 if step >= 200 else 0
    m, prior = (
        torch.tensor(values, dtype=torch.float64)[None, :, None, None, None]
        for values in ([0.3, 0.6], [0.5 / 0.14, 0.5 / 0.11])
    )
    expected = (precision * noisy[:, None] + prior * m) / (precision + prior)
    torch.testing.assert_close(average, expected, rtol=0, atol=0.02)


def test_training_fits_the_denoisers_to_noise_of_any_level() -> None:
    method = module()
    method.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    method.denoisers = nn.ModuleList(nn.Conv2d(C, C, 3, padding=1) for _ in range(K)).double()
    twin = copy.deepcopy(method.denoisers)
    clean = torch.rand(5, C, H, W, dtype=torch.float64)
    torch.manual_seed(2)
    method.training_step({"clean": clean, "noisy": clean, "index": torch.arange(5), "global_batch_size": 5}, 0)[
        "loss"
    ].backward()
    torch.manual_seed(2)
    loss = torch.zeros((), dtype=torch.float64)
    for denoiser in twin:
        level = torch.rand(5, 1, 1, 1, dtype=torch.float64) * 100 / 255
        noise = torch.randn(5, C, H, W, dtype=torch.float64)
        loss = loss + (denoiser(clean + level * noise) - clean).square().sum() / clean.numel()
    loss.backward()
    for one, other in zip(method.denoisers.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.data
def test_noise_of_a_telephone_is_removed_that_the_authors_denoisers_leave() -> None:
    """Denoise part of a validation block of SIDD with fewer steps than in the paper."""
    folder = data_directory(None, "ScoreDVI") / "weights"
    denoisers = [
        with_weights(BiasFreeDnCNN(depth=20, features=64), str(folder / f"bfcnn_awgn_{k}.safetensors"))
        for k in range(3)
    ]
    images = Crops(SIDD(), crop_size=48, count=8).images("test")
    assert images.noisy is not None
    assert images.clean is not None
    noisy, clean = (torch.from_numpy(each[4])[None] / 255 for each in (images.noisy, images.clean))
    network = UNet(in_channels=3, num_classes=18, widths=[16, 32, 64], halved=False)
    fitting = Fitting(steps=150, samples=1, restart_above=None, learning_rate=2e-3)
    method = ScoreDVI(denoisers, network, 0.02, weight=2.0, fitting=fitting, side_width=16, side_depth=4).eval()
    estimate = method.restore(noisy, torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = torch.stack([denoiser(noisy) for denoiser in method.denoisers]).mean(dim=0)
    assert float(psnr(plain, clean)) < float(psnr(noisy, clean)) + 2.5
    assert float(psnr(estimate, clean)) > float(psnr(plain, clean)) + 2
