"""Pictures of masks that are corrected while a segmenter trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from datamodules.files.whole_files import save_figure
from lightning_modules.interfaces import IGNORED, Segmenter, TrainingImageSource, require
from lightning_modules.training.evaluation_mode import in_evaluation_mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {
    "clean_label": "true label",
    "original_label": "given label",
    "label": "corrected label",
    "prediction": "prediction",
}
MOST_NAMES = 10  # in the legend, without a category that no picture shows


class LabelCorrectionFigure(Callback):
    """Draws training images with their true, given and corrected labels, and what is predicted for them.

    It draws when early learning ends for some categories, after their labels were corrected (where the callback
    `EarlyLearning` says so), to `figures/label_correction_epoch_<epoch>.png` in the run directory, and at the end of
    training to `figures/label_correction.png`; without a logger it draws nothing. Predictions are made in evaluation
    mode. True labels are left out where they are not known.

    Args:
        num_images: rows; images are taken from the training set at equal distances.

    Raises:
        ValueError: if `num_images` is less than 1.
        TypeError: at setup, if the module is no `Segmenter` or the DataModule no `TrainingImageSource`.
    """

    def __init__(self, num_images: int = 6) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        require(pl_module, Segmenter, needed_by=type(self).__name__)
        require(trainer.datamodule, TrainingImageSource, "LabelCorrectionFigure")  # type: ignore[attr-defined]

    def on_early_learning_end(self, trainer: Trainer, pl_module: LightningModule, categories: list[int]) -> None:
        self._draw(trainer, pl_module, f"label_correction_epoch_{trainer.current_epoch:03d}.png")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, "label_correction.png")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        directory = trainer.log_dir if trainer.loggers else None  # broadcast: every process asks
        if directory is None or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        shown = _shown(trainer, pl_module, self.num_images)
        figure = draw_label_correction(shown, pl_module.num_classes, getattr(data, "class_names", None))  # type: ignore[arg-type]
        save_figure(figure, Path(directory, "figures", name))


def _shown(trainer: Trainer, pl_module: LightningModule, num_images: int) -> dict[str, NDArray[Any]]:
    """A few training images with their masks as they now are, and their predictions."""
    loader = trainer.datamodule.training_images_dataloader()  # type: ignore[attr-defined]
    chosen = torch.linspace(0, len(loader.dataset) - 1, min(num_images, len(loader.dataset))).long()
    request = next(iter(loader.sampler))._replace(indices=chosen, global_size=len(chosen))
    batch: Any = trainer.strategy.batch_to_device(loader.dataset[request])
    with in_evaluation_mode(trainer, pl_module) as network:
        prediction = network(batch["image"]).argmax(dim=1)
    masks = {key: batch[key] for key in COLUMNS if key in batch} | {"prediction": prediction}
    return {"image": batch["image"].float().cpu().numpy(), **{key: mask.cpu().numpy() for key, mask in masks.items()}}


def draw_label_correction(
    shown: Mapping[str, NDArray[Any]], num_classes: int, class_names: Sequence[str] | None = None
) -> "Figure":
    """Draws a row for each image: it, and its masks with the background transparent over it.

    Args:
        shown: `image` `[n, C, H, W]`, drawn in colour with three channels and otherwise as their mean in grey, from its
            least to its greatest value; and `[n, H, W]` each, those of `clean_label`, `original_label`, `label` and
            `prediction` that are known. 255 is ignored, and drawn white.
        num_classes: number of categories, K.
        class_names: `[K]`; None writes the numbers of the categories.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    image = shown["image"]
    columns = [key for key in COLUMNS if key in shown]
    palette = colormaps["tab10" if num_classes <= 11 else "tab20"]
    colours = np.zeros((IGNORED + 1, 4))
    colours[1:num_classes] = [(*palette((k - 1) % palette.N)[:3], 0.75) for k in range(1, num_classes)]
    colours[IGNORED] = 1.0
    height, width = 1.5 * image.shape[2] / image.shape[3], 1.5
    figure = Figure(
        figsize=((1 + len(columns)) * (width + 0.1), len(image) * (height + 0.1) + 0.9), layout="constrained"
    )
    panels = figure.subplots(len(image), 1 + len(columns), squeeze=False)
    for row, pixels in zip(panels, range(len(image)), strict=True):
        picture = image[pixels].transpose(1, 2, 0) if image.shape[1] == 3 else image[pixels].mean(axis=0)
        low, high = picture.min(), picture.max()
        picture = (picture - low) / max(high - low, 1e-6)
        for panel, key in zip(row, ["image", *columns], strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if key != "image":
                panel.imshow(colours[shown[key][pixels]], interpolation="nearest")
            panel.set(xticks=[], yticks=[])
    for panel, key in zip(panels[0], ["image", *columns], strict=True):
        panel.set_title(COLUMNS.get(key, key), fontsize=9)
    present = sorted({int(k) for key in columns for k in np.unique(shown[key])} - {0, IGNORED})
    patches = [
        Patch(color=colours[k][:3], label=str(k) if class_names is None else class_names[k])
        for k in present[:MOST_NAMES]
    ]
    if patches:
        figure.legend(
            handles=patches, loc="outside lower center", ncols=min(len(patches), 5), fontsize=8, frameon=False
        )
    return figure
