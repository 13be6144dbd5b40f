"""Write and plot the tables that a module provides."""

from pathlib import Path

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.drawing.curves import draw_table
from datamodules.files.whole_files import save_figure, write_csv
from lightning_modules.interfaces import TableSource, require


class SaveTables(Callback):
    """Write each table of the module to `<name>.csv` and its plot to `figures/<name>.png` in the run directory.

    Tables are written after training and after testing. If a run is tested twice (`checkpoint.also_test_best`), the
    tables are those of the first test, which uses the configured checkpoint.
    """

    def __init__(self) -> None:
        self.tested = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, TableSource, "SaveTables")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.tested:
            self._write(trainer, pl_module)
        self.tested = True

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # a broadcast, so every rank must read it
        if directory is None or not trainer.is_global_zero:
            return
        for name, table in require(pl_module, TableSource, "SaveTables").tables.items():
            write_csv(Path(directory, f"{name}.csv"), pd.DataFrame(table.columns))
            save_figure(draw_table(table), Path(directory, "figures", f"{name}.png"))
