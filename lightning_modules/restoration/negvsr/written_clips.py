"""Prediction that leaves the restored frames of each given clip, and videos of clips that were videos."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.batches import ClipBatch
from datamodules.files.pixels import read_pixels
from datamodules.files.png import digest_in_png, write_png
from datamodules.files.video_files import encoded
from datamodules.files.whole_files import whole_file
from lightning_modules.backbones.enlarged import enlarged
from lightning_modules.resumable.item_files import digest_of, missing_items
from lightning_modules.tasks.writers import FolderWriter, levels_of

RATE = 25.0
"""Frames a second of videos of clips that have none."""
SHARP = {"crf": "14"}
"""Of the encoder: hardly visible losses."""


class ClipWriter(FolderWriter):
    """Give a LightningModule a prediction step that writes `restored/<clip>/00000000.png` into the run directory.

    Frames that are there already are left alone, so an interrupted run continues; those of another clip are refused.
    At the end, clips that were video files become `restored/<clip>.mp4`, too, at their rate, and all of
    `data.predict_dir` `beside/<clip>.mp4`: as given, enlarged by bicubic interpolation, and restored, side by side.
    Without the extra `video` frames are all there is.

    The module says in `estimated` what it makes of a batch, `[B, T, C, H, W]`.
    """

    written, settings_name = "restored", "restoration_settings.json"

    def predict_step(self: Any, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        """Write the frames of a batch that are not there yet, and return the names of their clips."""
        if self._directory is None:
            self.estimated(batch)
            return []
        sets = self._set_names("predict")[dataloader_idx : dataloader_idx + 1]
        folder = self._directory.joinpath(self.written, *sets)
        clips = batch["noisy"]
        digests = [digest_of(clip.float()) for clip in clips]
        files = [
            [folder / name / f"{first + number:08d}.png" for number in range(clips.shape[1])]
            for name, first in zip(batch["name"], batch["first"], strict=True)
        ]
        missing = [
            missing_items(paths, [digest] * len(paths), digest_in_png)
            for paths, digest in zip(files, digests, strict=True)
        ]
        rows = [row for row, numbers in enumerate(missing) if numbers]
        if not rows:
            return []
        chosen = torch.tensor(rows, device=clips.device)
        part = {**batch, "noisy": clips[chosen], "index": batch["index"][chosen]}
        for row, restored in zip(rows, self.estimated(part), strict=True):
            levels = levels_of(restored, 255).cpu().numpy()
            for number in missing[row]:
                write_png(files[row][number], levels[number], digests[row])
        return [batch["name"][row] for row in rows]

    def on_predict_end(self: Any) -> None:
        if self._directory is not None and self.trainer.datamodule.predict_set is not None:
            self._write_videos(self.trainer.datamodule.predict_set.clips)
        super().on_predict_end()

    def _write_videos(self: Any, clips: Any) -> None:
        """Write what is missing of videos whose frames are all there; nobody waits for processes that still work.

        The last process to end finds the frames of all; where two find the same, both write it, each under its name.
        """
        for name, given, rate in zip(clips.names, clips.noisy, clips.rates, strict=True):
            frames = self._directory / self.written / name
            wanted = {self._directory / "beside" / f"{name}.mp4": beside(given, frames)}
            if rate:
                wanted[frames.with_name(f"{name}.mp4")] = restored_frames(frames)
            if len(list(frames.glob("*.png"))) < given.shape[0]:
                continue
            for path, pictures in wanted.items():
                if path.is_file():
                    continue
                own = path.with_name(f".{name}.process_{self.trainer.global_rank}.mp4")
                try:
                    with whole_file(own) as partial:
                        encoded(partial, pictures, rate or RATE, options=SHARP)
                except ModuleNotFoundError as error:
                    return rank_zero_info(f"No videos are written: {error}")
                own.replace(path)


def restored_frames(folder: Path) -> Iterator[np.ndarray]:
    """Read written frames one after another, `[H, W, 3]`."""
    for path in sorted(folder.glob("*.png")):
        yield read_pixels(path, 3).transpose(1, 2, 0)


def beside(given: Any, folder: Path) -> Iterator[np.ndarray]:
    """Put each given frame, enlarged to the size of the written one, on its left, `[H, 2 W, 3]`."""
    for number, restored in enumerate(restored_frames(folder)):
        frame: Tensor = torch.from_numpy(given.read(number, 1)).float() / 255
        large = levels_of(enlarged(frame, restored.shape[:2]), 255)[0].permute(1, 2, 0)
        yield np.concatenate([large.expand(-1, -1, 3).numpy(), restored], axis=1)
