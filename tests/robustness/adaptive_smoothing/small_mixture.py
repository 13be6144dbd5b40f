"""A small mixture, images for it, and float64 tensors."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.robustness.adaptive_smoothing.mixture import MixingPerceptron, Mixture


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(classes: int = 4, policy_graph: bool = True, **options: Any) -> Mixture:
    torch.manual_seed(0)
    g, h = (
        nn.Sequential(nn.Flatten(), nn.Linear(16, k), nn.BatchNorm1d(k), nn.Tanh(), nn.Linear(k, classes))
        for k in (6, 5)
    )
    names: dict[str, Any] = {"accurate_features": ["3"], "robust_features": ["3"], "policy_graph": policy_graph}
    mixture = Mixture(g, h, MixingPerceptron(11, [8]), **names, **options)
    return mixture.double()


def images(count: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)
    return image, torch.randint(4, (count,), generator=generator)
