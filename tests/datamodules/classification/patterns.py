import inspect
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from experiments.run_directory import MetricsTable

NUM_CLASSES = 4
LOADER = set(inspect.signature(LabelledImages.__init__).parameters) - {"self", "images"}


def loaded(kind: type[ImageSet], *args: Any, **options: Any) -> LabelledImages:
    """Batches of a set of this kind; options go to whoever knows them."""
    loader = {key: options.pop(key) for key in [*options] if key in LOADER}
    return LabelledImages(kind(*args, **options), **loader)


class Patterns(ImageSet):
    """Random images of 6 x 6 pixels, ten of each of four classes in mixed order for training, and seven for testing."""

    num_classes = NUM_CLASSES
    image_shape = (2, 6, 6)

    def __init__(self, brightest: int = 255, own_validation: bool = False) -> None:
        self.brightest = brightest
        self.own_validation = own_validation

    def _read(self, label: np.ndarray) -> ImagesInMemory:
        random = np.random.default_rng(len(label))
        image = random.integers(self.brightest + 1, size=(len(label), *self.image_shape), dtype=np.uint8)
        return ImagesInMemory(torch.from_numpy(image), torch.from_numpy(random.permutation(label)), self.brightest)

    def training(self) -> ImagesInMemory:
        return self._read(np.repeat(np.arange(NUM_CLASSES), 10))

    def validation(self) -> ImagesInMemory | None:
        return self._read(np.arange(NUM_CLASSES)) if self.own_validation else None

    def test(self) -> ImagesInMemory:
        return self._read(np.arange(7) % NUM_CLASSES)


def patterns(**options: Any) -> LabelledImages:
    return loaded(Patterns, **{"batch_size": 8, **options})


def ready(data: LabelledImages, stage: str = "fit") -> LabelledImages:
    data.setup(stage)
    return data


def labels(data: LabelledImages) -> Tensor:
    assert data.train_set is not None
    return data.train_set.label


class Recorder(LightningModule):
    """Keeps what it is given, and learns nothing."""

    def __init__(self, read_training_images: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.read_training_images = read_training_images
        self.trained: list[dict[str, Any]] = []
        self.evaluated: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.weight * batch["image"].sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def on_train_epoch_end(self) -> None:
        if self.read_training_images:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            for batch in data.training_images_dataloader():
                self.evaluated.append(self.trainer.strategy.batch_to_device(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def run(
    data: LabelledImages, directory: Path, module: Recorder | None = None, epochs: int = 1, **options: Any
) -> Recorder:
    module = module or Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=MetricsTable(directory),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module, datamodule=data)
    return module


def joined(batches: list[dict[str, Any]], key: str) -> Tensor:
    return torch.cat([batch[key] for batch in batches])


def on_process(rank: int, world_size: int, directory: Path) -> Any:
    """What a DataModule asks of its trainer before training, on one of several processes."""
    return types.SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        is_global_zero=rank == 0,
        log_dir=str(directory),
        loggers=["any"],
        current_epoch=0,
        num_devices=world_size,
        strategy=types.SimpleNamespace(root_device=torch.device("cpu")),
    )
