"""A training run with predictions known in advance, and the authors' rule for the end of early learning."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from scipy.optimize import curve_fit
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, Dataset, Sampler

from callbacks.early_learning.curve import LearningCurve, learning_curve
from experiments.saving.metrics_table import MetricsTable
from tests.trainers import quiet

NUM_CLASSES = 3
NUM_SAMPLES = 149  # the last batch has 5 samples, an odd number
CURVE_OF_CLASS = [LearningCurve(0.8, 1.0, 1.5), LearningCurve(0.9, 1.0, 3.0), LearningCurve(0.9, 1.0, 60.0)]
GIVEN = torch.arange(NUM_SAMPLES) % NUM_CLASSES
CLEAN = torch.where(torch.arange(NUM_SAMPLES) % 4 == 0, (GIVEN + 1) % NUM_CLASSES, GIVEN)  # every fourth label is wrong


def authors_update_epoch(y: np.ndarray, r: float, n: int, epochs_per_record: float = 1.0, shift: bool = False) -> float:
    """Compute the epoch at which labels are updated directly from the definition of the rule, without our code."""
    start = 0
    for k in range(len(y) - 1 if shift else 0):
        if y[k + 1] - y[k] < 0.1:
            start = k + 1
        else:
            break
    y = y[start:]
    x = np.linspace(0, len(y) * epochs_per_record, len(y))
    bounds = ([0, 0, 0], [1, 1, np.inf])
    weights = {"sigma": np.geomspace(1, 0.1, len(y)), "absolute_sigma": True}
    (a, b, c), _ = curve_fit(
        lambda t, a, b, c: a * (1 - np.exp(-1 / c * t**b)), x, y, p0=(1, 1, 1), method="trf", bounds=bounds, **weights
    )
    u = np.arange(1, n) + 1e-6
    derivative = a * b / c * np.exp(-1 / c * u**b) * u ** (b - 1)
    return int((abs(derivative - derivative[0]) / derivative[0] <= r).sum()) + 1 + start * epochs_per_record


def predictions(epoch: int) -> Tensor:
    """Predict the given label for the first share f(epoch + 1/2) of each class, and a wrong label for the rest."""
    predicted = (GIVEN + 2) % NUM_CLASSES
    for k, curve in enumerate(CURVE_OF_CLASS):
        members = (k == GIVEN).nonzero().flatten()
        predicted[members[: round(float(learning_curve(epoch + 0.5, *curve)) * len(members))]] = k
    return predicted


class Resumable(Sampler):
    """Shuffled batches of 16, distributed over the processes; resumes at the position of a checkpoint."""

    def __init__(self, rank: int, world_size: int, position: int = 0) -> None:
        order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(0))
        self.batches = [batch[rank::world_size] for batch in order.split(16)]
        self.position = position

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        start, self.position = self.position, 0
        return iter(self.batches[start:])


class Samples(Dataset):
    def __init__(self, per_pixel: bool, with_truth: bool) -> None:
        self.per_pixel, self.with_truth = per_pixel, with_truth

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        batch = {"label": GIVEN[index]} | ({"clean_label": CLEAN[index]} if self.with_truth else {})
        if self.per_pixel:
            batch = {key: label[:, None, None] for key, label in batch.items()}
        return batch | {"index": index, "image": torch.zeros(len(index), 1, 2, 2)}


class Scripted(LightningModule):
    """A classifier, or a segmenter of 1 x 1 images; in training, it predicts what `predictions` returns."""

    def __init__(self, per_pixel: bool = False, first_batch: int = 0, with_truth: bool = True) -> None:
        super().__init__()
        self.num_classes = NUM_CLASSES
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.per_pixel = per_pixel
        self.first_batch = first_batch
        self.with_truth = with_truth
        self.told: list[tuple[int, list[int]]] = []

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, :NUM_CLASSES]

    def on_early_learning_end(self, categories: list[int], epoch: int) -> None:
        self.told.append((epoch, categories))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self.step_with(one_hot(predictions(self.current_epoch)[batch["index"]], NUM_CLASSES).float())

    def step_with(self, logits: Tensor) -> dict[str, Tensor]:
        return {"loss": self.weight.square(), "logits": logits[..., None, None] if self.per_pixel else logits}

    def train_dataloader(self) -> DataLoader:
        sampler = Resumable(self.trainer.global_rank, self.trainer.world_size, self.first_batch)
        return DataLoader(Samples(self.per_pixel, self.with_truth), sampler=sampler, batch_size=None)

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class OneBatch(Scripted):
    """Trains on one batch with given labels, and predicts given classes."""

    def __init__(self, predicted: list[int], per_pixel: bool = False, **labels: list[int]) -> None:
        super().__init__(per_pixel)
        self.predicted, self.labels = predicted, labels

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self.step_with(torch.eye(NUM_CLASSES)[self.predicted])

    def train_dataloader(self) -> DataLoader:
        batch = {key: torch.tensor(label) for key, label in self.labels.items()}
        batch = {key: label[:, None, None] if self.per_pixel else label for key, label in batch.items()}
        return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]


class SaveAt(Checkpoint):
    """Writes one checkpoint at a chosen point of the loop."""

    def __init__(self, path: Path, where: str, epoch: int, batch: int = 0) -> None:
        self.path, self.where, self.epoch, self.batch = path, where, epoch, batch

    def _save(self, trainer: Trainer, where: str, batch: int = 0) -> None:
        if (self.where, self.epoch, self.batch) == (where, trainer.current_epoch, batch):
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._save(trainer, "batch", args[-1])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "epoch")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, "validation")


def trainer_in(directory: Path, *callbacks: Callback, processes: int = 1, max_epochs: int = 14) -> Trainer:
    return quiet(
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        max_epochs=max_epochs,
        callbacks=list(callbacks),
        logger=MetricsTable(directory),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )


def table(directory: Path) -> pd.DataFrame:
    return pd.read_csv(directory / "early_learning.csv")
