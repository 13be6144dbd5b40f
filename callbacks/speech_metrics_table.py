"""For enhanced speech, write tables of metrics, a figure of spectrograms, and WAV files."""

from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.drawing.spectrograms import draw_spectrograms
from datamodules.arguments import at_least
from datamodules.files.audio_files import soundfile
from datamodules.files.whole_files import save_figure, write_csv
from lightning_modules.interfaces import SpeechMeasurer, require

BAND = 5.0
"""Width of the bands into which the input SNR is divided, in decibels."""
KINDS = ("noisy", "enhanced", "clean")
"""Signals of each recording that is drawn and saved."""


class SpeechMetricsTable(Callback):
    """Write the metrics of enhanced recordings to the run directory, and draw and save a few recordings.

    `speech_quality.csv` has a row for each recording. `speech_quality_summary.csv` has the mean and standard deviation
    of each metric over each dataset, and over bands of the input SNR that are 5 decibels wide.
    `figures/spectrograms.png` shows the first recordings of the first dataset; the noisy, enhanced and clean
    spectrogram of a recording have the same decibel scale. If the package soundfile is installed, these recordings are
    also written to `recordings/` as WAV files.

    Args:
        num_recordings: maximum number of recordings to draw and save; they are taken from the recordings on rank 0.
    """

    def __init__(self, num_recordings: int = 3) -> None:
        at_least(0, num_recordings=num_recordings)
        self.num_recordings = num_recordings
        self.tested = False
        self.shown: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require(pl_module, SpeechMeasurer, "SpeechMetricsTable")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.shown = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        signals = {"noisy": batch["noisy"], "enhanced": outputs["estimate"], "clean": batch["clean"]}
        for row in range(len(batch["noisy"])):
            if dataloader_idx == 0 and len(self.shown) < self.num_recordings:
                length = int(batch["length"][row]) if "length" in batch else None
                cut = {kind: signal[row, :length].detach().float().cpu() for kind, signal in signals.items()}
                self.shown.append({**cut, "name": batch["name"][row], "sample_rate": batch["sample_rate"]})

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # a broadcast, so every rank must read it
        first, self.tested = not self.tested, True
        if directory is None or not trainer.is_global_zero or not first or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        table = pd.DataFrame(require(pl_module, SpeechMeasurer, "SpeechMetricsTable").quality.table)
        write_csv(Path(directory, "speech_quality.csv"), table)
        write_csv(Path(directory, "speech_quality_summary.csv"), speech_summary(table))
        if self.shown:
            save_figure(draw_spectrograms(self.shown, KINDS), Path(directory, "figures", "spectrograms.png"))
            keep(self.shown, Path(directory, "recordings"))


def speech_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Compute each metric's mean, standard deviation and count, for each dataset and for each band of the input SNR."""
    low = (table["input_snr"] // BAND * BAND).map(lambda low: f"{low:g} to {low + BAND:g} dB")
    parts = [table.assign(band="all"), table.assign(band=low)]
    long = pd.concat(parts).melt(["set", "index", "name", "band"], var_name="measure")
    grouped = long.groupby(["set", "band", "measure"], sort=False)["value"]
    return grouped.agg(["mean", "std", "count"]).reset_index()


def keep(shown: list[dict[str, Any]], folder: Path) -> None:
    """Write recordings as `<name>_<kind>.wav` if the package soundfile is installed."""
    try:
        library = soundfile()
    except ModuleNotFoundError:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for recording in shown:
        stem = recording["name"].replace("/", "_")
        for kind in KINDS:
            library.write(folder / f"{stem}_{kind}.wav", recording[kind].clamp(-1, 1).numpy(), recording["sample_rate"])
