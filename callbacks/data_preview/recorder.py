"""Record the first batches of a DataModule as a network receives them: augmented and converted on the device."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from callbacks.data_preview.recorded import RecordedSplit
from callbacks.data_preview.samples import as_batch
from datamodules.loading.seeded_batches import NotReadYet
from lightning_modules.interfaces import EpisodeSource

SPLITS = {
    "training": ("fit", "train_dataloader"),
    "validation": ("validate", "val_dataloader"),
    "test": ("test", "test_dataloader"),
    "prediction": ("predict", "predict_dataloader"),
}
"""For each split, the method of the Trainer and of the DataModule."""


class Recorder(LightningModule):
    """Module without parameters that keeps the batches it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.split = RecordedSplit("")

    def _record(self, batch: Any, loader: int = 0) -> None:
        if loader == 0:
            self.split.batches.append(as_batch(batch))
        if loader or self.split.is_complete:
            raise StopIteration  # ends the loop of the Trainer

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.split.batches.append(as_batch(batch))
        self.trainer.should_stop = self.split.is_complete

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._record(batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._record(batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._record(batch, dataloader_idx)

    def configure_optimizers(self) -> None:
        """Return no optimizer."""


def record_splits(data: LightningDataModule, names: Sequence[str], **options: Any) -> list[RecordedSplit]:
    """Record the first batches of some splits of a DataModule. Splits without a DataLoader are left out.

    Args:
        data: the DataModule.
        names: keys of `SPLITS`.
        options: further arguments of the Trainer, such as `precision`.

    Raises:
        TypeError: if the samples depend on the network.
    """
    if isinstance(data, EpisodeSource):
        raise TypeError(
            f"{type(data).__name__} has no samples before training, because its states are those that the policy in "
            f"training visits: train with fit, and look at the figures of the run"
        )
    recorder, found = Recorder(), []
    data.prepare_data()
    for name in names:
        method, loader = SPLITS[name]
        if not is_overridden(loader, data):
            continue
        recorder.split = split = RecordedSplit(name)
        with _silent():
            trainer = Trainer(
                accelerator="cpu", devices=1, max_epochs=1, limit_val_batches=0 if method == "fit" else None,
                num_sanity_val_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, use_distributed_sampler=False, **options,
            )  # fmt: skip
            try:
                getattr(trainer, method)(recorder, datamodule=data)
            except NotReadYet as error:
                raise ValueError(
                    f"{type(data).__name__} has no {name} samples yet, because the method makes them before training: "
                    f"train with fit, or give the data a folder of samples"
                ) from error
        loaders: Any = getattr(trainer, "train_dataloader" if method == "fit" else f"{loader}s")
        several = loaders if isinstance(loaders, list | tuple) else [loaders]
        split.loaders = len(several)
        split.dataset = getattr(several[0], "dataset", None) if several else None
        split.size = len(split.dataset) if hasattr(split.dataset, "__len__") else None
        if split.samples:
            found.append(split)
    if not found:
        raise ValueError(f"{type(data).__name__} has no sample for {' or '.join(names)}")
    return found


@contextmanager
def _silent() -> Any:
    """Hide what a Trainer says about itself; the splits are not trained on."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
