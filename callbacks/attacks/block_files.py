"""Blocks of tested images that processes share out, each with a file of its results.

A file is written when its block is done, so an interrupted evaluation continues after its last finished block, on
however many processes, and none waits in a collective for a slower one.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from datamodules.files.whole_files import write_text
from lightning_modules.resumable.item_files import missing_items
from lightning_modules.resumable.other_processes import OtherProcesses, in_first_process
from lightning_modules.resumable.settings_file import write_settings

SECONDS_BETWEEN_LINES = 60.0


class BlockFiles:
    """The files of an evaluation's blocks, in a folder named by a hash of its settings, so that no others are mixed in.

    All processes make it together.

    Args:
        trainer: the trainer, during testing.
        parent: the folder around it, which all processes share.
        settings: all that the results depend on, as JSON values. Processes may find different weights where these do
            not matter: those of the first process count.
        positions: positions of the tested images.
        batch_size: number of images in a block.

    Raises:
        FileNotFoundError: if a process does not see the folder.
    """

    def __init__(
        self, trainer: Trainer, parent: Path, settings: dict[str, Any], positions: range, batch_size: int
    ) -> None:
        self.trainer = trainer
        self.batch_size = batch_size
        self.blocks = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
        settings = {**settings, "batch_size": batch_size, "num_images": len(positions)}
        text = json.dumps(settings, indent=2) + "\n"
        name = trainer.strategy.broadcast(hashlib.blake2b(text.encode(), digest_size=6).hexdigest())
        self.folder = parent / name
        in_first_process(trainer, lambda: write_settings(self.folder / "settings.json", settings))
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{self.folder} was made by the first process and is not visible to this one: the run directory must "
                f"be on storage that all processes share"
            )
        self.paths = [self.folder / f"block_{number:05d}.csv" for number in range(len(self.blocks))]

    def evaluate(
        self, evaluate_block: Callable[[int, range], pd.DataFrame], text_columns: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Evaluate this process's share of the blocks that have no file yet, and wait for those of the others.

        Args:
            evaluate_block: maps a block's number and positions to its rows. It may take gradients, and draw from
                torch's generators, which are left as they were.
            text_columns: columns of its rows that hold text, which may look like a number or be `nan`.

        Returns:
            The rows of all blocks.

        Raises:
            SIGTERMException: if the run was told to end.
            RuntimeError: if another process failed.
        """
        pending = missing_items(self.paths)
        self.trainer.strategy.barrier("the finished blocks are known")
        device = self.trainer.strategy.root_device
        # Testing takes place in inference mode, whose tensors have no gradients.
        with (
            OtherProcesses(self.trainer, self.folder) as others,
            torch.inference_mode(False),
            torch.no_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            self.trainer.precision_plugin.forward_context(),
        ):
            told = time.monotonic()
            for number in pending[self.trainer.global_rank :: self.trainer.world_size]:
                rows = evaluate_block(number, self.blocks[number])
                write_text(self.paths[number], rows.to_csv(index=False))
                others.check()
                if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                    told = time.monotonic()
                    done = len(self.paths) - len(missing_items(self.paths))
                    rank_zero_info(f"attacked {done} of {len(self.blocks)} blocks of {self.batch_size} images")
            others.wait(lambda: not missing_items(self.paths))
        types = dict.fromkeys(text_columns, str)
        return pd.concat([pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""]) for path in self.paths])
