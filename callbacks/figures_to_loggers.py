"""Send the figures of a run to its loggers."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.drawing.logged_pictures import log_picture


class FiguresToLoggers(Callback):
    """At the end of each stage, send the figures drawn in this stage to those loggers that accept images.

    The figures are the files `figures/*.png` in the run directory. The loggers that accept images are TensorBoard,
    MLflow, and loggers with Lightning's method `log_image(key, images, step)`, such as the Weights & Biases logger.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._directory = trainer.log_dir  # a broadcast, so every rank must read it
        self._known = self._times()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        for path, time in self._times().items():
            if self._known.get(path) != time:
                log_picture(trainer, path, path.stem)

    def _times(self) -> dict[Path, int]:
        found = [] if self._directory is None else sorted(Path(self._directory, "figures").glob("*.png"))
        return {path: path.stat().st_mtime_ns for path in found if not path.name.startswith(".")}
