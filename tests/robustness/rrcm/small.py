"""Small networks and modules of rRCM for its tests."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.networks.time_conditioned_mlp import TimeConditionedMLP
from lightning_modules.networks.time_conditioned_vit import TimeConditionedViT
from lightning_modules.robustness.rrcm.pretraining import Projector, RRCMPretraining


def small_encoder(final_norm: bool = True, depth: int = 2) -> TimeConditionedViT:
    return TimeConditionedViT(8, 4, width=12, depth=depth, num_heads=2, in_channels=1, final_norm=final_norm)


class Scaled(nn.Module):
    """A deterministic view."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: Tensor) -> Tensor:
        return self.factor * image


def pretraining(**more: Any) -> RRCMPretraining:
    arguments: dict[str, Any] = {
        "network": TimeConditionedMLP(64, width=12, depth=1),
        "projector": Projector(12, 10, 6),
        "first_view": Scaled(0.9),
        "second_view": Scaled(0.7),
        "num_steps": 100,
    }
    return RRCMPretraining(**arguments | more)


def digits_like(size: int = 5) -> dict[str, Any]:
    return {"image": torch.rand(size, 1, 8, 8, dtype=torch.float64), "global_batch_size": size}
