"""A classifier whose votes do not depend on the batch, a few images, and a function that certifies these images."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from callbacks.certification.certify import Certification
from lightning_modules.robustness.certificates.modes import Certificate, FixedSampling, Mode
from lightning_modules.robustness.certificates.statistics import gaussian_radius
from lightning_modules.robustness.certificates.votes import Certified
from tests.trainers import quiet

SIGMA = 0.25


class Planes(LightningModule):
    """Three classes of 2 x 2 images, bounded by planes; logits are in float64, so that batching does not change a vote.

    Args:
        rest: pause, in seconds, in every evaluation of more than one image.
        failing: whether such evaluations return NaN.
    """

    num_classes = 3
    weight: Tensor

    def __init__(self, rest: float = 0.0, failing: bool = False) -> None:
        super().__init__()
        self.rest = rest
        self.failing = failing
        self.evaluated = 0
        weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.register_buffer("weight", 2 * weight)

    def forward(self, image: Tensor) -> Tensor:
        self.evaluated += len(image)
        if len(image) > 1:
            time.sleep(self.rest)
        logits = ((image.double() - 0.5).flatten(1)[:, None] * self.weight).sum(2)
        return logits * torch.nan if self.failing and len(image) > 1 else logits

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        right = self(batch["image"]).argmax(1) == batch["label"]
        self.log("test/accuracy", right.double().mean(), batch_size=len(right), sync_dist=True)


class OwnVotes(Planes):
    """The same classifier as `Planes`, with its own method for smoothed votes."""

    certificate = "its own"

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return self((image + sigma * noise)[:, :1])[None]

    def certified_radius(self, probability: Any, sigma: float) -> float:
        return gaussian_radius(probability[0], sigma)


class Images(Dataset):
    """Images of which every fifth has a wrong label."""

    def __init__(self, count: int = 12, scale: float = 1.0) -> None:
        self.image = scale * torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(1))
        self.label = Planes()(self.image).argmax(1)
        self.label[::5] = (self.label[::5] + 1) % 3

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Any:
        return {"image": self.image[index], "label": self.label[index], "index": index}


def run(
    directory: Path, callback: Certification, module: LightningModule | None = None, data: Any = None, **options: Any
) -> dict[str, float]:
    """Test with a callback, and return the metrics."""
    trainer = quiet(default_root_dir=directory, callbacks=[callback], **{"use_distributed_sampler": True, **options})
    if not isinstance(data, LightningDataModule | list):
        data = DataLoader(data or Images(), batch_size=4)
    source = {"datamodule": data} if isinstance(data, LightningDataModule) else {"dataloaders": data}
    return dict(trainer.test(module or Planes(), **source, verbose=False)[0])


def certification(mode: Mode | None = None, **arguments: Any) -> Certification:
    """Create the callback with few draws."""
    return Certification(
        **{"sigma": SIGMA, "mode": mode or FixedSampling(n0=20, n=600), "batch_size": 150, **arguments}
    )


def certified(index: int = 4, radius: float = 0.49996, seconds: float = 1.5, **changed: Any) -> Certified:
    """Create the finished certificate of an image of class 2, based on two votes."""
    values: dict[str, Any] = {"prediction": 2, "outcome": "complete", "selected": 2, "hits": (9, 8), "n": 10}
    return Certified(index, 2, Certificate(**{**values, "radius": radius, "p_lower": (0.1, 0.2), **changed}), seconds)


def same_rows(*directories: Path) -> bool:
    """Return whether the runs' certificates are byte-identical."""
    return len({(directory / "certification.csv").read_bytes() for directory in directories}) == 1
