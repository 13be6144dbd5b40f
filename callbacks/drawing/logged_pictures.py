"""Send a picture file to the loggers of a run."""

from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from PIL import Image


def log_picture(trainer: Trainer, path: Path, key: str) -> None:
    """Send a picture to every logger that accepts images, at the current step. Must be called on rank 0 only.

    The loggers that accept images are TensorBoard, MLflow, and loggers with Lightning's method `log_image(key, images,
    step)`, such as the Weights & Biases logger. Other loggers, such as the CSV logger, are skipped.

    Args:
        trainer: the trainer with the loggers.
        path: picture file.
        key: name of the picture in the loggers.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, _pixels(path), trainer.global_step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, _pixels(path), key=key, step=trainer.global_step)
        elif log_image := getattr(logger, "log_image", None):
            log_image(key=key, images=[str(path)], step=trainer.global_step)


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
