import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from torch.utils.data import DataLoader

from experiments.progress_bar import WholeRun
from experiments.throughput import Throughput, share_done


class Line(LightningModule):
    """Fits a single number, and records in each step which share of the run is complete."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.done: list[float] = []
        self.seen: list[str] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.done.append(share_done(self.trainer))
        return (self.weight - batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/accuracy", torch.tensor(0.25))

    def on_train_epoch_end(self) -> None:
        bar = self.trainer.progress_bar_callback
        if isinstance(bar, WholeRun) and bar.progress is not None:
            console = Console(width=100)
            with console.capture() as capture:
                console.print(bar.progress.get_renderable())
            self.seen.append(capture.get())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(
    directory: Path, resume: str | None = None, bar: WholeRun | None = None, **limits: int
) -> tuple[Line, Trainer]:
    model = Line()
    trainer = Trainer(
        **limits, accelerator="cpu", logger=CSVLogger(directory), callbacks=[bar, Throughput()] if bar else [],
        enable_progress_bar=bar is not None, enable_model_summary=False, log_every_n_steps=1, num_sanity_val_steps=1,
    )  # fmt: skip
    loader = DataLoader(torch.ones(5, 1))
    trainer.fit(model, loader, loader, ckpt_path=resume)
    return model, trainer


def test_the_share_that_is_done_is_of_the_whole_run_and_goes_on_where_it_was(tmp_path: Path) -> None:
    model, trainer = fitted(tmp_path, max_epochs=2)
    assert model.done == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    model, _ = fitted(tmp_path, str(tmp_path / "two.ckpt"), max_epochs=4)
    assert model.done == pytest.approx([0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
    model, _ = fitted(tmp_path, max_epochs=100, max_steps=8)
    assert model.done == pytest.approx([i / 8 for i in range(8)], abs=0.01)


def test_the_bar_shows_loss_validation_and_the_time_left_of_all_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = WholeRun(given_labels=True)
    monkeypatch.setattr(Throughput, "seconds_left", lambda self, trainer: 3700.0 * (1 - share_done(trainer)))
    model, _ = fitted(tmp_path, bar=bar, max_epochs=2)
    [line] = [line for line in model.seen[0].splitlines() if "Epoch 0/1" in line]
    assert re.search(r"Epoch 0/1  ━+ 5/5 0:30:50 left", line)
    model.seen.clear()
    shown = bar.get_metrics(model.trainer, model)
    assert shown["val/accuracy on given labels"] == 0.25
    assert 0 < float(str(shown["loss"])) < 1


def test_time_left_counts_what_this_process_did(monkeypatch: pytest.MonkeyPatch) -> None:
    throughput, trainer = Throughput(), Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    throughput._started, throughput._done_before = 100.0, 0.5
    monkeypatch.setattr("experiments.throughput.time.monotonic", lambda: 110.0)
    monkeypatch.setattr("experiments.throughput.share_done", lambda trainer: 0.6)
    assert throughput.seconds_left(trainer) == pytest.approx(40.0)
    throughput._done_before = 0.6
    assert throughput.seconds_left(trainer) is None
