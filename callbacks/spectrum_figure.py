"""The singular values of a test set's features, as a table and a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from datamodules.files.whole_files import save_figure, write_text
from lightning_modules.interfaces import FeatureSpectra, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SpectrumFigure(Callback):
    """After testing, writes each spectrum of the module, from the greatest singular value on.

    In the run directory it writes `spectrum.csv` (`features`, `position` from 1, `singular_value`, and `share` of their
    sum) and `figures/spectrum.png`. Where a run is tested twice (`checkpoint.also_test_best`) they are those of the
    first time, which is the configured checkpoint.

    Needs a module with `spectra`.
    """

    def __init__(self) -> None:
        self.written = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            require(pl_module, FeatureSpectra, "SpectrumFigure")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # on every process: it is broadcast
        if directory is None or not trainer.is_global_zero or self.written:
            return
        self.written = True
        spectra = {name: sigma.cpu().numpy() for name, sigma in pl_module.spectra.items()}  # type: ignore[operator, union-attr]
        rows = [
            {"features": name, "position": position, "singular_value": value, "share": value / sigma.sum()}
            for name, sigma in spectra.items()
            for position, value in enumerate(sigma, 1)
        ]
        write_text(Path(directory, "spectrum.csv"), pd.DataFrame(rows).to_csv(index=False))
        save_figure(draw_spectra(spectra), Path(directory, "figures", "spectrum.png"))


def draw_spectra(spectra: dict[str, NDArray[np.float64]]) -> "Figure":
    """Draws the share of each singular value in their sum, and how much the first ones have together.

    Args:
        spectra: singular values in descending order, by the name of the features.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    each, together = figure.subplots(1, 2, sharex=True)
    lowest = 1.0
    for name, sigma in spectra.items():
        share = sigma / sigma.sum()
        position = np.arange(1, len(share) + 1)
        entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
        label = f"{name}: SVE {entropy:.2f}, LSVR {-np.log(share[0]):.2f}"
        each.plot(position, np.maximum(share, 1e-12), marker=".", linewidth=1.2, label=label)
        together.plot(position, share.cumsum(), marker=".", linewidth=1.2)
        lowest = min(lowest, share[share > 1e-6].min())
    each.set(xscale="log", yscale="log", xlabel="position", ylabel="share of the sum", ylim=(lowest / 2, 1.2))
    together.set(xlabel="position", ylabel="share of the first ones together", ylim=(0, 1.03))
    each.legend(fontsize=8, frameon=False)
    for panel in (each, together):
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Singular values of the test set's features", fontsize=10, x=0.01, ha="left")
    return figure
