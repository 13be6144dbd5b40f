"""Write a table with the metrics of every restored image."""

from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics import Metric

from callbacks.image_quality.measures import LPIPS, measures_of
from callbacks.image_quality.pyiqa_measures import pyiqa_measures
from datamodules.files.whole_files import write_csv
from lightning_modules.interfaces import ImageMeasurer, require
from lightning_modules.metrics.image_quality import BUILT_IN, Measure


class ImageMetricsTable(Callback):
    """Write the metrics of every test image to `image_quality.csv` in the run directory.

    Each row contains the dataset, index and name of an image, the PSNR in dB and the SSIM of the restored image, and,
    as `noisy_psnr` and `noisy_ssim`, the same metrics of the degraded image. The last row of each dataset contains the
    means. If a run is tested twice (`checkpoint.also_test_best`), the table is from the first test, which uses the
    configured checkpoint.

    Args:
        metrics: list of further torchmetrics image metrics, such as `{class_path:
            torchmetrics.image.UniversalImageQualityIndex}`, or a dict of such metrics by name. Each metric is logged as
            `test/<name>` and is a column of the table. It receives one image at a time, as float32 in [0, 1].
        lpips_weights: safetensors file of LPIPS with AlexNet, for the metric `lpips`; None omits this metric.
        pyiqa: names of metrics of the package pyiqa, such as `niqe`, `lpips` and `brisque`. If pyiqa is not installed
            (it belongs to the `no-reference` extra), these metrics are left out with a warning. For some metrics, pyiqa
            downloads weights.
    """

    def __init__(
        self,
        metrics: list[Metric] | dict[str, Metric] | None = None,
        lpips_weights: str | None = None,
        pyiqa: list[str] | None = None,
    ) -> None:
        self.measures: dict[str, Measure] = {} if lpips_weights is None else {"lpips": LPIPS(lpips_weights)}
        self.measures |= measures_of(metrics or [], [*BUILT_IN, *self.measures])
        self.pyiqa = pyiqa or []
        if twice := next((name for name in self.pyiqa if name in {*BUILT_IN, *self.measures}), None):
            raise ValueError(f"pyiqa: {twice} is also the name of a metric that is not from pyiqa")
        self.tested = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        quality = require(pl_module, ImageMeasurer, "ImageMetricsTable").quality
        if stage == "test":
            self.measures |= pyiqa_measures(self.pyiqa, "ImageMetricsTable")
            quality.measures |= self.measures

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        measures = require(pl_module, ImageMeasurer, "ImageMetricsTable").quality.measures
        for name in self.measures:
            measures.pop(name, None)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # a broadcast, so every rank must read it
        first, self.tested = not self.tested, True
        if directory is None or not trainer.is_global_zero or not first or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        rows: list[dict[str, Any]] = require(pl_module, ImageMeasurer, "ImageMetricsTable").quality.table
        write_csv(Path(directory, "image_quality.csv"), with_means(pd.DataFrame(rows)))


def with_means(table: pd.DataFrame) -> pd.DataFrame:
    """After the rows of each dataset, insert a row with the name `mean`, which contains the means."""
    parts = []
    for name, rows in table.groupby("set", sort=False):
        mean = rows.drop(columns=["set", "index", "name"]).mean()
        parts += [rows, pd.DataFrame([{"set": name, "name": "mean", **mean}])]
    return pd.concat(parts).astype({"index": "Int64"}) if parts else table
