"""A small network for spectrograms, modules that use it, and a batch of noise."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.restoration.sgmse import SGMSE
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram


class Mixing(nn.Module):
    """A 3 x 3 convolution of the four channels, scaled by the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, channels: Tensor, t: Tensor) -> Tensor:
        return self.conv(channels) / (0.5 + t.to(channels)[:, None, None, None])


def module(kind: Any = SGMSE, **options: Any) -> Any:
    given = {"spectrogram": Spectrogram(14, 4), "frame_multiple": 4, "optimizer": lambda p: torch.optim.SGD(p, lr=1e-4)}
    stepwise = kind is SGMSE and options.get("sampler") != "flow"
    made = kind(Mixing(), **{**given, **({"num_steps": 3} if stepwise else {}), **options}).double()
    made.log = lambda *args, **kwargs: None
    return made


def batch(count: int = 3, samples: int = 50) -> Any:
    torch.manual_seed(1)
    clean, noise = torch.randn(2, count, samples, dtype=torch.float64)
    return {
        "clean": 0.2 * clean,
        "noisy": 0.2 * clean + 0.1 * noise,
        "index": torch.arange(count),
        "global_batch_size": count,
        "rate": 2000,
    }
