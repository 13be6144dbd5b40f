"""Write the restored frames of each clip in prediction.

If a clip is a video file, also write a restored video.
"""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.batches import ClipBatch
from datamodules.files.pixels import read_pixels
from datamodules.files.video_files import encode_frames
from datamodules.files.whole_files import whole_file
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.stores import Files, digest_of
from lightning_modules.backbones.resized import upsample_bicubic
from lightning_modules.tasks.writers import FolderWriter, levels_of

RATE = 25.0
"""Frame rate, in frames per second, of the written video if the input clip has no frame rate."""
SHARP = {"crf": "14"}
"""Options of the video encoder; at this setting, compression losses are hardly visible."""


class ClipWriter(FolderWriter):
    """A mixin with a prediction step that writes frames `restored/<clip>/00000000.png` into the run directory.

    Frames that already exist are kept, so that an interrupted run can continue. If they belong to a different clip,
    they are rejected. At the end of prediction, each clip that is a video file is also written as
    `restored/<clip>.mp4`, at the frame rate of the input. For each clip of `data.predict_dir`, a video
    `beside/<clip>.mp4` is written. It shows the input, enlarged by bicubic interpolation, next to the restored clip.
    Without the `video` extra of this package, only frames are written.

    The LightningModule must implement `estimate`, which restores the clips `[B, T, C, H, W]` of a batch.
    """

    written, settings_name = "restored", "restoration_settings.json"

    def predict_step(self: Any, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        """Restore the frames of a batch that are not yet on disk, write them, and return the names of their clips."""
        clips, length = batch["noisy"], batch["noisy"].shape[1]

        def compute(numbers: list[int]) -> Iterator[np.ndarray]:
            rows = list(dict.fromkeys(number // length for number in numbers))
            chosen = torch.tensor(rows, device=clips.device)
            part = {**batch, "noisy": clips[chosen], "index": batch["index"][chosen]}
            levels = dict(zip(rows, levels_of(self.estimate(part), 255), strict=True))
            for number in numbers:
                yield levels[number // length][number % length].cpu().numpy()

        names = [
            f"{name}/{first + number:08d}"
            for name, first in zip(batch["name"], batch["first"], strict=True)
            for number in range(length)
        ]
        digests = [digest for clip in clips for digest in [digest_of(clip.float())] * length]
        written = self.write(names, digests, compute, dataloader_idx)
        return list(dict.fromkeys(name.rpartition("/")[0] for name in written))

    def on_predict_end(self: Any) -> None:
        if self._job is not None and self.trainer.datamodule.predict_set is not None:
            self._job.peers.on_first_rank(lambda: None)  # wait until all ranks have written their frames
            self._write_videos(self.trainer.datamodule.predict_set.clips)
        super().on_predict_end()

    def _write_videos(self: Any, clips: Any) -> None:
        """For each clip of which all frames have been written, write the video if it is missing.

        The ranks share the work: each rank writes the videos of some clips.
        """
        if find_spec("av") is None:
            return rank_zero_info("Videos need the package av, which is missing: pip install 'noiseworks[video]'")
        restored, written = self._job.store.folder, {}
        for name, given, rate in zip(clips.names, clips.noisy, clips.rates, strict=True):
            if len(list((restored / name).glob("*.png"))) < given.shape[0]:
                continue
            written[f"beside/{name}"] = partial(side_by_side, given, restored / name), rate or RATE
            if rate:
                written[f"{self.written}/{name}"] = partial(restored_frames, restored / name), rate

        def write(path: Path, key: str, digest: str) -> None:
            pictures, rate = written[key]
            with whole_file(path) as incomplete:
                encode_frames(incomplete, pictures(), rate, options=SHARP)

        keys = list(written)
        videos = Files(restored.parent, ".mp4", write)
        settings, peers = (self._job.settings, self._job.settings_file), self._job.peers
        with ResumableMap(videos, *settings, name="videos", peers=peers) as job:
            job.run(keys, lambda positions: ((position, keys[position]) for position in positions))


def restored_frames(folder: Path) -> Iterator[np.ndarray]:
    """Yield the written frames, `[H, W, 3]` each."""
    for path in sorted(folder.glob("*.png")):
        yield read_pixels(path, 3).transpose(1, 2, 0)


def side_by_side(given: Any, folder: Path) -> Iterator[np.ndarray]:
    """Yield images `[H, 2 W, 3]`, each with an enlarged input frame on the left and its restored frame on the right."""
    for number, restored in enumerate(restored_frames(folder)):
        frame: Tensor = torch.from_numpy(given.read(number, 1)).float() / 255
        large = levels_of(upsample_bicubic(frame, restored.shape[:2]), 255)[0].permute(1, 2, 0)
        yield np.concatenate([large.expand(-1, -1, 3).numpy(), restored], axis=1)
