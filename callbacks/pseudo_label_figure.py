"""Pictures of pseudo labels: which ones are kept, and what a network makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.files.whole_files import save_figure
from lightning_modules.interfaces import Segmenter, TrainingImageSource, require
from lightning_modules.training.evaluation_mode import in_evaluation_mode


class PseudoLabelFigure(Callback):
    """At the end of training draws `figures/pseudo_labels.png` in the run directory.

    Its rows are training images, in their order: the image, its pseudo label with whether it is kept, the prediction
    and, where it is known, the truth. The DataModule gives the current labels (`training_images_dataloader`); the
    module says which ones are kept by `kept` `[N]`, bool, or keeps all.

    Args:
        num_images: rows, at most as many as the first process has in its first batch.

    Raises:
        ValueError: if `num_images` is less than 1.
    """

    def __init__(self, num_images: int = 8) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            require(pl_module, Segmenter, "PseudoLabelFigure")
            require(trainer.datamodule, TrainingImageSource, "PseudoLabelFigure")  # type: ignore[attr-defined]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir if trainer.loggers else None  # broadcast: every process asks
        if directory is None or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch: Any = trainer.strategy.batch_to_device(next(iter(data.training_images_dataloader())))
        with in_evaluation_mode(trainer, pl_module) as network:
            prediction = network(batch["image"]).argmax(dim=1)
        kept: Tensor = getattr(pl_module, "kept", torch.ones(data.num_train_samples, dtype=torch.bool))
        columns = {"image": batch["image"].float(), "pseudo label": batch["label"], "prediction": prediction}
        if "clean_label" in batch:
            columns["truth"] = batch["clean_label"]
        shown = {name: value[: self.num_images].cpu().numpy() for name, value in columns.items()}
        kept_here = kept.to(batch["index"].device)[batch["index"]][: self.num_images].tolist()
        draw_pseudo_labels(shown, kept_here, Path(directory, "figures", "pseudo_labels.png"))


def draw_pseudo_labels(columns: dict[str, np.ndarray], kept: list[bool], path: Path) -> None:
    """Draws a row for each image, a column for each kind.

    Args:
        columns: by name: images `[n, C, H, W]` in [0, 1], C 1 or 3, and masks `[n, H, W]` of categories.
        kept: `[n]`: whether the pseudo label of a row is kept.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * len(columns), 1.6 * len(kept) + 0.3), layout="constrained")
    axes = figure.subplots(len(kept), len(columns), squeeze=False)
    for place, (name, values) in enumerate(columns.items()):
        axes[0, place].set_title(name, fontsize=9)
        for row, value in enumerate(values):
            picture = axes[row, place]
            picture.set_xticks([])
            picture.set_yticks([])
            if value.ndim == 3:
                picture.imshow(np.moveaxis(value, 0, -1).clip(0, 1), cmap="gray", vmin=0, vmax=1)
            else:
                picture.imshow(value, cmap="gray", vmin=0, vmax=max(1, int(value.max())), interpolation="nearest")
            if name == "pseudo label":
                picture.set_ylabel("kept" if kept[row] else "rejected", fontsize=8)
    save_figure(figure, path, dpi=120)
