"""Draw image grids of a module's inputs, outputs, masks and differences."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.drawing.image_grid import CELL, concatenate_rows, draw_image_grid, first_rows, num_rows
from datamodules.arguments import at_least, one_of, positive
from datamodules.files.whole_files import save_figure
from lightning_modules.interfaces import (
    ImageColumn,
    PictureSource,
    TrainingImageSource,
    class_names,
    require,
    require_data,
)
from lightning_modules.training.evaluation_mode import in_evaluation_mode, on_root_device


class ImageGrid(Callback):
    """Draw a few images and the module's outputs for them, in the figure `figures/<name>.png` of the run directory.

    For the stages `test` and `val`, the figure shows the first images of the first dataloader. For the stage `train`,
    it shows equally spaced training images without augmentation, with their current labels. The figure of training
    images is drawn at the end of training. It is also drawn to `<name>_epoch_<epoch>.png` whenever the callback
    `EarlyLearning` reports the end of early learning for some categories. Without a logger, nothing is drawn.

    Args:
        name: file name of the figure.
        stage: stage whose images are shown: `train`, `val` or `test`.
        num_images: number of rows, at most the number of images on rank 0.
        cell: width of an image, in inches.
    """

    def __init__(
        self,
        name: str = "images",
        stage: Literal["train", "val", "test"] = "test",
        num_images: int = 8,
        cell: float = CELL,
    ) -> None:
        one_of(("train", "val", "test"), stage=stage)
        at_least(1, num_images=num_images)
        positive(cell=cell)
        self.name = name
        self.stage = stage
        self.num_images = num_images
        self.cell = cell
        self._batches: list[dict[str, ImageColumn]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, PictureSource, "ImageGrid")
        if stage == "fit" and self.stage == "train":
            require_data(trainer, TrainingImageSource, "ImageGrid")

    def on_early_learning_end(self, trainer: Trainer, pl_module: LightningModule, categories: list[int]) -> None:
        if self.stage == "train":
            self._draw_training_images(trainer, pl_module, f"{self.name}_epoch_{trainer.current_epoch:03d}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stage == "train":
            with on_root_device(trainer, pl_module):
                self._draw_training_images(trainer, pl_module, self.name)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.stage == "val" and dataloader_idx == 0 and not trainer.sanity_checking:
            self._keep(trainer, pl_module, batch, outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.stage == "test" and dataloader_idx == 0:
            self._keep(trainer, pl_module, batch, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stage == "val" and not trainer.sanity_checking:
            self._draw(trainer, self.name)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stage == "test":
            self._draw(trainer, self.name)

    def _draw_training_images(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        loader: Any = require_data(trainer, TrainingImageSource, "ImageGrid").training_images_dataloader()
        count = len(loader.dataset)
        chosen = torch.linspace(0, count - 1, min(self.num_images, count)).long()
        request = next(iter(loader.sampler))._replace(indices=chosen, global_batch_size=len(chosen))
        self._keep(trainer, pl_module, trainer.strategy.batch_to_device(loader.dataset[request]), None)
        self._draw(trainer, name)

    def _keep(self, trainer: Trainer, pl_module: LightningModule, batch: Any, outputs: Any) -> None:
        """Collect the columns of successive batches until there are enough images."""
        missing = self.num_images - sum(map(num_rows, self._batches))
        if missing <= 0 or not trainer.loggers or not trainer.is_global_zero:
            return
        module = require(pl_module, PictureSource, "ImageGrid")
        with in_evaluation_mode(trainer, pl_module):
            columns = module.image_columns(trainer.precision_plugin.convert_input(batch), outputs)
        self._batches.append(first_rows(columns, missing))

    def _draw(self, trainer: Trainer, name: str) -> None:
        directory = trainer.log_dir if trainer.loggers else None  # a broadcast, so every rank must read it
        batches, self._batches = self._batches, []
        if directory is not None and batches:
            figure = draw_image_grid(concatenate_rows(batches), class_names(trainer), cell=self.cell)
            save_figure(figure, Path(directory, "figures", f"{name}.png"), dpi=120)
