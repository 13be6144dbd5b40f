from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.corruptions.image_noise import Gaussian
from lightning_modules.denoising.noise2score import Noise2Score
from lightning_modules.interfaces import SmoothedClassifier, require
from lightning_modules.robustness.denoised_classifier import DenoisedClassifier


class ExactScore(nn.Module):
    """The exact score of N(0.5, 0.04) images with added noise of variance 0.25."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(-1 / 0.29, dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        return self.scale * (image - 0.5)


def module() -> DenoisedClassifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    made = DenoisedClassifier(network, Noise2Score(ExactScore(), Gaussian(127.5)), num_classes=3).double()
    made.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    return made


def test_votes_are_on_the_posterior_mean_of_the_noisy_image() -> None:
    """For N(m, t2) images, the posterior mean is m + t2 / (t2 + sigma^2) (y - m)."""
    method = module()
    image, noise = torch.rand(5, 1, 3, 4, dtype=torch.float64), torch.randn(5, 1, 3, 4, dtype=torch.float64)
    denoised = (0.5 + 0.04 / 0.29 * (image + 0.5 * noise - 0.5)).clamp(0, 1)
    torch.testing.assert_close(method.smoothed_logits(image, noise, 0.5)[0], method.network(denoised))
    require(method, SmoothedClassifier, "Certification")


def test_the_radius_is_that_of_randomised_smoothing() -> None:
    assert module().certified_radius([0.841344746], 0.5) == pytest.approx(0.5, abs=1e-6)  # Phi(1)
    assert module().certified_radius([0.5], 0.5) == 0


def test_a_step_trains_the_classifier_on_clean_images_and_leaves_the_denoiser() -> None:
    method = module()
    batch: Any = {"image": torch.rand(4, 1, 3, 4, dtype=torch.float64), "label": torch.tensor([0, 2, 1, 1])}
    method.train()
    assert not method.denoiser.training
    loss = method.training_step({**batch, "index": torch.arange(4), "global_batch_size": 4}, 0)["loss"]
    loss.backward()
    twin = module().network
    F.cross_entropy(twin(batch["image"]), batch["label"]).backward()
    for one, other in zip(method.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert all(parameter.grad is None for parameter in method.denoiser.parameters())


def test_a_module_that_does_not_denoise_is_refused() -> None:
    with pytest.raises(TypeError, match="DenoisedClassifier needs a Denoiser, and Linear lacks denoise"):
        DenoisedClassifier(nn.Linear(2, 2), nn.Linear(2, 2), num_classes=2)
