"""Pictures of what a module does with images: rows of pictures, masks and differences."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.drawing.image_grid import draw_image_grid
from datamodules.arguments import at_least, one_of
from datamodules.files.whole_files import save_figure
from lightning_modules.interfaces import PictureSource, TrainingImageSource, class_names, require, require_data
from lightning_modules.training.evaluation_mode import in_evaluation_mode


class ImageGrid(Callback):
    """Draws a few images with what the module shows of them, as `figures/<name>.png` in the run directory.

    In the stages `test` and `val` these are the first images of the first batch. In `train` they are training images at
    equal distances, without augmentation: they are drawn when training ends, and as `<name>_epoch_<epoch>.png` when
    early learning has ended for some categories (where the callback `EarlyLearning` says so), with their labels as they
    are then. Without a logger nothing is drawn.

    Args:
        name: of the picture.
        stage: `train`, `val` or `test`: whose images are shown, and when.
        num_images: rows, at most as many as there are images, or in the first process's first batch.

    Raises:
        ValueError: if `num_images` is less than 1, or the stage is none of the three.
        TypeError: at setup, if the module is no `PictureSource` or, in `train`, the DataModule no
            `TrainingImageSource`.
    """

    def __init__(
        self, name: str = "images", stage: Literal["train", "val", "test"] = "test", num_images: int = 8
    ) -> None:
        one_of(("train", "val", "test"), stage=stage)
        at_least(1, num_images=num_images)
        self.name = name
        self.stage = stage
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, PictureSource, "ImageGrid")
        if stage == "fit" and self.stage == "train":
            require_data(trainer, TrainingImageSource, "ImageGrid")

    def on_early_learning_end(self, trainer: Trainer, pl_module: LightningModule, categories: list[int]) -> None:
        if self.stage == "train":
            self._draw_training_images(trainer, pl_module, f"{self.name}_epoch_{trainer.current_epoch:03d}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stage == "train":
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
        if self.stage == "val" and batch_idx == dataloader_idx == 0 and not trainer.sanity_checking:
            self._draw(trainer, pl_module, self.name, batch, outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.stage == "test" and batch_idx == dataloader_idx == 0:
            self._draw(trainer, pl_module, self.name, batch, outputs)

    def _draw_training_images(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        loader: Any = require_data(trainer, TrainingImageSource, "ImageGrid").training_images_dataloader()
        count = len(loader.dataset)
        chosen = torch.linspace(0, count - 1, min(self.num_images, count)).long()
        request = next(iter(loader.sampler))._replace(indices=chosen, global_size=len(chosen))
        self._draw(trainer, pl_module, name, trainer.strategy.batch_to_device(loader.dataset[request]), None)

    def _draw(self, trainer: Trainer, pl_module: LightningModule, name: str, batch: Any, outputs: Any) -> None:
        directory = trainer.log_dir if trainer.loggers else None  # broadcast: every process asks
        if directory is None or not trainer.is_global_zero:
            return
        module = require(pl_module, PictureSource, "ImageGrid")
        with in_evaluation_mode(trainer, pl_module):
            columns = module.image_columns(trainer.precision_plugin.convert_input(batch), outputs)
        figure = draw_image_grid(columns, class_names(trainer), most_rows=self.num_images)
        save_figure(figure, Path(directory, "figures", f"{name}.png"), dpi=120)
