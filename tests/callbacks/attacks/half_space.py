"""A classifier with exactly known robust accuracy, its images, and runs that attack it."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from callbacks.attacks.robust_accuracy import RobustAccuracy
from lightning_modules.robustness.attacks import PGD
from tests.trainers import quiet

LINF, L2 = 0.02, 0.06
NORMAL = torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64)


class HalfSpace(LightningModule):
    """Predicts class 1 if w.x > w.(1/2) and class 0 otherwise, in float64 so that batching does not change a class."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(NORMAL.clone())
        self.dropout = nn.Dropout(0.5)
        self.evaluated = 0
        self.trained_on = False

    def forward(self, image: Tensor) -> Tensor:
        self.evaluated += len(image)
        self.trained_on |= self.dropout.training
        score = (self.dropout(image).double() - 0.5).flatten(1) @ self.weight
        return torch.stack([torch.zeros_like(score), score], dim=1)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        right = self(batch["image"]).argmax(1) == batch["label"]
        self.log("test/accuracy", right.double().mean(), batch_size=len(right), sync_dist=True)


def signed_distance(image: Tensor) -> Tensor:
    return (image.double() - 0.5).flatten(1) @ NORMAL


class Images(Dataset):
    """Images with values far from 0 and 1; every fifth label is wrong."""

    def __init__(self, count: int = 31) -> None:
        self.image = 0.35 + 0.3 * torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(1))
        self.label = (signed_distance(self.image) > 0).long()
        self.label[::5] = 1 - self.label[::5]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.image[index], "label": self.label[index], "index": index}


def known(budget: float, length: Tensor, rows: slice = slice(None)) -> float:
    """Compute the robust accuracy from the exact distance to the plane."""
    images = Images()
    score = signed_distance(images.image)
    robust = (score.abs() / length > budget) & ((score > 0) == (images.label == 1))
    return float(robust[rows].double().mean())


def attacks() -> list[Any]:
    return [
        PGD("linf", LINF, steps=10, restarts=2, name="box"),
        PGD("l2", L2, steps=20, random_start=False, name="ball"),
    ]


def callback(**arguments: Any) -> RobustAccuracy:
    return RobustAccuracy(**{"attacks": attacks(), "batch_size": 8, **arguments})


def run(
    directory: Path, attacker: RobustAccuracy, module: LightningModule | None = None, data: Any = None, **options: Any
) -> dict[str, float]:
    checkpoint = options.pop("ckpt_path", None)
    trainer = quiet(default_root_dir=directory, callbacks=[attacker], **{"use_distributed_sampler": True, **options})
    loader = DataLoader(Images(), batch_size=4) if data is None else data
    return dict(trainer.test(module or HalfSpace(), loader, ckpt_path=checkpoint, verbose=False)[0])


def save(directory: Path, name: str, scale: float = 1.0) -> str:
    """Save a checkpoint of the half-space, or of its complement."""
    module = HalfSpace()
    module.weight.data *= scale
    saved = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2.6.0", "epoch": 1, "global_step": 1}
    torch.save(saved, directory / f"{name}.ckpt")
    return str(directory / f"{name}.ckpt")


def blocks(directory: Path) -> list[Path]:
    return sorted((directory / "robust_accuracy_rows").glob("*/block_*.csv"))


class Broken(HalfSpace):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * torch.nan
