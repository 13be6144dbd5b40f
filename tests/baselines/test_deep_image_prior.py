import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.baselines.deep_image_prior import DeepImagePrior


def test_a_fit_is_that_of_the_equation() -> None:
    """Compare the moving average of the outputs over two Adam steps on mean (f(z + n) - y)^2, with z from U(0, 0.1)."""
    template = nn.Conv2d(2, 1, 3, padding=1).double()
    noisy = torch.rand(1, 1, 5, 6, dtype=torch.float64)
    torch.manual_seed(4)
    found = DeepImagePrior(template, input_channels=2, steps=2, average=0.75, learning_rate=0.1).fitted_estimate(noisy)

    torch.manual_seed(4)
    network = nn.Conv2d(2, 1, 3, padding=1).double()
    network.reset_parameters()
    torch.manual_seed(4)
    network.reset_parameters()
    z = torch.rand(1, 2, 5, 6, dtype=torch.float64) / 10
    optimizer, outputs = torch.optim.Adam(network.parameters(), lr=0.1), []
    for _ in range(2):
        outputs.append(network(z + torch.randn(1, 2, 5, 6, dtype=torch.float64) / 30))
        (gradient,) = torch.autograd.grad(
            (outputs[-1] - noisy).square().sum() / 30, [network.weight], retain_graph=True
        )
        optimizer.zero_grad()
        F.mse_loss(outputs[-1], noisy).backward()
        torch.testing.assert_close(network.weight.grad, gradient)
        optimizer.step()
    torch.testing.assert_close(found, (0.75 * outputs[0] + 0.25 * outputs[1]).detach())


def test_structure_is_fitted_before_noise() -> None:
    """The image is a ramp with white noise: after a few steps, the estimate is closer to the ramp than the image is."""
    torch.manual_seed(0)
    clean = torch.linspace(0, 1, 24).expand(1, 1, 24, 24)
    noisy = clean + 0.2 * torch.randn(1, 1, 24, 24)
    network = nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Upsample(scale_factor=4, mode="bilinear"), nn.Conv2d(16, 1, 1),
    )  # fmt: skip
    estimate = DeepImagePrior(network, input_channels=4, steps=80, average=0.9).restore(noisy)
    assert F.mse_loss(estimate, clean) < 0.5 * F.mse_loss(noisy, clean)
