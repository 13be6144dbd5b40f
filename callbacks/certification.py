"""Certifies the test set of any classifier by randomised smoothing."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.certification_log import CertificationLog, write_atomically
from callbacks.certification_progress import CertificationProgress
from callbacks.certified_curves import accuracy_table, draw_curves, read_log, summary
from lightning_modules.interfaces import Classifier, SmoothedClassifier, require
from lightning_modules.robustness.certification_modes import BLOCK, Mode, Predict
from lightning_modules.robustness.smoothed_votes import GaussianSmoothing, LabelledImage, VoteCounter

SECONDS_BETWEEN_LOOKS = 0.5


class TestImages:
    """Single images of the test set, as the module sees them in testing, on its device.

    Args:
        trainer: during testing.
        loader: its test DataLoader; its order does not matter, nor which process has it.

    Raises:
        TypeError: if the set cannot be read by position.
    """

    __test__ = False  # no test for pytest

    def __init__(self, trainer: Trainer, loader: DataLoader) -> None:
        self.trainer = trainer
        self.loader = loader
        if not (hasattr(loader.dataset, "__getitem__") and hasattr(loader.dataset, "__len__")):
            raise TypeError(f"Certification reads images by position, and {type(loader.dataset).__name__} has none")
        self.request: Any = None
        if loader.batch_size is None and loader.batch_sampler is None:
            self.request = next(iter(loader.sampler))
            if not hasattr(self.request, "indices"):
                raise TypeError("Certification needs a sampler of single positions or of requests with `indices`")

    def __len__(self) -> int:
        return len(self.loader.dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> LabelledImage:
        """Reads one image.

        Args:
            position: in the set.

        Raises:
            ValueError: if the image is not in [0, 1].
            TypeError: if the set does not give batches with `image` and `label`.
        """
        dataset: Any = self.loader.dataset
        if self.request is None:
            batch = self.loader.collate_fn([dataset[position]])
        else:
            batch = self.loader.collate_fn(
                dataset[self.request._replace(indices=torch.tensor([position]), global_size=1)]
            )
        hooks: Any = self.trainer.datamodule or self.trainer.lightning_module  # type: ignore[attr-defined]
        batch = self.trainer.strategy.batch_to_device(hooks.on_before_batch_transfer(batch, 0))
        if not (isinstance(batch, dict) and {"image", "label"} <= batch.keys()):
            raise TypeError("Certification needs batches that are dictionaries with `image` and `label`")
        image = batch["image"][0]
        lowest, highest = float(image.min()), float(image.max())
        if not image.is_floating_point() or not 0 <= lowest <= highest <= 1:
            raise ValueError(
                f"image {position} is {image.dtype} in {lowest:g}...{highest:g}, and Certification needs images in "
                f"[0, 1]: sigma and radius are in pixel units"
            )
        return LabelledImage(position, image.float(), int(batch["label"][0]))


def hash_of_weights(module: torch.nn.Module) -> str:
    """Changes when any parameter or buffer changes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Certification(Callback):
    """Certifies the test set of any classifier, on any number of processes, before its other test metrics are computed.

    The classifier is smoothed as Cohen et al. (2019) do, or as it says itself where it is a `SmoothedClassifier`. In
    the run directory it writes the log (see `certification_log.py`), `certified_accuracy.csv`,
    `certification_summary.json` and `figures/certified_accuracy.png`, and it logs `test/acr`,
    `test/certified_accuracy_<radius>`, `test/abstained` and `test/mean_draws`.

    An interrupted certification goes on where it was when it is started again in the same run directory, on however
    many processes. Only images that were under way are begun again.

    Afterwards the trainer tests as it always does, one evaluation for each image. `trainer.limit_test_batches: 1`
    shortens that, and not the certification, where it is not wanted.

    Args:
        sigma: standard deviation of the noise, in pixel units. mode: how many draws an image is given:
        `lightning_modules.robustness.certification_modes.Fixed` as published, or one of
            `lightning_modules.robustness.fewer_draws`.
        batch_size: draws that each process evaluates at once. skip: every which image of the set is certified;
        CIFAR-10 is often reported with 20, ImageNet with 100. max: positions from here on are left out; None leaves
        out none. share: what processes share: `images` gives each its own, `draws` lets all work on the same ones,
        for few or costly images. seed: of the noise. With it every draw is the same, whatever the batch size and the
        number of processes. radii: at which certified accuracy is logged, in pixel units. channels_last: whether the
        network computes in that memory layout, often faster for convolutions in mixed precision.

    Raises:
        ValueError: if an argument is out of range.
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
        radii: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
        channels_last: bool = False,
    ) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if skip < 1:
            raise ValueError(f"skip must be at least 1, got {skip}")
        if max is not None and max < 1:
            raise ValueError(f"max must be at least 1, got {max}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if any(radius < 0 for radius in radii):
            raise ValueError(f"radii must be at least 0, got {list(radii)}")
        self.sigma = sigma
        self.mode = mode
        self.batch_size = batch_size
        self.skip = skip
        self.max = max
        self.share = share
        self.seed = seed
        self.radii = list(radii)
        self.channels_last = channels_last
        self.results: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "test":
            return
        if not isinstance(pl_module, SmoothedClassifier):
            require(pl_module, Classifier, "Certification")
        if trainer.limit_test_batches == 0:
            raise ValueError("trainer.limit_test_batches 0 leaves out testing and with it Certification: set it to 1")
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
            raise ValueError(
                f"Certification needs a whole network in each process, and trainer.strategy "
                f"{type(trainer.strategy).__name__} divides it: use ddp"
            )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images = TestImages(trainer, _only_loader(trainer))
        positions = range(len(images) if self.max is None else min(self.max, len(images)))[:: self.skip]
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            positions = positions[: trainer.world_size]
        smoothed = self._smoothed(trainer, pl_module)
        settings = self._settings(trainer, pl_module, smoothed, images, positions)
        with _run_directory(trainer) as directory:
            log = CertificationLog(directory, settings, with_radius=not isinstance(self.mode, Predict))
            if trainer.is_global_zero:
                log.prepare(positions)
            trainer.strategy.barrier("the certification's settings are written")
            log.check()
            finished = log.rows()
            trainer.strategy.barrier("the finished rows are read")
            self._certify(
                trainer, pl_module, smoothed, images, [at for at in positions if at not in finished], log, positions
            )
            self.results = self._write_results(trainer, log)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in self.results.items():
            # All processes have the same value, and a maximum leaves it as it is.
            pl_module.log(f"test/{name}", value, reduce_fx="max", sync_dist=True, batch_size=1)

    def _smoothed(self, trainer: Trainer, pl_module: LightningModule) -> SmoothedClassifier:
        if isinstance(pl_module, SmoothedClassifier):
            return pl_module
        layout = torch.channels_last if self.channels_last else torch.contiguous_format

        def network(noisy: Tensor) -> Tensor:
            noisy = noisy.contiguous(memory_format=layout) if noisy.ndim == 4 else noisy
            return pl_module(trainer.precision_plugin.convert_input(noisy))

        return GaussianSmoothing(network)

    def _settings(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        smoothed: SmoothedClassifier,
        images: TestImages,
        positions: range,
    ) -> dict[str, Any]:
        first = images[0]
        data = trainer.datamodule or images.loader.dataset  # type: ignore[attr-defined]
        return {
            "sigma": self.sigma,
            **self.mode.settings,
            "certificate": smoothed.certificate,
            "seed": self.seed,
            "block": BLOCK,
            "skip": self.skip,
            "max": self.max,
            "num_images": len(positions),
            "dataset": f"{type(data).__name__} of {len(images)} images",
            "first_image": hashlib.blake2b(first.image.cpu().numpy().tobytes(), digest_size=16).hexdigest(),
            "module": f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
            "weights": hash_of_weights(pl_module),
            "precision": str(trainer.precision),
            "device": pl_module.device.type,
        }

    def _certify(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        smoothed: SmoothedClassifier,
        images: TestImages,
        pending: list[int],
        log: CertificationLog,
        positions: range,
    ) -> None:
        """Does this process's part, and waits for the others by looking at their files: a collective would time out."""
        together = self.share == "draws" and trainer.world_size > 1
        rank, world_size = (trainer.global_rank, trainer.world_size) if together else (0, 1)
        own = pending if together else pending[trainer.global_rank :: trainer.world_size]
        counter = VoteCounter(
            smoothed,
            self.mode,
            self.sigma,
            self.batch_size,
            self.seed,
            pl_module.device,
            rank,
            world_size,
            torch.distributed.all_reduce if together else None,
        )
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        shown_radii = [0.0] if isinstance(self.mode, Predict) else self.radii
        with (
            _other_display_stopped(trainer),
            CertificationProgress(log.rows, len(positions), shown_radii, shown) as progress,
            trainer.precision_plugin.forward_context(),
        ):
            for image in counter.certify(images[at] for at in own):
                if trainer.is_global_zero or not together:
                    log.append(image, trainer.global_rank)
                progress.show(counter.num_draws)
            log.close()
            if trainer.is_global_zero:
                while not log.rows().keys() >= set(positions):
                    progress.show(None)
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                log.merge()
            while not log.sidecar.is_file():
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def _write_results(self, trainer: Trainer, log: CertificationLog) -> dict[str, float]:
        if isinstance(self.mode, Predict):
            rows = log.rows().values()
            return {
                "smoothed_accuracy": sum(row["correct"] == "1" for row in rows) / len(rows),
                "abstained": sum(row["predict"] == "-1" for row in rows) / len(rows),
            }
        certificates = read_log(log.sidecar)
        results = summary(certificates, self.radii)
        if trainer.is_global_zero:
            name = f"sigma {self.sigma:g}"
            table = accuracy_table({name: certificates}, self.radii, self.mode.alpha)
            write_atomically(log.directory / "certified_accuracy.csv", table.to_csv(index=False))
            write_atomically(log.directory / "certification_summary.json", json.dumps(results, indent=2) + "\n")
            draw_curves({name: certificates}, log.directory / "figures" / "certified_accuracy.png")
        return results


def _only_loader(trainer: Trainer) -> DataLoader:
    loaders = trainer.test_dataloaders
    if isinstance(loaders, DataLoader):
        return loaders
    if isinstance(loaders, list | tuple) and len(loaders) == 1 and isinstance(loaders[0], DataLoader):
        return loaders[0]
    raise TypeError("Certification needs one test DataLoader")


@contextmanager
def _run_directory(trainer: Trainer) -> Iterator[Path]:
    """Where to write; in a `fast_dev_run`, which leaves nothing behind, a directory that is removed again."""
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        yield Path(trainer.log_dir or trainer.default_root_dir)  # on every process: it is broadcast
        return
    directory = trainer.strategy.broadcast(tempfile.mkdtemp() if trainer.is_global_zero else None)
    try:
        yield Path(str(directory))
        trainer.strategy.barrier("the results are read")
    finally:
        if trainer.is_global_zero:
            shutil.rmtree(str(directory))


@contextmanager
def _other_display_stopped(trainer: Trainer) -> Iterator[None]:
    """A terminal shows one live display at a time."""
    progress = getattr(trainer.progress_bar_callback, "progress", None)
    if progress is not None:
        progress.stop()
    try:
        yield
    finally:
        if progress is not None:
            progress.start()
