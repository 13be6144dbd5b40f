"""Read training samples at chosen positions of the training set, without augmentation.

The samples are sharded over ranks.
"""

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
    """Choose random positions in the training set, without replacement; the result is `[samples]`, int64.

    All ranks choose the same positions.

    Raises:
        ValueError: if the dataset has fewer than `samples` samples.
    """
    within(1, data.num_train_samples, **{f"samples of {needed_by}": samples})
    return torch.randperm(data.num_train_samples, generator=generator_of(*seed))[:samples]


def chosen_samples(
    trainer: Any, places: Tensor, needed_by: str, at_once: int, everywhere: bool = False
) -> list[tuple[Any, Tensor]]:
    """Fetch this rank's shard of the chosen training images, and their labels; the images are not augmented.

    Args:
        trainer: trainer of the run.
        places: positions of the chosen samples in the training set, `[n]`; must be the same on all ranks.
        needed_by: name of the caller, for error messages.
        at_once: maximum batch size on this rank.
        everywhere: whether to fetch all chosen images on every rank, instead of one shard per rank.

    Returns:
        A list of batches. Each batch is a pair of the network's inputs and the labels, `[B]`.

    Raises:
        TypeError: if the DataModule cannot provide training images without augmentation.
    """
    source = require(trainer.datamodule, TrainingImageSource, needed_by)
    images: Any = source.training_images_dataloader().dataset
    found = []
    for part in (places if everywhere else places[rank() :: world_size()]).split(at_once):
        batch = trainer.strategy.batch_to_device(images[Request(part, 0, len(places))])
        found.append((network_input(batch), batch["label"]))
    return found
