"""Evaluate test images in blocks, which are sharded over ranks; the results of each block are written to one file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Trainer

from datamodules.distributed.collectives import broadcast
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.settings import key_of
from datamodules.jobs.stores import csv_files


class BlockFiles(ResumableMap):
    """The result files of all blocks of images, in one folder.

    The folder's name is a hash of the settings, so results of different settings are never mixed.

    Args:
        trainer: trainer of the run that is being tested.
        parent: folder in which the result folder is created; all ranks must have access to it.
        settings: everything on which the results depend, as JSON values. The settings of rank 0 are used.
        positions: positions of the test images.
        batch_size: number of images in a block.
    """

    def __init__(
        self, trainer: Trainer, parent: Path, settings: dict[str, Any], positions: range, batch_size: int
    ) -> None:
        settings = {**settings, "batch_size": batch_size, "num_images": len(positions)}
        self.trainer = trainer
        self.blocks = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
        self.folder = parent / broadcast(key_of(settings))
        super().__init__(
            csv_files(self.folder),
            settings,
            self.folder / "settings.json",
            told_to_end=lambda: trainer.received_sigterm,
            name=f"{parent.name}, blocks of {batch_size} images",
        )

    def evaluate(
        self, evaluate_block: Callable[[int, range], pd.DataFrame], text_columns: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Evaluate this rank's share of the unfinished blocks, and wait for the other ranks.

        Args:
            evaluate_block: function that maps a block's number and positions to the block's rows. The function may
                compute gradients and use PyTorch's random generators, whose states are restored afterwards.
            text_columns: columns that are read as text, even if their values look like numbers or `nan`.

        Returns:
            The rows of all blocks.
        """
        keys = [f"block_{number:05d}" for number in range(len(self.blocks))]
        device = self.trainer.strategy.root_device
        # During a test, Lightning enables inference mode, in which tensors cannot have gradients.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            self.trainer.precision_plugin.forward_context(),
        ):
            self.run(keys, lambda numbers: ((each, evaluate_block(each, self.blocks[each])) for each in numbers))
        types = dict.fromkeys(text_columns, str)
        paths = [self.folder / f"{key}.csv" for key in keys]
        return pd.concat([pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""]) for path in paths])
