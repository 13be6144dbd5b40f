"""The pseudo labels of a round on disk: a PNG for each training image, and a table of their qualities."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

from datamodules.files.whole_files import write_text


class LabelFiles:
    """Writes `pseudo_labels/round_<n>/<image>.png` (0 and 255) and `round_<n>.csv` beside it into the run directory.

    Every process writes the labels of its share, and the first one the table when all are done: where there is a table,
    the labels are complete. A run without a directory (`fast_dev_run`, no logger) writes nothing.

    Args:
        trainer: says where, and which process this is.
        number: of the round.
        names: `[N]`, of the training images, without suffix; None names them by their position.
    """

    def __init__(self, trainer: Trainer, number: int, names: Sequence[str] | None) -> None:
        self.trainer = trainer
        self.names = names
        directory = trainer.log_dir if trainer.loggers else None  # broadcast: every process asks
        self.folder = None if directory is None else Path(directory, "pseudo_labels", f"round_{number}")

    def write(self, index: Tensor, label: Tensor) -> None:
        """Writes labels `[b, H, W]`, 0 and 1, of the training images `index` `[b]`."""
        if self.folder is None:
            return
        pixels = (255 * label).byte().cpu().numpy()
        for sample, mask in zip(index.tolist(), pixels, strict=True):
            path = self.folder / f"{self._name(sample)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)

    def finish(self, quality: Tensor, kept: Tensor) -> None:
        """Writes the table of qualities `[N]` and of what is kept `[N]`, once all processes have written their part."""
        if self.folder is None:
            return
        self.trainer.strategy.barrier("pseudo labels are written")
        if self.trainer.is_global_zero:
            names = [self._name(sample) for sample in range(len(quality))]
            table = pd.DataFrame({"name": names, "quality": quality.cpu(), "kept": kept.cpu()})
            write_text(self.folder.with_suffix(".csv"), table.to_csv(index_label="index"))

    def _name(self, sample: int) -> str:
        return f"{sample:06d}" if self.names is None else self.names[sample]
