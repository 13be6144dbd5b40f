"""Small classifiers with known robustness, and images for them."""

import torch
from torch import Tensor, nn

from lightning_modules.robustness.attacks.ascent import Network, Norm

SHAPE = (2, 3, 3)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half_space(weight: Tensor, offset: float) -> Network:
    """Predict class 1 if w.x > offset, and class 0 otherwise."""
    return lambda image: torch.stack([torch.zeros(len(image)), image.flatten(1) @ weight - offset], dim=1)


def dual(weight: Tensor, norm: Norm) -> float:
    """Return the maximum of w.d subject to ||d|| = 1."""
    return float(weight.abs().sum() if norm == "linf" else weight.norm())


def perceptron() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(18, 32), nn.ReLU(), nn.Linear(32, 4)).double()
    for parameter in layers.parameters():
        parameter.data *= 3
    return layers.eval()


def images() -> tuple[Tensor, Tensor]:
    image = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(4)).double()
    return image, perceptron()(image).argmax(1)


def confident(gap: float, classes: int = 2) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a linear classifier and images `[100, 1, 8, 8]`; the first two logits have a median gap of `gap`."""
    weight = numbers(64, seed=1).float()
    image = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    score = (image.flatten(1) - 0.5) @ weight
    weight = weight * gap / (2 * score.abs().median())
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.fill_(-1000.0)
        network[1].weight[:2] = torch.stack([weight, -weight])
        network[1].bias[:2] = torch.stack([-weight.sum(), weight.sum()]) / 2
    return network, image, (score < 0).long()
