"""Tables of restored images, and their perceptual distance from the clean ones."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from datamodules.files.limits import sentence
from datamodules.files.whole_files import write_text
from lightning_modules.backbones.weights import read_weights
from lightning_modules.interfaces import ImageMeasurer, require
from lightning_modules.metrics.image_quality import EvaluationProtocol, as_measured

PLACES = {"slice1.0": 0, "slice2.3": 3, "slice3.6": 6, "slice4.8": 8, "slice5.10": 10}
"""The convolutions in torchmetrics' network by their numbers in torchvision's AlexNet."""


class LPIPS:
    """The learned perceptual distance of images, version 0.1, with AlexNet; 0 for equal images.

    With the published weights, the three images that come with the authors' code have 0.7219 and 0.1376 here, and
    0.722 and 0.138 there.

    Source: Zhang, Isola, Efros, Shechtman and Wang, The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric, CVPR 2018, arXiv 1801.03924.

    Args:
        weights: safetensors file with the five convolutions, `features.<i>.weight` and `.bias` as torchvision names
            them, and the linear heads, `lin<i>.model.1.weight` as the package `lpips` does.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it holds other tensors.
    """

    def __init__(self, weights: str) -> None:
        # The public class of torchmetrics would fetch weights from the internet.
        from torchmetrics.functional.image.lpips import _LPIPS

        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"lpips_weights {path} does not exist: give a safetensors file of LPIPS with AlexNet"
            )
        given = read_weights(path)
        for ours, theirs in PLACES.items():
            for kind in ("weight", "bias"):
                if f"features.{theirs}.{kind}" in given:
                    given[f"net.{ours}.{kind}"] = given.pop(f"features.{theirs}.{kind}")
        heads = {key: tensor for key, tensor in given.items() if key.startswith("lin")}
        given |= {f"lins.{key.removeprefix('lin')}": tensor for key, tensor in heads.items()}  # it has them twice
        self.network: nn.Module = _LPIPS(pretrained=False, net="alex", pnet_rand=True)
        try:
            self.network.load_state_dict(given)
        except RuntimeError as error:
            raise ValueError(
                f"lpips_weights {path} holds other weights than those of LPIPS with AlexNet: {sentence(error)}"
            ) from None

    def __call__(self, image: Tensor, clean: Tensor, protocol: EvaluationProtocol) -> Tensor:
        """Compute each image's distance, `[B]`; grey images are given three equal channels, all are clipped."""
        self.network.to(image.device)
        pair = (as_measured(each, "rounded" if protocol == "rounded" else "clipped").float() for each in (image, clean))
        first, second = (each.expand(-1, 3, -1, -1) if each.shape[1] == 1 else each for each in pair)
        with torch.no_grad():
            return (
                self.network(first, second, normalize=True)
                .flatten()
                .to(torch.promote_types(image.dtype, torch.float32))
            )


class ImageMetricsTable(Callback):
    """Writes `image_quality.csv`, the measures of every tested image, into the run directory.

    There is a row for each image: the set, index and name of the image, and the PSNR in dB and SSIM of the degraded
    (`noisy_psnr`, `noisy_ssim`) and the restored one, and the mean of each set as its last row. Where a run is tested
    twice (`checkpoint.also_test_best`) the table of the first time stays, which is the configured checkpoint.

    Args:
        lpips_weights: safetensors file of LPIPS with AlexNet, see `LPIPS`; with it the module also logs and tabulates
            `lpips`, the learned perceptual distance. None leaves that out.

    Raises:
        TypeError: at setup, if the module is no `ImageMeasurer`.
        FileNotFoundError: if there are no weights.
        ValueError: if they are others.
    """

    def __init__(self, lpips_weights: str | None = None) -> None:
        self.lpips = None if lpips_weights is None else LPIPS(lpips_weights)
        self.tested = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        quality = require(pl_module, ImageMeasurer, "ImageMetricsTable").quality
        if self.lpips is not None and stage == "test":
            quality.measures["lpips"] = self.lpips

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, ImageMeasurer, "ImageMetricsTable").quality.measures.pop("lpips", None)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # on every process: it is broadcast
        first, self.tested = not self.tested, True
        if directory is None or not trainer.is_global_zero or not first or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        rows: list[dict[str, Any]] = require(pl_module, ImageMeasurer, "ImageMetricsTable").quality.table
        write_text(Path(directory, "image_quality.csv"), with_means(pd.DataFrame(rows)).to_csv(index=False))


def with_means(table: pd.DataFrame) -> pd.DataFrame:
    """Add to the rows of each set, which `set` names, one with their mean and the name `mean`."""
    parts = []
    for name, rows in table.groupby("set", sort=False):
        mean = rows.drop(columns=["set", "index", "name"]).mean()
        parts += [rows, pd.DataFrame([{"set": name, "name": "mean", **mean}])]
    return pd.concat(parts).astype({"index": "Int64"}) if parts else table
