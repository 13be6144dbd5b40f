"""Apply metrics that need no ground truth to the images or frames that `predict` writes."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from callbacks.image_quality.pyiqa_measures import pyiqa_measures
from datamodules.files.pixels import read_pixels
from datamodules.files.whole_files import write_csv


def chosen_frames(files: Sequence[Path]) -> list[Path]:
    """Choose the first, middle and last frame of a clip; the middle index is the number of frames / 2, rounded."""
    places = sorted({0, min(round(len(files) / 2), len(files) - 1), len(files) - 1})
    return [files[place] for place in places]


class NoReferenceMetrics(Callback):
    """Measure the images that `predict` writes, by metrics of pyiqa that need no ground truth.

    The images in a folder `restored/<clip>` are the frames of a clip. The first, middle and last frame of each clip are
    measured, as in the protocol of VideoLQ and FLIR. All images that are directly in `restored` are measured. The
    callback writes `no_reference.csv` to the run directory, with one row for each image and a row of means. Rank 0
    computes the metrics after all ranks have written their files.

    The `no-reference` extra installs the package pyiqa. Without pyiqa, a warning is given and no table is written.

    Args:
        metrics: names of the metrics in pyiqa.
        all_frames: whether to measure all frames of a clip instead of three.
        data_range: pixel value of white in 16-bit images; use None for 8-bit images.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("nrqm", "niqe", "pi", "brisque"),
        all_frames: bool = False,
        data_range: int | None = None,
    ) -> None:
        if not metrics:
            raise ValueError("metrics must name at least one metric of pyiqa")
        self.metrics = list(metrics)
        self.all_frames = all_frames
        self.data_range = data_range
        self.folder: Path | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        written = getattr(pl_module, "written", None)
        if written is None:
            raise TypeError(f"NoReferenceMetrics needs a module that writes images, got {type(pl_module).__name__}")
        directory = trainer.log_dir  # a broadcast, so every rank must read it
        kept = directory is not None and not trainer.fast_dev_run  # type: ignore[attr-defined]
        self.folder = Path(str(directory), written) if kept else None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # This hook runs after the module's `on_predict_end`, which waits for the files of all ranks.
        folder, self.folder = self.folder, None
        if stage != "predict" or folder is None or not trainer.is_global_zero:
            return
        measures = pyiqa_measures(self.metrics, "NoReferenceMetrics")
        if not measures:
            return
        rows: list[dict[str, str | float]] = []
        for place in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
            files = sorted(place.glob("*.png"))
            if files and place != folder and not self.all_frames:
                files = chosen_frames(files)
            for file in files:
                levels = torch.from_numpy(read_pixels(file, data_range=self.data_range)).float()
                image = levels[None].to(pl_module.device) / (self.data_range or 255)
                values = {name: float(measure(image, None, "clipped")) for name, measure in measures.items()}
                rows.append({"name": str(file.relative_to(folder)), **values})
        if not rows:
            return
        mean = pd.DataFrame(rows).drop(columns="name").mean()
        table = pd.DataFrame([*rows, {"name": "mean", **mean}])
        write_csv(folder.parent / "no_reference.csv", table)
        means = ", ".join(f"{name} {table[name].iloc[-1]:.4f}" for name in measures)
        rank_zero_info(f"Mean over {len(rows)} images of {folder}: {means}")
