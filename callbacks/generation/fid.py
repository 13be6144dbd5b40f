"""Measure FID, KID and IS of generated images."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from callbacks.drawing.curves import draw_table
from callbacks.generation.extraction import Extractor, Shares, features_of
from callbacks.generation.generated_blocks import GeneratedBlocks
from callbacks.generation.image_lists import AnySet, images_of_set
from callbacks.generation.measurement import (
    Described,
    compute_moments,
    generation_metrics,
    statistics_file,
    write_statistics,
)
from callbacks.generation.statistics import kid_basis
from datamodules.arguments import at_least, one_of
from datamodules.classification.image_sets import ImageSet
from datamodules.files.whole_files import save_figure, write_csv
from datamodules.jobs.peers import Peers
from datamodules.prompts.captioned_set import CaptionedSet
from datamodules.restoration.images import Split
from lightning_modules.interfaces import Generator, SeededData, Table, data_with, require
from lightning_modules.networks.fid_inception import FIDInception
from lightning_modules.training.evaluation_mode import in_evaluation_mode
from lightning_modules.training.logging import log_same
from lightning_modules.training.tested_images import require_whole_network

GENERATED = "generated_features"
"""Name of a folder in the run directory. While images are generated, it stores their features."""
SAME = ["stage", "epoch", "step", "checkpoint", "extractor", "images"]
"""Columns that identify a measurement; a new row replaces an earlier row with equal values in these columns."""


class FID(Callback):
    """Compute FID, KID and IS of generated images, on any number of ranks.

    The metrics are `fid` and `kid` and, if the weights include a classifier, `is`, with the prefix `val/` or `test/`.
    If the extractor is not FID's Inception network, the metrics are called `fd_<extractor_name>` and
    `kd_<extractor_name>`, and cannot be compared with published FIDs. If the number of images does not exceed the
    number of features, FID depends on the number of images, and the metric's name ends with `_n<images>`.

    In the run directory, the callback writes a table with a row for each measurement (`fid.csv`), samples of each
    measurement (`figures/samples_*.png`) and a plot of the metrics over training epochs (`figures/fid.png`). A test
    also writes `generated_statistics.npz`, which `train.py fid` can compare with other statistics or folders.

    Images are generated in blocks. The random numbers of a block depend only on (seed, block), so the images are the
    same for any number of ranks. Pixel values are rounded down to bytes, as in an image file. The features of each
    block are stored in the run directory, so a killed measurement resumes after the last finished block. Features and
    statistics of the real images are cached in `cache_dir`. All ranks must have access to the run directory and to
    `cache_dir`.

    Args:
        num_samples: number of images generated in a test. Published results use 50,000 images.
        validation_samples: number of images generated in a validation; 0 measures only in tests.
        every_n_epochs: number of training epochs between two measurements in validation.
        images: dataset of real images; None uses the images of the DataModule.
        split: split of the real images: training, validation or test. Published results use all training images.
        extractor: network that maps images `[B, C, H, W]` in [0, 1] to features `[B, D]`. None uses FID's Inception
            network, `lightning_modules.networks.fid_inception.FIDInception`.
        extractor_name: name of the extractor in metric names, if the extractor is not FID's Inception network.
        batch_size: number of images in a block; the images of a block are generated as one batch.
        exact_kid: whether to compute KID over all pairs of images. If false, 100 random subsets of 1,000 images are
            used, from at most 10,000 real and 10,000 generated images.
        seed: random seed of the generated images.
        num_shown: number of images in the figure of samples, at most `batch_size`.
        cache_dir: folder that caches features and statistics of the real images.
    """

    measures_whole_runs_alone = True
    """Tells the short run that checks `checkpoint.monitor` that this callback logs metrics only in complete runs."""

    def __init__(
        self,
        num_samples: int = 50_000,
        validation_samples: int = 0,
        every_n_epochs: int = 1,
        images: AnySet | None = None,
        split: Split = "training",
        extractor: nn.Module | None = None,
        extractor_name: str | None = None,
        batch_size: int = 100,
        exact_kid: bool = False,
        seed: int = 0,
        num_shown: int = 64,
        cache_dir: str = "runs/features",
    ) -> None:
        at_least(2, num_samples=num_samples, validation_samples=validation_samples or None)
        at_least(1, every_n_epochs=every_n_epochs, batch_size=batch_size)
        at_least(0, validation_samples=validation_samples, seed=seed, num_shown=num_shown)
        one_of(("training", "validation", "test"), split=split)
        self.num_samples = num_samples
        self.validation_samples = validation_samples
        self.every_n_epochs = every_n_epochs
        self.images = images
        self.split: Split = split
        self.network = FIDInception() if extractor is None else extractor
        self.extractor_name = extractor_name
        self.batch_size = batch_size
        self.exact_kid = exact_kid
        self.seed = seed
        self.num_shown = num_shown
        self.cache_dir = Path(cache_dir)
        self.results: dict[str, float] = {}
        self._extractor: Extractor | None = None
        self._real: Described | None = None
        self._measured = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            return  # before training, errors of a later test are raised here
        require(pl_module, Generator, "FID")
        require_whole_network(trainer, "FID")
        self._set(trainer)
        if self._extractor is None:
            self._extractor = Extractor(self.network, self.extractor_name)

    def _set(self, trainer: Trainer) -> AnySet:
        """Return the dataset of real images."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for found in (self.images, getattr(data, "images", None), getattr(data, "training", None)):
            if isinstance(found, AnySet):
                return found
        raise TypeError(
            f"FID.images is not given, and {type(data).__name__} has no dataset of images to compare with: set it to a "
            f"dataset, such as {{class_path: datamodules.classification.cifar.CIFAR10}}"
        )

    # During a validation epoch, callbacks or the module itself may replace the trained weights by averaged weights.
    # The averaged weights are in place when the first batch begins, so images are generated then. A rank without a
    # batch measures at the end of the epoch.

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._validate(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validate(trainer, pl_module)
        self._log(pl_module, "val")

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._measure_once(trainer, pl_module, "test", self.num_samples)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure_once(trainer, pl_module, "test", self.num_samples)
        self._log(pl_module, "test")

    def _validate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING
        skipped = fitting and (trainer.current_epoch + 1) % self.every_n_epochs
        if self.validation_samples and not skipped and not trainer.sanity_checking:
            self._measure_once(trainer, pl_module, "val", self.validation_samples)

    def _measure_once(self, trainer: Trainer, pl_module: LightningModule, stage: str, count: int) -> None:
        if not self._measured:
            self._measured = True
            # During a test, Lightning enables inference mode, in which samplers cannot compute gradients. The random
            # state is restored, so that later steps do not depend on whether the real statistics were cached.
            devices = [pl_module.device] if pl_module.device.type == "cuda" else []
            evaluating = in_evaluation_mode(trainer, pl_module)
            with torch.random.fork_rng(devices), torch.inference_mode(False), evaluating:
                self.results = self._measure(trainer, pl_module, stage, count)

    def _log(self, pl_module: LightningModule, stage: str) -> None:
        for name, value in self.results.items():
            log_same(pl_module, f"{stage}/{name}", value)
        self.results, self._measured = {}, False

    def _measure(self, trainer: Trainer, pl_module: LightningModule, stage: str, count: int) -> dict[str, float]:
        extractor = self._extractor
        assert extractor is not None
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            count = 2
        blocks = GeneratedBlocks(trainer, pl_module, extractor, count, self.batch_size, self.seed)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            blocks.features(0)
            return {}
        shares = Shares(trainer.global_rank, trainer.world_size, pl_module.device)
        real = self._real_images(trainer, extractor, shares)
        directory = Path(trainer.log_dir or trainer.default_root_dir)  # a broadcast, so every rank must read it
        checkpoint = Path(str(trainer.ckpt_path or "")).stem if stage == "test" else ""
        name = f"val_epoch_{trainer.current_epoch:03d}" if stage == "val" else f"test_{checkpoint}".rstrip("_")
        blocks.picture, blocks.num_shown = directory / "figures" / f"samples_{name}.png", self.num_shown
        feature = blocks.all_features(directory / GENERATED)
        generated = compute_moments("the generated images", feature, extractor.identity, shares, None)
        results = generation_metrics(generated, real, extractor.classifier, self.exact_kid, self.seed, shares)
        row = {
            "stage": stage,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "checkpoint": checkpoint,
            "extractor": extractor.identity["name"],
            "images": count,
            "real": real.name,
            "real_images": real.moments.images,
            "kid_of": kid_basis(count, len(real.feature), self.exact_kid),  # type: ignore[arg-type]
            **results,
        }

        def write() -> None:
            table = write_row(directory / "fid.csv", row)
            if stage == "val":
                draw_over_training(table, row, list(results), directory / "figures" / "fid.png")
            if stage == "test":
                write_statistics(directory / "generated_statistics.npz", generated)
            shutil.rmtree(directory / GENERATED)

        with Peers(directory / GENERATED) as peers:
            peers.on_first_rank(write)
        return results

    def _real_images(self, trainer: Trainer, extractor: Extractor, shares: Shares) -> Described:
        if self._real is None:
            chosen = self._set(trainer)
            if chosen is self.images and isinstance(chosen, ImageSet | CaptionedSet):
                if trainer.local_rank == 0:
                    chosen.fetch_missing()
                trainer.strategy.barrier("the real images are there")
            data = data_with(trainer, SeededData)
            seed = 0 if data is None else data.seed
            images = images_of_set(chosen, self.split, seed, shares.device)
            feature = features_of(images, extractor, self.cache_dir, self.batch_size, shares)
            self._real = compute_moments(images.name, feature, extractor.identity, shares, statistics_file(feature))
        return self._real


def write_row(path: Path, row: dict[str, Any]) -> pd.DataFrame:
    """Add a row to a table file, and return the table. An earlier row of the same measurement is replaced."""
    table = pd.DataFrame([row])
    if path.is_file():
        earlier = pd.read_csv(path, dtype={"checkpoint": str})
        table = pd.concat([earlier.assign(checkpoint=earlier["checkpoint"].fillna("")), table])
    table = table.drop_duplicates(SAME, keep="last")
    write_csv(path, table)
    return table


def draw_over_training(table: pd.DataFrame, row: dict[str, Any], metrics: list[str], path: Path) -> None:
    """Plot metrics over training.

    Earlier validations are plotted only if they measured the same quantities as the latest measurement, `row`.
    """
    same = (table[["stage", "extractor", "images"]] == pd.Series(row)[["stage", "extractor", "images"]]).all(axis=1)
    columns = table[same].sort_values("epoch")[["epoch", *metrics]]
    if len(columns) > 1:
        save_figure(draw_table(Table(columns.to_dict("list"), logarithmic=[metrics[0]])), path)
