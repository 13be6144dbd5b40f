import inspect
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor

from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from tests.grouped import grouped

NUM_CLASSES = 4
LOADER = set(inspect.signature(LabelledImages.__init__).parameters) - {"self", "images"}


def loaded(kind: type[ImageSet], *args: Any, **options: Any) -> LabelledImages:
    """Build a DataModule with an image set of this type; each option is passed to whichever part accepts it."""
    options = grouped(LabelledImages, options)
    loader = {key: options.pop(key) for key in [*options] if key in LOADER}
    return LabelledImages(kind(*args, **options), **loader)


class Patterns(ImageSet):
    """Random 6 x 6 images of four classes: ten training images per class in mixed order, and seven test images."""

    num_classes = NUM_CLASSES
    image_shape = (2, 6, 6)

    def __init__(self, data_range: int = 255, own_validation: bool = False) -> None:
        self.data_range = data_range
        self.own_validation = own_validation

    def _read(self, label: np.ndarray) -> ImagesInMemory:
        random = np.random.default_rng(len(label))
        image = random.integers(self.data_range + 1, size=(len(label), *self.image_shape), dtype=np.uint8)
        return ImagesInMemory(torch.from_numpy(image), torch.from_numpy(random.permutation(label)), self.data_range)

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
    return data.train_set.label


def on_process(rank: int, world_size: int, directory: Path) -> Any:
    """Imitate the trainer attributes that a DataModule reads before training, for one of several processes."""
    return types.SimpleNamespace(
        state=types.SimpleNamespace(status=TrainerStatus.RUNNING),
        global_rank=rank,
        world_size=world_size,
        is_global_zero=rank == 0,
        log_dir=str(directory),
        loggers=["any"],
        current_epoch=0,
        num_devices=world_size,
        strategy=types.SimpleNamespace(root_device=torch.device("cpu")),
    )
