"""Training samples at chosen places, as they are, with each process's share of them on its device."""

from typing import Any

import torch
from torch import Tensor

from datamodules.arguments import within
from datamodules.batches import network_input
from datamodules.distributed.collectives import rank, world_size
from datamodules.loading.global_batches import Request
from datamodules.randomness.generators import generator_of
from lightning_modules.interfaces import TrainingImageSource, require


def drawn_places(data: Any, samples: int, needed_by: str, *seed: int) -> Tensor:
    """Draw places in the training set, without repetition and the same on all processes: `[samples]`, int64.

    Raises:
        ValueError: if the set has fewer samples.
    """
    within(1, data.num_train_samples, **{f"samples of {needed_by}": samples})
    return torch.randperm(data.num_train_samples, generator=generator_of(*seed))[:samples]


def chosen_samples(
    trainer: Any, places: Tensor, needed_by: str, at_once: int, everywhere: bool = False
) -> list[tuple[Any, Tensor]]:
    """Fetch this process's share of training images, without augmentation, and their labels.

    Args:
        trainer: of the run.
        places: in the training set, `[n]`, the same on all processes.
        needed_by: name of what asks, for messages.
        at_once: images of a batch in this process.
        everywhere: fetch all of them in each process instead.

    Returns:
        Inputs of the network and labels `[B]`, a batch at a time.

    Raises:
        TypeError: if the DataModule gives no training images without augmentation.
    """
    source = require(trainer.datamodule, TrainingImageSource, needed_by)
    images: Any = source.training_images_dataloader().dataset
    found = []
    for part in (places if everywhere else places[rank() :: world_size()]).split(at_once):
        batch = trainer.strategy.batch_to_device(images[Request(part, 0, len(places))])
        found.append((network_input(batch), batch["label"]))
    return found
