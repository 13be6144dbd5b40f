"""Prediction steps that write images between two others as files, and continue after an interruption."""

from typing import Any

import torch
from torch import Tensor

from datamodules.batches import InterpolationBatch
from datamodules.files.png import digest_in_png, write_png
from lightning_modules.resumable.item_files import digest_of, missing_items
from lightning_modules.tasks.writers import FolderWriter, levels_of


def strip(frames: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Put a row of images `[L, C, H, W]` and its ends `[C, H, W]` beside each other: `[C, H, (L + 2) W]`."""
    return torch.cat([first, *frames, second], dim=-1)


class InterpolationSteps(FolderWriter):
    """Gives a LightningModule its prediction steps, which write into the run directory.

    `interpolated/<name>/<lambda>.png` are the images of a pair, and `interpolated/<name>.png` is the strip of all from
    one end to the other, written last: pairs that have one are left alone, so an interrupted run continues. It is
    refused with other settings, weights or precision, and so is another pair of the same name.
    """

    written = "interpolated"
    settings_name = "interpolation_settings.json"

    def predict_step(self: Any, batch: InterpolationBatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        """Write the images of the pairs that have none yet, and return the pairs' names."""
        if self._directory is None:
            self.interpolated(batch)
            return []
        folder = self._directory / self.written
        files = [folder / f"{name}.png" for name in batch["name"]]
        digests = [digest_of(*pair) for pair in zip(batch["first"].float(), batch["second"].float(), strict=True)]
        rows = missing_items(files, digests, digest_in_png)
        if not rows:
            return []
        wanted = rows_of(batch, rows)
        frames = self.interpolated(wanted).frames
        for place, row in enumerate(rows):
            ends = (wanted["first"][place], wanted["second"][place])
            for position, frame in zip(self.positions, frames[place], strict=True):
                file = folder / batch["name"][row] / f"{position:g}.png"
                write_png(file, levels_of(frame, 255).cpu().numpy(), digests[row])
            write_png(files[row], levels_of(strip(frames[place], *ends), 255).cpu().numpy(), digests[row])
        return [batch["name"][row] for row in rows]

    def sample(self: Any, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Give n images between those of test pairs, `[n, C, H, W]` in [0, 1]: all positions of pairs in random order.

        A pair comes again only when all have been there, so `FID` measures each image once where `num_samples` and
        `batch_size` are their number.
        """
        loader = self.trainer.datamodule.test_dataloader()
        count, pairs = -(-n // len(self.positions)), len(loader.dataset)
        rounds = [torch.randperm(pairs, generator=generator) for _ in range(-(-count // pairs))]
        chosen = torch.cat(rounds)[:count]
        request = next(iter(loader.sampler))._replace(indices=chosen, global_batch_size=count)
        batch = self.trainer.strategy.batch_to_device(loader.dataset[request])
        return self.interpolated(batch).frames.flatten(0, 1)[:n].clamp(0, 1)


def rows_of(batch: InterpolationBatch, rows: list[int]) -> InterpolationBatch:
    """Take some pairs of a batch."""
    return {
        "first": batch["first"][rows],
        "second": batch["second"][rows],
        "prompt": [batch["prompt"][row] for row in rows],
        "name": [batch["name"][row] for row in rows],
        "index": batch["index"][rows],
        "global_batch_size": len(rows),
    }
