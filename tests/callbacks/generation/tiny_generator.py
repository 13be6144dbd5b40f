"""A generator of 8 x 8 images with a single weight; tests can track its random numbers and its calls."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from callbacks.generation.fid import FID
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from tests.trainers import quiet


class TinyGenerator(LightningModule):
    """Samples images of independent pixels; training reduces their variance.

    Args:
        fails_after: number of images after which sampling raises an error; None means never.
    """

    def __init__(self, fails_after: int | None = None) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(1.0))
        self.fails_after = fails_after
        self.sampled = 0
        self.seen: list[float] = []

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        if self.fails_after is not None and self.sampled >= self.fails_after:
            raise RuntimeError("killed")
        self.sampled += n
        self.seen.append(self.spread.item())
        return torch.sigmoid(self.spread * torch.randn(n, 1, 8, 8, generator=generator))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.spread.square()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def test_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fid(directory: Path, **options: Any) -> FID:
    """Create the callback with pixels as features, for 70 images in blocks of 16."""
    given = {"extractor": nn.Flatten(), "extractor_name": "pixels", "num_samples": 70, "batch_size": 16}
    return FID(**{**given, "cache_dir": str(directory / "cache"), **options})  # type: ignore[arg-type]


def digits() -> LabelledImages:
    return LabelledImages(Digits(), batch_size=650, split=Split(validation_fraction=0.1))


def run(directory: Path, module: TinyGenerator, callback: FID, **options: Any) -> dict[str, float]:
    """Test a module, with a run directory for its files, and return its metrics."""
    trainer = quiet(callbacks=[callback], default_root_dir=directory, **options)
    trainer.test(module, digits(), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
