"""Certify any classifier on the test set by randomised smoothing."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.certification.curves import (
    accuracy_name,
    accuracy_table,
    certification_summary,
    draw_certified_curves,
    is_tight,
    read_log,
)
from callbacks.certification.log import CertificationLog, row_of
from callbacks.certification.progress import CertificationProgress
from datamodules.arguments import at_least, positive
from datamodules.files.whole_files import write_csv, write_text
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.stores import Row
from lightning_modules.interfaces import Classifier, SmoothedClassifier, require
from lightning_modules.robustness.certificates.modes import BLOCK, Mode, Predict
from lightning_modules.robustness.certificates.votes import GaussianSmoothing, VoteCounter
from lightning_modules.training.logging import log_same
from lightning_modules.training.results_directory import results_directory
from lightning_modules.training.tested_images import TestedImages, require_testing


class Certification(Callback):
    """Certify any classifier on the test set before other test metrics are computed, on any number of ranks.

    The classifier is smoothed as in Cohen et al. (2019), unless it is a `SmoothedClassifier`, which defines its own
    smoothing. The callback writes the log (see `log.py`), `certified_accuracy.csv`, `certification_summary.json` and
    `figures/certified_accuracy.png` to the run directory. It logs `test/acr`, `test/certified_accuracy_<radius>`,
    `test/abstained` and `test/mean_draws`.

    An interrupted certification resumes if it is started again in the same run directory, even with a different number
    of ranks. Finished images are kept; images that were in progress are certified again from the start.

    After the certification, the usual test runs with one forward pass for each image. To skip most of this test, set
    `trainer.limit_test_batches: 1`, which does not limit the certification. If a run is tested twice
    (`checkpoint.also_test_best`), the files of the second checkpoint are written to a separate folder,
    `certification_best`.

    Args:
        sigma: standard deviation of the noise, in pixel units.
        mode: rule that chooses the number of noise samples per image.
            `lightning_modules.robustness.certificates.FixedSampling` is the published procedure; `Anytime`, `Curve`,
            `InputSpecific` and `Stages` need fewer samples.
        batch_size: number of noise samples per batch on each rank; a CPU evaluates at most 100 at once.
        skip: step between certified images: every `skip`-th image is certified. Published results often use 20 for
            CIFAR-10 and 100 for ImageNet.
        max: only images at positions below `max` in the test set are certified; None means no limit.
        share: `images` shards the images over ranks. `draws` shards the noise samples of each image over ranks, which
            is useful if images are few or costly.
        seed: random seed of the noise. The noise samples do not depend on the batch size or the number of ranks.
        radii: radii at which certified accuracy is logged, in pixel units. None means 0, 0.25, ..., 1.5, and also the
            `radius` of the mode if it has one. For a mode with a `grid`, None means the first seven radii of the grid.
            A mode with a `radius` or `grid` gives only lower bounds at all other radii.
        channels_last: whether the network runs in the channels-last memory format, in which convolutions in mixed
            precision are often faster. A `SmoothedClassifier` then receives images and noise in this format.
    """

    def __init__(
        self,
        sigma: float,
        mode: Mode,
        batch_size: int = 1000,
        skip: int = 1,
        max: int | None = None,
        share: Literal["images", "draws"] = "images",
        seed: int = 0,
        radii: Sequence[float] | None = None,
        channels_last: bool = False,
    ) -> None:
        positive(sigma=sigma)
        at_least(1, batch_size=batch_size, skip=skip, max=max)
        at_least(0, seed=seed, radii=None if radii is None else min(radii, default=None))
        self.sigma = sigma
        self.mode = mode
        self.batch_size = batch_size
        self.skip = skip
        self.max = max
        self.share = share
        self.seed = seed
        self.radii = default_radii(mode) if radii is None else list(radii)
        self.channels_last = channels_last
        self.results: dict[str, float] = {}
        self._first_tested: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "test":
            return
        if not isinstance(pl_module, SmoothedClassifier):
            require(pl_module, Classifier, "Certification")
        require_testing(trainer, "Certification")
        _require_single(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images = TestedImages(trainer, "Certification")
        positions = images.chosen(self.skip, self.max)
        smoothed = self._smooth(trainer, pl_module)
        settings = {
            "sigma": self.sigma,
            **self.mode.settings,
            "certificate": smoothed.certificate,
            "seed": self.seed,
            "block": BLOCK,
            "skip": self.skip,
            "max": self.max,
            "num_images": len(positions),
            **images.settings(pl_module, positions),
        }
        with results_directory(trainer) as run_directory:
            directory = run_directory / self._folder(trainer)
            log = CertificationLog(directory, settings, with_radius=not isinstance(self.mode, Predict))
            remedy = f"use another run directory, or remove {log.store.folder} to start again"
            with ResumableMap(log.store, settings, log.settings_path, remedy, lambda: trainer.received_sigterm) as job:
                job.peers.on_first_rank(lambda: log.remove_tables(positions))
                self._certify(trainer, pl_module, smoothed, images, log, positions, job)
                job.peers.on_first_rank(log.merge)
                self.results = self._write_results(log, job)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in self.results.items():
            log_same(pl_module, f"test/{name}", value)

    def _folder(self, trainer: Trainer) -> str:
        """Return the folder in the run directory for the files of the current test."""
        tested = Path(str(trainer.ckpt_path or "")).stem
        if self._first_tested is None:
            self._first_tested = tested
        return "" if tested == self._first_tested else f"certification_{tested}"

    def _smooth(self, trainer: Trainer, pl_module: LightningModule) -> SmoothedClassifier:
        if isinstance(pl_module, SmoothedClassifier):
            return _ChannelsLast(pl_module) if self.channels_last else pl_module
        layout = torch.channels_last if self.channels_last else torch.contiguous_format

        def network(noisy: Tensor) -> Tensor:
            noisy = noisy.contiguous(memory_format=layout) if noisy.ndim == 4 else noisy
            return pl_module(trainer.precision_plugin.convert_input(noisy))

        return GaussianSmoothing(network)

    def _certify(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        smoothed: SmoothedClassifier,
        images: TestedImages,
        log: CertificationLog,
        positions: range,
        job: ResumableMap,
    ) -> None:
        """Certify the images of this rank, and then wait until the other ranks have certified theirs."""
        together = self.share == "draws" and trainer.world_size > 1
        rank, world_size = (trainer.global_rank, trainer.world_size) if together else (0, 1)

        def add_over_processes(counts: Tensor) -> None:
            job.peers.check()
            torch.distributed.all_reduce(counts)

        def after_batch(num_draws: int) -> None:
            progress.show(num_draws)
            job.peers.check()

        def rows(places: list[int]) -> Iterator[tuple[int, Row]]:
            for image in counter.certify(images[positions[place]] for place in places):
                yield positions.index(image.index), row_of(image)

        counter = VoteCounter(
            smoothed,
            self.mode,
            self.sigma,
            self.batch_size,
            self.seed,
            pl_module.device,
            rank,
            world_size,
            add_over_processes if together else None,
            after_batch,
        )
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        shown_radii = [0.0] if isinstance(self.mode, Predict) else self.radii
        with (
            _other_display_stopped(trainer),
            CertificationProgress(log.rows, len(positions), shown_radii, shown) as progress,
            trainer.precision_plugin.forward_context(),
        ):
            job.run(positions, rows, together=together, progress=lambda: progress.show(counter.num_draws))

    def _write_results(self, log: CertificationLog, job: ResumableMap) -> dict[str, float]:
        if isinstance(self.mode, Predict):
            rows = log.rows().values()
            return {
                "smoothed_accuracy": sum(row["correct"] == "1" for row in rows) / len(rows),
                "abstained": sum(row["predict"] == "-1" for row in rows) / len(rows),
            }
        certificates = read_log(log.sidecar)
        results = certification_summary(certificates, self.radii)

        def write() -> None:
            name = f"sigma {self.sigma:g}"
            logs, settings = {name: certificates}, {name: log.settings}
            table = accuracy_table(logs, self.radii, settings)
            write_csv(log.table, table)
            text = json.dumps({**results, **self._meaning(log.settings)}, indent=2)
            write_text(log.summary, text + "\n")
            draw_certified_curves(logs, log.figure, settings)

        job.peers.on_first_rank(write)
        return results

    def _meaning(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Describe how the values of the summary were computed, and say which of the values are only lower bounds."""
        asked: list[tuple[str, float | None]] = [("acr", None), *((accuracy_name(r), r) for r in self.radii)]
        found_by = ["sigma", *self.mode.settings, "certificate", "num_images"]
        return {
            "lower_bounds": [name for name, radius in asked if not is_tight(settings, radius)],
            "settings": {key: settings[key] for key in found_by},
        }


def default_radii(mode: Mode) -> list[float]:
    """Return the default radii at which certified accuracy is logged, including the radii of the mode."""
    if "grid" in mode.settings:
        return [round(mode.settings["grid"] * place, 10) for place in range(7)]
    target = mode.settings.get("radius")
    return sorted({0.25 * place for place in range(7)} | ({target} if target is not None else set()))


class _ChannelsLast:
    """Pass images and noise to a smoothed classifier in channels-last memory format."""

    def __init__(self, smoothed: SmoothedClassifier) -> None:
        self.smoothed = smoothed
        self.certificate = smoothed.certificate

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        image, noise = (each.contiguous(memory_format=torch.channels_last) for each in (image, noise))
        return self.smoothed.smoothed_logits(image, noise, sigma)

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        return self.smoothed.certified_radius(probability, sigma)


def _require_single(trainer: Trainer) -> None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if sum(isinstance(callback, Certification) for callback in callbacks) > 1:
        raise ValueError(
            "trainer.callbacks has more than one Certification, and their files and metrics would have the same names: "
            "if the experiment's own configuration has one, leave out configs/callbacks/certification.yaml and change "
            "the existing one; if it is the last callback, options such as --trainer.callbacks.sigma 0.5 change it"
        )


@contextmanager
def _other_display_stopped(trainer: Trainer) -> Iterator[None]:
    """Stop other live displays in this context, because a terminal can show only one display at a time."""
    progress = getattr(trainer.progress_bar_callback, "progress", None)
    if progress is not None:
        progress.stop()
    try:
        yield
    finally:
        if progress is not None:
            progress.start()
